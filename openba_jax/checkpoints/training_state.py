"""The state of a run on its way between devices and a model folder, by orbax.

Here arrays come from, and go to, the devices of a mesh; `checkpoint` is for models on their way
from disk to disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from openba_jax.checkpoints import checksums, model_folder
from openba_jax.checkpoints.folders import new_folder
from openba_jax.checkpoints.model_folder import CHECKPOINTS, PathLike, check_shapes, tree_shapes
from openba_jax.cli.progress import show_progress
from openba_jax.errors import UserError
from openba_jax.language import told
from openba_jax.models.base import Model
from openba_jax.parallel import memory


class DamagedCheckpointError(UserError):
    """A checkpoint cannot be read, or is not as it was written; an earlier one may be whole."""


class LoadedModel(NamedTuple):
    """What a model folder holds.

    Attributes:
      model: the model.
      params: the parameters of one checkpoint.
      plan: `plan.json` as it stands, or None.
      tokenizer: path of the tokenizer's file, or None.
    """

    model: Model
    params: Any
    plan: dict[str, Any] | None
    tokenizer: Path | None


class Checkpoints:
    """Writes the checkpoints of one model folder, in the background."""

    def __init__(
        self, folder: PathLike, max_to_keep: int | None = None, keep_period: int | None = None
    ) -> None:
        """Opens a model folder for writing; left-overs of a killed writer are removed.

        Args:
          folder: the model folder.
          max_to_keep: older checkpoints beyond this number are deleted; None keeps all.
          keep_period: steps that are multiples of this are kept whatever `max_to_keep` says.
        """
        self._manager = ocp.CheckpointManager(
            Path(folder).absolute() / CHECKPOINTS,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=max_to_keep,
                keep_period=keep_period,
                cleanup_tmp_directories=True,
            ),
            item_handlers=checksums.handlers(),
        )

    def save(self, step: int, state: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Copies the state to the host and returns; the disk is written in the background.

        Args:
          step: number of steps taken.
          state: `params`, `step` and, unless only the model matters, `opt_state`.
          data: JSON, for what must resume besides the state.
        """
        items = ocp.args.Composite(
            state=checksums.TreeSave(dict(state)), data=checksums.JsonSave(dict(data))
        )
        self._manager.save(step, args=items)

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits until everything is on the disk."""
        with show_progress(told("writing the checkpoint"), shown=jax.process_index() == 0):
            self._manager.close()


def create(
    folder: PathLike,
    model: Model,
    params: Any,
    *,
    plan: Mapping[str, Any] | None = None,
    tokenizer: PathLike | None = None,
    opt_state: Any = None,
    step: int = 0,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Writes a whole model folder in one go, by one process: it is complete, or not there.

    Args:
      folder: must not exist, or be empty.
      model: the model.
      params: its parameters.
      plan: becomes `plan.json`.
      tokenizer: a tokenizer's file to copy.
      opt_state: optimizer state; without it the folder can start a run, not resume one.
      step: number of steps taken.
      data: JSON for the item `data`.

    Raises:
      UserError: the folder holds something, a parameter has another shape than the model's,
        the tokenizer cannot be read, or the disk is full.
    """
    model_folder.check_params(model, params)
    state = {"params": params, "step": jax.numpy.asarray(step, jax.numpy.int32)}
    if opt_state is not None:
        state["opt_state"] = opt_state
    with new_folder(Path(folder)) as work:
        model_folder.write_metadata(work, model, plan, tokenizer)
        with Checkpoints(work) as checkpoints:
            checkpoints.save(step, state, data or {})


