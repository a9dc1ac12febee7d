"""Steps whose loss or gradient is not finite: the run stops, or skips them and counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openba_jax.errors import UserError

POLICIES = ("stop", "skip")


def check_policy(policy: str) -> None:
    """Checks the name of a policy.

    Raises:
      UserError: There is no policy of that name.
    """
    if policy not in POLICIES:
        raise UserError(f"not_finite is {policy!r}; it must be 'stop' or 'skip'.")


def check_finite(
    steps: Sequence[Mapping[str, Any]], step: int, folder: Path, newest: int | None
) -> None:
    """Checks the metrics of steps; those of a skipped one are 0.

    Args:
      steps: their metrics, on the host.
      step: number of steps taken.
      folder: the model folder, for the message.
      newest: step of the newest checkpoint, for the message.

    Raises:
      UserError: A sum of the loss or the norm of the gradients is not finite.
    """
    names = [name for name in (steps[0] if steps else ()) if name.endswith("_sum")]
    for name in (*names, "grad_norm"):
        if not all(math.isfinite(float(values[name])) for values in steps):
            raise UserError(
                f"{name} is not finite in the steps before {step} of {folder}, which began with "
                "finite parameters; lower the learning rate, look at the data, or let openba-train "
                f"go on by NOT_FINITE = 'skip' ({_what_is_saved(newest)})."
            )


class Skips:
    """Counts the steps that were skipped.

    Attributes:
      total: since the run began.
    """

    def __init__(self, most: int, total: int = 0, in_a_row: int = 0) -> None:
        """Goes on from the counts of a checkpoint; `most` in a row are allowed."""
        self._most, self.total, self._in_a_row = most, total, in_a_row

    def count(
        self, steps: Sequence[Mapping[str, Any]], step: int, folder: Path, newest: int | None
    ) -> None:
        """Counts on; the arguments are those of `check_finite`.

        Raises:
          UserError: More steps than allowed were skipped in a row.
        """
        for each in steps:
            skipped = bool(each.get("skipped", False))
            self.total += skipped
            self._in_a_row = self._in_a_row + 1 if skipped else 0
            if self._in_a_row > self._most:
                raise UserError(
                    f"the loss or a gradient is not finite in {self._in_a_row} steps in a row "
                    f"before step {step} of {folder}, and max_skipped is {self._most}; lower the "
                    f"learning rate or look at the data ({_what_is_saved(newest)})."
                )

    def state(self) -> dict[str, int]:
        """What a checkpoint must hold."""
        return {"total": self.total, "in_a_row": self._in_a_row}


def _what_is_saved(newest: int | None) -> str:
    return "there is no checkpoint yet" if newest is None else f"step {newest} is saved"
