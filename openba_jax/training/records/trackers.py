"""Weights & Biases or trackio beside TensorBoard: the same scalars, under the same names."""

from __future__ import annotations

import importlib
import importlib.util
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openba_jax.errors import UserError
from openba_jax.files import write_json
from openba_jax.training.records.metrics import scalars

TRACKERS = ("wandb", "trackio")
"""Packages that can be asked for; their `init` and `log` are alike."""

FILE = "tracker.json"
"""In the model folder: by what a run that goes on finds its earlier records."""


def check_tracker(name: str) -> None:
    """Checks that a tracker is known and installed; "" is none.

    Raises:
      UserError: it is not.
    """
    if name and name not in TRACKERS:
        raise UserError(f"tracker is {name!r}; it must be '' or one of {', '.join(TRACKERS)}.")
    if name and importlib.util.find_spec(name) is None:
        raise UserError(
            f"tracker {name} is not installed; run `pip install {name}`, or leave TRACKER empty."
        )


class Tracker:
    """A run of Weights & Biases or trackio, a `log.Writer`.

    A run that goes on from a checkpoint writes the records after it again, with the same values.
    Weights & Biases takes no step twice, and gets the step as a value, `step`.
    """

    def __init__(self, name: str, project: str, folder: Path, start_step: int) -> None:
        """Opens a run, or goes on in it.

        Args:
          name: of `TRACKERS`.
          project: what runs are shown together with.
          folder: the model folder, whose name the run has.
          start_step: step of the restored checkpoint; 0 for a new run.

        Raises:
          UserError: the tracker cannot be reached, or does not know the user.
        """
        self._name, self._module = name, importlib.import_module(name)
        file = folder / FILE
        known = json.loads(file.read_text(encoding="utf-8")) if start_step and file.exists() else {}
        run = known.get(name) or f"{folder.name}-{secrets.token_hex(4)}"
        write_json(file, {**known, name: run})
        # Weights & Biases knows a run by its id, trackio by its name.
        own = {"id": run, "dir": str(folder)} if name == "wandb" else {}
        try:
            self._module.init(project=project, name=run, resume="allow", **own)
        except Exception as error:  # Each has errors of its own.
            what = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{name} does not start ({what}); see to it, or leave TRACKER empty."
            ) from error
        if name == "wandb":
            self._module.define_metric("*", step_metric="step")

    def write(self, split: str, step: int, values: Mapping[str, Any]) -> None:
        """Sends the numbers of one record."""
        found = scalars(split, values)
        if found and self._name == "wandb":
            self._module.log({"step": step, **found})
        elif found:
            self._module.log(found, step=step)

    def flush(self) -> None:
        """Nothing to do: trackers send by themselves."""

    def close(self) -> None:
        """Sends what is left."""
        self._module.finish()
