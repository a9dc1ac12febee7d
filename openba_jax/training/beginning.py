"""Where a run begins or goes on: its newest checkpoint that is whole, or a first state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from absl import logging
from jax.sharding import Mesh

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.models.base import Model
from openba_jax.training import run_folder, train_step
from openba_jax.training.optimizer import Optimizer


@dataclasses.dataclass(frozen=True)
class Beginning:
    """Where a run goes on.

    Attributes:
      state: the restored state; None for a new run.
      saved: the JSON that was saved with it.
      step: steps taken.
      changes: what differs from the run so far.
      damaged: steps of newer checkpoints that are damaged.
    """

    state: train_step.TrainState | None
    saved: Mapping[str, Any]
    step: int
    changes: run_folder.Changes
    damaged: tuple[int, ...]


def find(
    run: run_folder.RunFolder,
    abstract: train_step.TrainState,
    identity: Mapping[str, Any],
    allow_changes: bool,
    fall_back: bool,
) -> Beginning:
    """Restores the newest checkpoint, or with `fall_back` the newest that is whole.

    Args:
      run: the folder.
      abstract: shapes, types and shardings of the state.
      identity: of the run that would go on.
      allow_changes: let it differ from that of the run so far.
      fall_back: pass over damaged checkpoints.

    Raises:
      UserError: the run differs, or a checkpoint is damaged or does not fit.
    """
    if not run.resumes:
        return Beginning(None, {}, 0, run.changes, ())
    steps = model_folder.steps(run.path)
    damaged: list[int] = []
    for step in reversed(steps):
        try:
            saved = training_state.read_data(run.path, step)
            changes = run_folder.compare(run.path, saved, identity, allow_changes)
            restored, saved = training_state.restore_state(run.path, as_dict(abstract), step)
            state = train_step.TrainState(**restored)
            return Beginning(state, saved, step, {**run.changes, **changes}, tuple(damaged))
        except training_state.DamagedCheckpointError as error:
            if not fall_back or step == steps[0]:
                raise
            logging.warning("%s; going back to an earlier checkpoint", error)
            damaged.append(step)
    raise AssertionError("a run that resumes has a checkpoint")


def first_state(
    model: Model,
    optimizer: Optimizer,
    mesh: Mesh,
    seed: int,
    initial_model: str | None,
    offload: bool = False,
) -> train_step.TrainState:
    """The state before the first step: with random parameters, or those of a model.

    Args:
      model: the model.
      optimizer: the optimizer.
      mesh: the mesh.
      seed: of random parameters.
      initial_model: a model folder, or a checkpoint in one; None: random parameters.
      offload: keep the optimizer's state in the host's memory.

    Raises:
      UserError: the model cannot be read, or does not fit.
    """
    params = None
    if initial_model is not None:
        abstract = train_step.abstract_state(model, optimizer, mesh)
        shardings = train_step.shardings_of(abstract.params)
        params = training_state.restore_params(initial_model, model, shardings)
    return train_step.init_state(model, optimizer, mesh, seed=seed, params=params, offload=offload)


def as_dict(state: train_step.TrainState) -> dict[str, Any]:
    """A state as checkpoints hold it."""
    return {"params": state.params, "opt_state": state.opt_state, "step": state.step}
