"""The native runner's batches in T5X: functions of (seed, step), so that a run goes on exactly.

For `gin/runs/t5x/native_batches.gin`; otherwise T5X reads the same tasks through seqio.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu.data.dataset_iterator import ArraySpec, DatasetIterator
from t5x import trainer, utils

from openba_jax.data.loader import BatchLoader
from openba_jax.errors import UserError
from openba_jax.files import write_atomically
from openba_jax.models.config import ModelConfig
from openba_jax.models.registry import model_of
from openba_jax.objectives.mixture import get_mixture, mixture_names
from openba_jax.parallel.sharding import make_mesh
from openba_jax.t5x.checkpoints import newest_step
from openba_jax.training.adaptation import Adaptation, MovingRates

Batch = Mapping[str, np.ndarray]

RATES = "rates"
"""Folder in the T5X folder with the rates of D-UL2 after every evaluation: `<step>.json`."""


def fixed_mixture(name: str) -> str:
    """`name`, unless it is a mixture of which seqio cannot move the rates.

    Raises:
      UserError: it is a D-UL2 mixture.
    """
    if name in mixture_names() and get_mixture(name).rule is not None:
        raise UserError(
            f"the rates of {name} move during training and seqio's cannot; give "
            "gin/runs/t5x/native_batches.gin after the run's gin file."
        )
    return name


def native_batches(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: object = None,
    *,
    batches: BatchLoader,
    model_dir: str,
) -> StepBatches:
    """A `get_dataset_fn`: batches from the step on that the newest checkpoint has.

    Args:
      cfg: not read.
      shard_id: which part of each batch.
      num_shards: of so many.
      feature_converter_cls: not needed.
      batches: where they come from.
      model_dir: T5X folder of the run.

    Raises:
      UserError: the batch does not divide into shards.
    """
    del cfg, feature_converter_cls
    rows = _shard(batches.batch_size, shard_id, num_shards)
    return StepBatches(batches, rows, newest_step(model_dir) or 0)


def native_evaluation(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    eval_steps: int,
    feature_converter_cls: object = None,
    *,
    batches: BatchLoader,
) -> dict[str, FixedBatches]:
    """A `train_eval_get_dataset_fn`: held-out batches of the mixture, and of each task of it.

    Args:
      cfg: not read.
      shard_id: which part of each batch.
      num_shards: of so many.
      eval_steps: batches of each.
      feature_converter_cls: not needed.
      batches: where they come from.

    Raises:
      UserError: nothing is held out, or the batch does not divide into shards.
    """
    del cfg, feature_converter_cls
    rows = _shard(batches.batch_size, shard_id, num_shards)
    names = dict.fromkeys([*(task.name for task in batches.mixture.tasks), batches.mixture.name])
    return {
        name: FixedBatches(
            batches.evaluation_batches(
                eval_steps,
                mixture=batches.mixture if name == batches.mixture.name else get_mixture(name),
                rows=rows,
            )
        )
        for name in names
    }


class StepBatches(DatasetIterator):
    """The batches of one step after the other."""

    def __init__(self, batches: BatchLoader, rows: slice, step: int) -> None:
        """Takes the rows to build and the first step."""
        self._batches, self._rows, self._step = batches, rows, step

    def __next__(self) -> Batch:
        """The batch of the next step."""
        batch = self._batches.batch(self._step, self._rows)
        self._step += 1
        return batch

    @property
    def element_spec(self) -> dict[str, ArraySpec]:
        """Types and shapes of this process's rows."""
        return _specs(self._batches.batch(self._step, self._rows))


class FixedBatches:
    """The same batches every time."""

    def __init__(self, batches: list[dict[str, np.ndarray]]) -> None:
        """Keeps them."""
        self._batches = batches
        self.element_spec = _specs(batches[0])

    def __iter__(self) -> Iterator[Batch]:
        """From the first one on."""
        return iter(self._batches)


class MoveRates(trainer.BaseAction):
    """After an evaluation the rates of the batches follow the losses of the denoisers (D-UL2)."""

    def __init__(
        self,
        adaptation: Adaptation,
        batches: BatchLoader,
        config: ModelConfig,
        eval_steps: int,
        model_dir: str,
    ) -> None:
        """Starts, or goes on from the newest checkpoint.

        Args:
          adaptation: how.
          batches: whose rates move.
          config: of the model.
          eval_steps: batches that losses are measured on.
          model_dir: T5X folder of the run.

        Raises:
          UserError: there are several processes, of which T5X tells one alone what it measured; or
            there is nothing to measure on.
        """
        if jax.process_count() > 1:
            raise UserError("D-UL2 runs in T5X on one process only; use openba-train on several.")
        self._folder = Path(model_dir) / RATES
        saved = _saved_rates(self._folder, newest_step(model_dir) or 0)
        self._names = [task.name for task in adaptation.mixture.denoisers]
        self._moving = MovingRates(
            adaptation, batches, model_of(config), make_mesh(), eval_steps, saved
        )

    def run(self, train_state: Any, metrics_by_task: Mapping[str, Any]) -> bool:
        """Moves; training goes on."""
        step = int(train_state.step)
        losses = {name: float(metrics_by_task[name]["loss"].value) for name in self._names}
        self._moving.move(step, losses)
        record = {**self._moving.record(losses), "state": self._moving.state()}
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / f"{step}.json", json.dumps(record, indent=2) + "\n")
        return False


def rate_actions(
    adaptation: Adaptation | None,
    batches: BatchLoader,
    config: ModelConfig,
    eval_steps: int,
    model_dir: str,
) -> dict[str, list[trainer.BaseAction]]:
    """`actions` of `t5x.train`; arguments as those of `MoveRates`, none where rates are fixed."""
    if adaptation is None:
        return {}
    return {"TRAIN_EVAL": [MoveRates(adaptation, batches, config, eval_steps, model_dir)]}


def _saved_rates(folder: Path, step: int) -> Mapping[str, Any] | None:
    """The state as it was at a step; records of later steps are of work that was lost."""
    steps = [int(file.stem) for file in folder.glob("*.json")] if step else []
    valid = [found for found in steps if found <= step]
    if not valid:
        return None
    return dict(json.loads((folder / f"{max(valid)}.json").read_text(encoding="utf-8"))["state"])


def _shard(batch_size: int, shard_id: int, num_shards: int) -> slice:
    size, rest = divmod(batch_size, num_shards)
    if rest:
        raise UserError(
            f"BATCH_SIZE is {batch_size}; it must be a multiple of the {num_shards} processes that "
            "build batches."
        )
    return slice(shard_id * size, (shard_id + 1) * size)


def _specs(batch: Batch) -> dict[str, ArraySpec]:
    return {name: ArraySpec(array.dtype, array.shape) for name, array in batch.items()}
