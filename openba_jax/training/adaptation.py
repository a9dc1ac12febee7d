"""D-UL2 in the native runner: at evaluations the rates follow the losses of the denoisers
(docs/original.md#d-ul2).

The rule is `openba_jax.objectives.d_ul2`; here is what a run adds: measuring, and the state that
goes to the checkpoint. The target losses are part of that state, so that measured ones are
measured once.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.checkpoints.registry import check_is_model_folder
from openba_jax.errors import UserError
from openba_jax.evaluation.loss import LossOnBatches, local_rows
from openba_jax.files import write_atomically
from openba_jax.models.base import Model
from openba_jax.objectives import d_ul2, ul2
from openba_jax.objectives.mixture import Mixture, get_mixture
from openba_jax.parallel import sharding

PUBLISHED = "published"
"""Stands for the original's list of target losses."""


class AdaptiveBatches(Protocol):
    """Batches whose rates can move; `openba_jax.data.loader.BatchLoader` is one."""

    @property
    def batch_size(self) -> int:
        """Rows of a global batch."""

    @property
    def rates(self) -> tuple[float, ...]:
        """Present rates of the mixture's tasks."""

    def evaluation_batches(
        self, count: int, *, mixture: Mixture | None = None, rows: slice | None = None
    ) -> Sequence[Mapping[str, np.ndarray]]:
        """The same batches at every call."""

    def change_rates(self, step: int, rates: Sequence[float]) -> None:
        """Gives the tasks other rates from a step on."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """How the rates of a run move.

    Attributes:
      mixture: a D-UL2 mixture, the one of the batches.
      target_losses: `"published"`; a JSON file or a mapping of denoisers to losses; or a model
        folder, usually of the model before pruning, whose losses are then measured.
      floor: no rate of a denoiser falls below this; the original has no such bound.
    """

    mixture: Mixture
    target_losses: str | Mapping[str, float] = PUBLISHED
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Checks.

        Raises:
          UserError: the mixture's rates do not move.
        """
        if self.mixture.rule is None:
            raise UserError(
                f"the rates of mixture {self.mixture.name} are fixed; use a d_ul2 mixture."
            )
        if not 0 <= self.floor * len(self.mixture.denoisers) < 1:
            raise UserError(
                f"RATE_FLOOR is {self.floor}; {len(self.mixture.denoisers)} denoisers leave room "
                f"for less than {1 / len(self.mixture.denoisers):.3f}."
            )
        rule = dataclasses.replace(self.mixture.rule, floor=self.floor)
        object.__setattr__(self, "mixture", dataclasses.replace(self.mixture, rule=rule))

    @property
    def source_model(self) -> Path | None:
        """The model folder that the target losses are measured on, if one is."""
        named = self.target_losses
        if isinstance(named, Mapping) or named == PUBLISHED or str(named).endswith(".json"):
            return None
        return model_folder.split_path(named)[0]

    def identity(self) -> dict[str, Any]:
        """What the moves of the rates depend on, ready for JSON.

        Where a file or a model folder lies is not part of it.

        Raises:
          UserError: the target losses cannot be read.
        """
        named = self.target_losses
        targets: Any = named
        if self.source_model is not None:
            check_is_model_folder(str(named))
            _, step = model_folder.split_path(str(named))
            targets = {
                "model": model_folder.load_model(self.source_model).config.to_dict(),
                "step": model_folder.existing_step(self.source_model, step),
            }
        elif named != PUBLISHED:
            targets = dict(named) if isinstance(named, Mapping) else read_target_losses(named)
        return {"target_losses": targets, "floor": self.floor}