def restore_state(
    folder: PathLike, target: Mapping[str, Any], step: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restores a whole checkpoint onto devices.

    Args:
      folder: a model folder.
      target: `params`, `opt_state`, `step` as `jax.ShapeDtypeStruct` with shardings.
      step: which checkpoint; by default the newest.

    Returns:
      The state, a dict as `target`, each tensor in the type that `target` gives it; and the JSON
      that was saved with it.

    Raises:
      DamagedCheckpointError: the checkpoint is damaged.
      UserError: there is no such checkpoint, its tensors have other names or shapes, or a parameter
        holds NaN or infinite values.
    """
    folder = Path(folder)
    step = model_folder.existing_step(folder, step)
    restored = _restore(folder, step, dict(target), checksums.JsonRestore())
    check_finite(restored["state"]["params"], folder / CHECKPOINTS / str(step))
    return restored["state"], dict(restored["data"])


def read_data(folder: PathLike, step: int) -> dict[str, Any]:
    """The JSON that was saved with a checkpoint; no array is read.

    Raises:
      DamagedCheckpointError: it is missing or no JSON object.
    """
    path = Path(folder) / CHECKPOINTS / str(step) / "data" / "metadata"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _damaged(Path(folder), step, f"{path} cannot be read") from error


def check_finite(params: Any, where: PathLike) -> None:
    """Checks parameters for NaN and infinite values.

    Raises:
      UserError: a parameter has some; the message names it and `where` it comes from.
    """
    finite = jax.device_get(_finite(params))
    for path, fine in jax.tree.leaves_with_path(finite):
        if not fine:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(
                f"{name} of {where} holds NaN or infinite values; take a checkpoint from before "
                "that, or make the model again from its source."
            )


@jax.jit
def _finite(params: Any) -> Any:
    """For every parameter whether all of it is finite."""
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), params)


def restore_params(
    path: PathLike,
    model: Model | None = None,
    shardings: Any = None,
) -> Any:
    """Restores the parameters of a checkpoint and nothing else.

    Args:
      path: a model folder, whose newest checkpoint is meant, or `DIR/checkpoints/<step>`.
      model: what the parameters must fit; by default the folder's own.
      shardings: tree of shardings as the parameters; by default all goes to the first device.

    Returns:
      The parameters, in `model.config.param_dtype` whatever type they are saved in.

    Raises:
      DamagedCheckpointError: the checkpoint is damaged.
      UserError: there is no such checkpoint, its tensors have other names or shapes, there is too
        little memory, or a parameter holds NaN or infinite values.
    """
    folder, step = model_folder.split_path(path)
    model = model or model_folder.load_model(folder)
    step = model_folder.existing_step(folder, step)
    if shardings is None:
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: first, model.abstract_params())
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        model.abstract_params(),
        shardings,
    )
    require_memory_for(target)
    params = _restore(folder, step, {"params": target})["state"]["params"]
    check_finite(params, folder / CHECKPOINTS / str(step))
    return params


def require_memory_for(params: Any) -> None:
    """Checks that parameters fit into memory, before they are read.

    Args:
      params: a tree of shapes, types and shardings.

    Raises:
      UserError: they do not.
    """
    whole = any(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    memory.require(
        {"parameters": memory.bytes_of(params)},
        "lay the model over more devices by MESH_SHAPE, or cut it by openba-prune",
        halved="convert it by `openba-convert to_native --dtype=bfloat16`" if whole else "",
    )


def load_model(path: PathLike, shardings: Any = None) -> LoadedModel:
    """Reads a model folder: `(model, params, plan, tokenizer)`.

    Args:
      path: a model folder, whose newest checkpoint is meant, or `DIR/checkpoints/<step>`.
      shardings: tree of shardings as the parameters; by default all goes to the first device.

    Raises:
      DamagedCheckpointError: the checkpoint is damaged.
      UserError: something is missing or does not fit the configuration, or a parameter holds NaN or
        infinite values.
    """
    folder, _ = model_folder.split_path(path)
    model = model_folder.load_model(folder)
    return LoadedModel(
        model,
        restore_params(path, model, shardings),
        model_folder.load_plan(folder),
        model_folder.tokenizer_path(folder),
    )


def _restore(
    folder: Path,
    step: int,
    target: dict[str, Any],
    data: checksums.JsonRestore | None = None,
) -> Any:
    """Restores what `target` names of the item `state`, and maybe `data`."""
    with show_progress(
        f"reading {folder / CHECKPOINTS / str(step)}", shown=jax.process_index() == 0
    ):
        return _restored(folder, step, target, data)


def _restored(
    folder: Path, step: int, target: dict[str, Any], data: checksums.JsonRestore | None
) -> Any:
    path = folder.absolute() / CHECKPOINTS
    _verify(folder, step)
    options = ocp.CheckpointManagerOptions(create=False, save_root_metadata=False)
    handlers = checksums.handlers()
    with ocp.CheckpointManager(path, options=options, item_handlers=handlers) as manager:
        try:
            stored = manager.item_metadata(step).state.tree
        except Exception as error:
            raise _damaged(folder, step, error) from error
        if "opt_state" in target and "opt_state" not in stored:
            raise UserError(
                f"{path / str(step)} has no optimizer state to go on with; start a new run in "
                "another folder from this model."
            )
        stored = {name: stored[name] for name in target if name in stored}
        check_shapes(tree_shapes(stored), tree_shapes(target), path / str(step))
        state = checksums.TreeRestore(
            target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True,
        )
        items = {"state": state} if data is None else {"state": state, "data": data}
        try:
            return manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:
            # Orbax and tensorstore raise many types; here the shapes are known to be right.
            raise _damaged(folder, step, error) from error


def _verify(folder: Path, step: int) -> None:
    """Compares a checkpoint with its checksums; the processes share the work and the verdict.

    Raises:
      DamagedCheckpointError: a file is not as it was written.
    """
    part = (jax.process_index(), jax.process_count())
    found = None
    for item in ("data", "state"):
        place = folder / CHECKPOINTS / str(step) / item
        damage = checksums.find_damage(place, part)
        found = found or (damage and f"in {item}/, {damage}")
    damaged = found is not None
    if jax.process_count() > 1:
        damaged = bool(multihost_utils.process_allgather(np.int32(damaged)).any())
    if damaged:
        raise _damaged(folder, step, found or "another process has found it")


def _damaged(folder: Path, step: int, reason: Exception | str) -> DamagedCheckpointError:
    earlier = [found for found in model_folder.steps(folder) if found < step]
    remedy = "there is no earlier one"
    if earlier:
        remedy = f"delete it to go back to step {earlier[-1]} (in training, set FALL_BACK = True)"
    text = (str(reason).strip() or type(reason).__name__).splitlines()[0]
    # What follows is all that tensorstore knows of the array.
    text = text.partition(" [tensorstore_spec")[0]
    return DamagedCheckpointError(
        f"checkpoint {folder / CHECKPOINTS / str(step)} is damaged; {remedy}: {text}"
    )
