"""The plan that lies beside a checkpoint, checked against the model that it should describe."""

from __future__ import annotations

from pathlib import Path

from openba_jax.checkpoints import model_folder
from openba_jax.checkpoints.checkpoint import Checkpoint
from openba_jax.errors import UserError
from openba_jax.models.base import Model
from openba_jax.pruning.plan import Plan, pruned_model


def plan_of(checkpoint: Checkpoint, source: Path) -> Plan | None:
    """The plan of an opened checkpoint; None if nothing was cut from it.

    Args:
      checkpoint: what was opened.
      source: where it lies, for messages.

    Raises:
      UserError: its plan is not valid, or describes a model of another shape.
    """
    if checkpoint.plan is None:
        return None
    return _checked(checkpoint.plan, checkpoint.model, model_folder.plan_path(source))


def plan_of_folder(folder: Path) -> Plan | None:
    """The plan of a model folder; None if nothing was cut from its model.

    Raises:
      UserError: the plan is not valid, or describes a model of another shape.
    """
    text = model_folder.plan_text(folder)
    if text is None:
        return None
    return _checked(text, model_folder.load_model(folder), model_folder.plan_path(folder))


def _checked(text: str, model: Model, where: Path) -> Plan:
    try:
        plan = Plan.from_dict(model_folder.parse_plan(text, where))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    made, there = pruned_model(plan).axes.sizes, model.axes.sizes
    for key, size in there.items():
        if made.get(key) != size:
            raise UserError(
                f"{where} describes a model with {key} {made.get(key)}, but the checkpoint has "
                f"{size}; it is the plan of another model."
            )
    return plan
