"""Model folders, layer by layer."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from openba_jax.checkpoints import checksums, model_folder
from openba_jax.checkpoints.arrays import ArrayCheckpoint
from openba_jax.checkpoints.checkpoint import Checkpoint, Slot
from openba_jax.checkpoints.files.tensorstore_arrays import (
    lazy_optimizer,
    lazy_tree,
    open_orbax,
    read_array,
    save_arguments,
    state_handler,
)
from openba_jax.cli.progress import show_progress
from openba_jax.errors import UserError
from openba_jax.models.axes import unflatten

_PARAMS = "params/"
_OPTIMIZER = "opt_state/"


@dataclasses.dataclass(frozen=True)
class Native:
    """The format of `openba_jax.checkpoints.model_folder`.

    Attributes:
      verify: compare what a checkpoint holds with its checksums when it is opened; without it the
        sizes of its files alone.
    """

    verify: bool = True

    name = "native"
    description = "model folder (checkpoints/)"

    def recognises(self, path: Path) -> bool:
        """Whether `path` is a model folder, or a checkpoint in one."""
        folder, _ = model_folder.split_path(path)
        return (folder / model_folder.CHECKPOINTS).is_dir()

    def open(self, path: Path) -> ArrayCheckpoint:
        """Opens a model folder (its newest checkpoint) or `DIR/checkpoints/<step>`.

        Raises:
          UserError: there is no checkpoint, or it does not fit the folder's configuration.
        """
        folder, wanted = model_folder.split_path(path)
        model = model_folder.load_model(folder)
        step = model_folder.existing_step(folder, wanted)
        place = folder / model_folder.CHECKPOINTS / str(step)
        with show_progress(f"checking {place}"):
            damage = checksums.find_damage(place / "state", contents=self.verify)
        if damage:
            raise UserError(f"checkpoint {place} is damaged: in state/, {damage}.")
        arrays = open_orbax(place / "state")
        parameters = _below(arrays, _PARAMS)
        state = _below(arrays, _OPTIMIZER)
        return ArrayCheckpoint(
            model,
            parameters,
            place / "state",
            tokenizer=model_folder.tokenizer_path(folder),
            plan=model_folder.plan_text(folder),
            step=step,
            open_optimizer=functools.partial(split_state, state, set(parameters), place)
            if state
            else None,
            data=_data(place),
        )

    def write(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Writes a model folder, holding no more than a layer or a slice of the vocabulary.

        Args:
          checkpoint: the model.
          folder: an empty folder.
        """
        model_folder.write_metadata_of(checkpoint, folder)
        tree = {"params": lazy_tree(checkpoint), "step": np.asarray(checkpoint.step, np.int32)}
        if checkpoint.optimizer is not None:
            tree["opt_state"] = lazy_optimizer(checkpoint)
        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
        handlers = {"state": state_handler(), "data": ocp.JsonCheckpointHandler()}
        place = folder.absolute() / model_folder.CHECKPOINTS
        with ocp.CheckpointManager(place, options=options, item_handlers=handlers) as manager:
            items = ocp.args.Composite(
                state=save_arguments(tree), data=ocp.args.JsonSave(dict(checkpoint.data))
            )
            manager.save(checkpoint.step, args=items)
        for item in handlers:
            checksums.write(place / str(checkpoint.step) / item)


def split_state(
    arrays: Mapping[str, ts.TensorStore | None], parameters: set[str], where: Path
) -> tuple[Any, dict[str, dict[str, ts.TensorStore]]]:
    """The state of an optimizer: its structure, see `Checkpoint`, and the arrays of its slots.

    Args:
      arrays: the arrays by path; None for empty nodes.
      parameters: paths of the parameters.
      where: the checkpoint, for messages.

    Raises:
      UserError: an array belongs to no parameter, and is no number.
    """
    some = min(parameters)
    slots: dict[str, dict[str, ts.TensorStore]] = {}
    for path in arrays:
        if path.endswith(f"/{some}"):
            name = path.removesuffix(f"/{some}")
            inner = {k: v for k, v in _below(arrays, f"{name}/").items() if v is not None}
            if inner.keys() == parameters:
                slots[name] = inner
    flat: dict[str, Any] = {name: Slot(name) for name in slots}
    for path, array in arrays.items():
        if any(path.startswith(f"{name}/") for name in slots):
            continue
        if array is not None and array.shape:
            raise UserError(
                f"{where}: the optimizer state has an array {path} of shape {list(array.shape)} "
                "that belongs to no parameter; go on without the optimizer state."
            )
        flat[path] = None if array is None else read_array(array, where, path)
    return _with_lists(unflatten(flat)), slots


def _with_lists(tree: Any) -> Any:
    """A tree in which nodes with numbers for keys, as optax's chains have them, are lists."""
    if not isinstance(tree, dict):
        return tree
    nodes = {key: _with_lists(node) for key, node in tree.items()}
    if not all(re.fullmatch(r"\d{1,3}", key) for key in nodes):
        return nodes
    # T5X leaves out links without arrays.
    return [nodes.get(str(number)) for number in range(1 + max(map(int, nodes)))]


def _below(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        path.removeprefix(prefix): array
        for path, array in arrays.items()
        if path.startswith(prefix)
    }


def _data(place: Path) -> dict[str, Any]:
    """The JSON that was saved with a checkpoint; empty where none was."""
    file = place / "data" / "metadata"
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}.") from error