class MovingRates:
    """The adaptation of one run."""

    def __init__(
        self,
        adaptation: Adaptation,
        batches: AdaptiveBatches,
        model: Model,
        mesh: Mesh,
        eval_batches: int,
        saved: Mapping[str, Any] | None,
    ) -> None:
        """Starts, or goes on.

        Args:
          adaptation: how.
          batches: whose rates move.
          model: the model that is trained.
          mesh: the mesh.
          eval_batches: batches that the loss of each denoiser is measured on.
          saved: `state` of the checkpoint that the run goes on from; None for a new run.

        Raises:
          UserError: there are no evaluation batches, target losses cannot be had, or the state is
            of another mixture.
        """
        if eval_batches < 1:
            raise UserError(
                f"{adaptation.mixture.name} needs evaluation batches to move its rates by; set "
                "EVAL_STEPS and HELD_OUT, or EVAL_STORES."
            )
        self._mixture = adaptation.mixture
        self._batches = batches
        self._evaluations = _evaluations(batches, model, mesh, self._mixture, eval_batches)
        if saved is None:
            self.targets = _target_losses(adaptation, batches, mesh, eval_batches)
        else:
            self.targets = dict(saved["target_losses"])
            batches.restore(saved["batches"])

    def measure(self, params: Any) -> dict[str, float]:
        """The loss of each denoiser, by name."""
        return {name: evaluate(params)["loss"] for name, evaluate in self._evaluations.items()}

    def move(self, step: int, losses: Mapping[str, float]) -> None:
        """Moves the rates of the batches from a step on."""
        rates = self._mixture.moved_rates(self._batches.rates, losses, self.targets)
        self._batches.change_rates(step, rates)

    def record(self, losses: Mapping[str, float]) -> dict[str, float]:
        """What the log says: for each denoiser its loss, its target and its present rate."""
        total = sum(self._batches.rates)
        present = zip(self._mixture.tasks, self._batches.rates, strict=True)
        return {
            "mean_loss": sum(losses.values()) / len(losses),
            **{f"loss/{name}": loss for name, loss in losses.items()},
            **{f"target/{name}": self.targets[name] for name in losses},
            **{f"rate/{task.name}": rate / total for task, rate in present},
        }

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold, ready for JSON."""
        return {"target_losses": self.targets, "batches": self._batches.state()}


def measured_losses(
    model_dir: str, mixture: Mixture, batches: AdaptiveBatches, mesh: Mesh, count: int
) -> dict[str, float]:
    """The loss of a model on each denoiser of a mixture: what D-UL2 aims at after pruning.

    Args:
      model_dir: a model folder, or `DIR/checkpoints/<step>`.
      mixture: whose denoisers.
      batches: where evaluation batches come from, made with the model's vocabulary.
      mesh: where the model is run.
      count: batches per denoiser.

    Raises:
      UserError: there is no such model, it reads other batches, or there is nothing to evaluate on.
    """
    model = model_folder.load_model(model_folder.split_path(model_dir)[0])
    model.check_layout(mixture.layout)
    shardings = sharding.param_shardings(model.logical_axes(), model.abstract_params(), mesh)
    params = training_state.restore_params(model_dir, model, shardings)
    evaluations = _evaluations(batches, model, mesh, mixture, count)
    return {name: evaluate(params)["loss"] for name, evaluate in evaluations.items()}


def write_target_losses(path: str | Path, losses: Mapping[str, float]) -> None:
    """Writes a file that `Adaptation.target_losses` can name."""
    write_atomically(Path(path), json.dumps(dict(losses), indent=2) + "\n")


def read_target_losses(path: str | Path) -> dict[str, float]:
    """Reads such a file.

    Raises:
      UserError: it is missing, or does not map denoisers to finite numbers.
    """
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
        losses = {str(name): float(loss) for name, loss in read.items()}
        if not all(map(math.isfinite, losses.values())):  # JSON as Python reads it has NaN.
            raise ValueError("a target loss is not finite")
        return losses
    except OSError as error:
        raise UserError(f"target losses {path} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f'{path} holds no target losses; it should look like {{"ul2_r3": 1.154, ...}}.'
        ) from error


def _target_losses(
    adaptation: Adaptation, batches: AdaptiveBatches, mesh: Mesh, count: int
) -> dict[str, float]:
    """The targets of a new run."""
    source = adaptation.target_losses
    if isinstance(source, Mapping):
        targets = dict(source)
    elif source == PUBLISHED:
        names = (f"ul2_{name}" for name in ul2.DENOISERS)
        targets = dict(zip(names, d_ul2.TARGET_LOSSES, strict=True))
    elif adaptation.source_model is None:
        targets = read_target_losses(source)
    else:
        targets = measured_losses(source, adaptation.mixture, batches, mesh, count)
    names_needed = [task.name for task in adaptation.mixture.denoisers]
    if missing := [name for name in names_needed if name not in targets]:
        raise UserError(
            f"target losses {source} lack {', '.join(missing)}; name every denoiser of "
            f"{adaptation.mixture.name}."
        )
    return targets


def _evaluations(
    batches: AdaptiveBatches, model: Model, mesh: Mesh, mixture: Mixture, count: int
) -> dict[str, LossOnBatches]:
    """One evaluation for each denoiser, on the same held-out text."""
    size = batches.batch_size
    rows = local_rows(mesh, size)
    return {
        task.name: LossOnBatches(
            model,
            mesh,
            batches.evaluation_batches(count, mixture=get_mixture(task.name), rows=rows),
            size,
        )
        for task in mixture.denoisers
    }
