"""Model folders (`native`) read and written layer by layer, for conversions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from openba_jax.checkpoints.files.tensorstore_arrays import (
    StoredSource,
    lazy_tree,
    open_orbax,
    save_arguments,
    state_handler,
)
from openba_jax.checkpoints.formats import native
from openba_jax.checkpoints.streaming import Source
from openba_jax.errors import UserError

_PARAMS = "params/"


def open_native(path: Path) -> StoredSource:
    """Opens a model folder (its newest checkpoint) or `DIR/checkpoints/<step>`; nothing is read.

    Raises:
      UserError: there is no checkpoint, or it does not fit the folder's configuration.
    """
    folder, step = native.split_path(path)
    config = native.load_config(folder)
    step = native.latest_step(folder) if step is None else step
    if step is None:
        raise UserError(f"{folder} holds no checkpoint; a model folder has checkpoints/<step>/.")
    state = folder / native.CHECKPOINTS / str(step) / "state"
    arrays = {
        path.removeprefix(_PARAMS): array
        for path, array in open_orbax(state).items()
        if path.startswith(_PARAMS)
    }
    return StoredSource(
        config, arrays, state, native.tokenizer_path(folder), native.plan_text(folder), step
    )


def write_native(source: Source, folder: Path) -> None:
    """Writes a model folder, holding no more than a layer or a slice of the vocabulary at a time.

    Args:
      source: the model.
      folder: an empty folder.
    """
    plan = None if source.plan is None else native.parse_plan(source.plan, "plan.json")
    native.write_metadata(folder, source.config, plan, source.tokenizer)
    write_checkpoint(folder, source.step, {"params": lazy_tree(source)}, {})


def write_checkpoint(
    folder: Path, step: int, state: Mapping[str, Any], data: Mapping[str, Any]
) -> None:
    """Writes a checkpoint into a model folder, one array after the other.

    Args:
      folder: the model folder.
      step: number of steps taken.
      state: `params` and, maybe, `opt_state`: trees of numpy arrays and `stored.LazyParameter`.
      data: JSON, for what must resume besides the state.
    """
    tree = {**state, "step": np.asarray(step, np.int32)}
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    handlers = {"state": state_handler(), "data": ocp.JsonCheckpointHandler()}
    checkpoints = folder.absolute() / native.CHECKPOINTS
    with ocp.CheckpointManager(checkpoints, options=options, item_handlers=handlers) as manager:
        items = ocp.args.Composite(state=save_arguments(tree), data=ocp.args.JsonSave(dict(data)))
        manager.save(step, args=items)
