"""The model folder: configuration, pruning plan, tokenizer and orbax checkpoints.

    DIR/config.json              `OpenBAConfig.to_dict()`
    DIR/plan.json                pruning plan relative to the root ancestor; absent: nothing pruned
    DIR/tokenizer.model          sentencepiece model; absent: the model has no text
    DIR/checkpoints/<step>/      items `state` (`params`, `opt_state`, `step`) and `data` (JSON)

Everything that appears in it appears whole: files and folders are written beside and renamed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from openba_jax.checkpoints.folders import new_folder
from openba_jax.errors import UserError
from openba_jax.files import write_atomically
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.network import abstract_params

CONFIG = "config.json"
PLAN = "plan.json"
TOKENIZER = "tokenizer.model"
CHECKPOINTS = "checkpoints"

PathLike = str | os.PathLike[str]


class Model(NamedTuple):
    """What a model folder holds.

    Attributes:
      config: the configuration.
      params: the parameters of one checkpoint.
      plan: `plan.json` as it stands, or None.
      tokenizer: path of the sentencepiece model, or None.
    """

    config: OpenBAConfig
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
            item_handlers=_handlers(),
        )

    def save(self, step: int, state: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Copies the state to the host and returns; the disk is written in the background.

        Args:
          step: number of steps taken.
          state: `params`, `step` and, unless only the model matters, `opt_state`.
          data: JSON, for what must resume besides the state.
        """
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(dict(state)), data=ocp.args.JsonSave(dict(data))
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
        self._manager.close()


def create(
    folder: PathLike,
    config: OpenBAConfig,
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
      config: the configuration.
      params: the parameters, of the shapes that `config` implies.
      plan: becomes `plan.json`.
      tokenizer: a sentencepiece model file to copy.
      opt_state: optimizer state; without it the folder can start a run, not resume one.
      step: number of steps taken.
      data: JSON for the item `data`.

    Raises:
      UserError: the folder holds something, a parameter has another shape than `config` implies,
        the tokenizer cannot be read, or the disk is full.
    """
    check_params(config, params)
    state = {"params": params, "step": jax.numpy.asarray(step, jax.numpy.int32)}
    if opt_state is not None:
        state["opt_state"] = opt_state
    with new_folder(Path(folder)) as work:
        write_metadata(work, config, plan, tokenizer)
        with Checkpoints(work) as checkpoints:
            checkpoints.save(step, state, data or {})


def check_params(config: OpenBAConfig, params: Any) -> None:
    """Checks that parameters have the shapes that `config` implies.

    Raises:
      UserError: one is missing, too much or different.
    """
    _check_shapes(_shapes(params), _shapes(abstract_params(config)), "the given parameters")


def prepare(
    folder: PathLike,
    config: OpenBAConfig,
    plan: Mapping[str, Any] | None = None,
    tokenizer: PathLike | None = None,
) -> None:
    """Makes `folder` ready for the checkpoints of a run, or checks that it already is.

    Raises:
      UserError: the folder holds something else, or a model of another shape.
    """
    folder = Path(folder)
    if folder.is_dir() and not _is_empty(folder):
        _check_is_model_folder(folder)
        if any(folder.glob("checkpoint_*")):
            raise UserError(
                f"{folder} is a T5X folder; name another, which openba-convert to_native makes "
                "from it."
            )
        found = OpenBAConfig.load(folder / CONFIG)
        _check_shapes(_shapes(abstract_params(found)), _shapes(abstract_params(config)), folder)
    elif folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the model.")
    _barrier("openba_jax.prepare.checked")
    if _is_first_process():
        write_metadata(folder, config, plan, tokenizer)
    _barrier("openba_jax.prepare.written")


def write_metadata(
    folder: PathLike,
    config: OpenBAConfig,
    plan: Mapping[str, Any] | None = None,
    tokenizer: PathLike | None = None,
) -> None:
    """Writes `config.json`, `plan.json` and `tokenizer.model`; what is None is left as it is.

    Raises:
      UserError: the tokenizer cannot be read.
    """
    folder = Path(folder)
    write_atomically(folder / CONFIG, json.dumps(config.to_dict(), indent=2) + "\n")
    if plan is not None:
        write_atomically(folder / PLAN, json.dumps(plan) + "\n")
    if tokenizer is not None:
        try:
            content = Path(tokenizer).read_bytes()
        except OSError as error:
            raise UserError(f"tokenizer {tokenizer} cannot be read: {error.strerror}.") from error
        write_atomically(folder / TOKENIZER, content)


def split_path(path: PathLike) -> tuple[Path, int | None]:
    """A model folder and, where the path is `DIR/checkpoints/<step>`, the step."""
    path = Path(path)
    if path.parent.name == CHECKPOINTS and path.name.isdigit():
        return path.parent.parent, int(path.name)
    return path, None


def steps(folder: PathLike) -> list[int]:
    """Steps of the checkpoints in a model folder, ascending; unfinished ones do not count."""
    checkpoints = Path(folder) / CHECKPOINTS
    if not checkpoints.is_dir():
        return []
    # Orbax gives a checkpoint its plain number only when it is complete.
    return sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())


def latest_step(folder: PathLike) -> int | None:
    """Step of the newest checkpoint in a model folder, None if there is none."""
    return max(steps(folder), default=None)


def load_config(folder: PathLike) -> OpenBAConfig:
    """The configuration in a model folder.

    Raises:
      UserError: there is none, or it is not readable.
    """
    return OpenBAConfig.load(Path(folder) / CONFIG)


def load_plan(folder: PathLike) -> dict[str, Any] | None:
    """`plan.json` of a model folder as it stands, None if nothing was pruned.

    Raises:
      UserError: it is not JSON.
    """
    text = plan_text(folder)
    return None if text is None else parse_plan(text, Path(folder) / PLAN)


def plan_text(folder: PathLike) -> str | None:
    """The text of `plan.json` of a model folder, None if nothing was pruned.

    Raises:
      UserError: it is not JSON.
    """
    path = Path(folder) / PLAN
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    parse_plan(text, path)
    return text


def check_tokenizer(folder: PathLike, tokenizer: PathLike) -> None:
    """Checks that `tokenizer` is the one of a model folder, if that has any.

    Raises:
      UserError: it is another one.
    """
    own = tokenizer_path(folder)
    if own is None or not Path(tokenizer).is_file():
        return
    if own.read_bytes() != Path(tokenizer).read_bytes():
        raise UserError(
            f"{tokenizer} is not the tokenizer of the model in {folder}; give {own}, and stores "
            "made with it."
        )


def parse_plan(text: str, where: PathLike) -> dict[str, Any]:
    """The JSON object of a pruning plan.

    Raises:
      UserError: it is none.
    """
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise UserError(f"{where} is no JSON object: {error}.") from error


def tokenizer_path(folder: PathLike) -> Path | None:
    """The sentencepiece model of a model folder, None if it has none."""
    path = Path(folder) / TOKENIZER
    return path if path.exists() else None


def restore_state(
    folder: PathLike, target: Mapping[str, Any], step: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restores a whole checkpoint onto devices.

    Args:
      folder: a model folder.
      target: `params`, `opt_state`, `step` as `jax.ShapeDtypeStruct` with shardings.
      step: which checkpoint; by default the newest.

    Returns:
      The state, a dict as `target`; and the JSON that was saved with it.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or its tensors are others.
    """
    folder = Path(folder)
    step = _existing_step(folder, step)
    restored = _restore(folder, step, dict(target), ocp.args.JsonRestore())
    return restored["state"], dict(restored["data"])


def restore_params(
    path: PathLike,
    config: OpenBAConfig | None = None,
    shardings: Any = None,
) -> Any:
    """Restores the parameters of a checkpoint and nothing else.

    Args:
      path: a model folder, whose newest checkpoint is meant, or `DIR/checkpoints/<step>`.
      config: what the parameters must fit; by default the folder's own `config.json`.
      shardings: tree of shardings as the parameters; by default all goes to the first device.

    Returns:
      The parameters, in `config.param_dtype`.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or its tensors are others.
    """
    folder, step = split_path(path)
    config = config or load_config(folder)
    step = _existing_step(folder, step)
    if shardings is None:
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: first, abstract_params(config))
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_params(config),
        shardings,
    )
    return _restore(folder, step, {"params": target})["state"]["params"]


def restore_raw(path: PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restores a checkpoint without knowing its optimizer: named tuples come back as dicts.

    What this returns can be changed (pruned, say) and saved again; `restore_state` then finds the
    optimizer's own types in it.

    Args:
      path: a model folder, whose newest checkpoint is meant, or `DIR/checkpoints/<step>`.

    Returns:
      The state, numpy arrays; and the JSON that was saved with it.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    folder, step = split_path(path)
    step = _existing_step(folder, step)
    restored = _restore(folder, step, None, ocp.args.JsonRestore())
    return restored["state"], dict(restored["data"])


def load_model(path: PathLike, shardings: Any = None) -> Model:
    """Reads a model folder: `(config, params, plan, tokenizer)`.

    Args:
      path: a model folder, whose newest checkpoint is meant, or `DIR/checkpoints/<step>`.
      shardings: tree of shardings as the parameters; by default all goes to the first device.

    Raises:
      UserError: something is missing or damaged, or does not fit the configuration.
    """
    folder, _ = split_path(path)
    config = load_config(folder)
    params = restore_params(path, config, shardings)
    return Model(config, params, load_plan(folder), tokenizer_path(folder))


def _handlers() -> dict[str, ocp.CheckpointHandler]:
    return {"state": ocp.PyTreeCheckpointHandler(), "data": ocp.JsonCheckpointHandler()}


def _existing_step(folder: Path, step: int | None) -> int:
    found = steps(folder)
    if not found:
        raise UserError(f"{folder} holds no checkpoint; a model folder has checkpoints/<step>/.")
    if step is not None and step not in found:
        raise UserError(
            f"{folder} has no checkpoint of step {step}; it has {', '.join(map(str, found))}."
        )
    return found[-1] if step is None else step


def _restore(
    folder: Path,
    step: int,
    target: dict[str, Any] | None,
    data: ocp.args.JsonRestore | None = None,
) -> Any:
    """Restores what `target` names of the item `state` (None: all, as numpy) and maybe `data`."""
    path = folder.absolute() / CHECKPOINTS
    options = ocp.CheckpointManagerOptions(create=False, save_root_metadata=False)
    with ocp.CheckpointManager(path, options=options, item_handlers=_handlers()) as manager:
        try:
            stored = manager.item_metadata(step).state.tree
        except Exception as error:
            raise _damaged(folder, step, error) from error
        if target is None:
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
            state = ocp.args.PyTreeRestore(restore_args=as_numpy)
        else:
            if "opt_state" in target and "opt_state" not in stored:
                raise UserError(
                    f"{path / str(step)} has no optimizer state to go on with; start a new run in "
                    "another folder from this model."
                )
            stored = {name: stored[name] for name in target if name in stored}
            _check_shapes(_shapes(stored), _shapes(target), path / str(step))
            state = ocp.args.PyTreeRestore(
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


def _damaged(folder: Path, step: int, error: Exception) -> UserError:
    earlier = [found for found in steps(folder) if found < step]
    remedy = f"delete it to go back to step {earlier[-1]}" if earlier else "there is no earlier one"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    reason = reason.partition(" [tensorstore_spec")[
        0
    ]  # All of it, with what it knows of the array.
    return UserError(
        f"checkpoint {folder / CHECKPOINTS / str(step)} is damaged; {remedy}: {reason}"
    )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf, by its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _check_shapes(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: object
) -> None:
    """Raises a `UserError` that names the first tensor that is missing, too much or different."""
    for name, shape in wanted.items():
        if name not in found:
            raise UserError(f"{where} lacks {name}, which should have the shape {shape}.")
        if found[name] != shape:
            raise UserError(
                f"{where} has {name} of shape {found[name]}; it should have the shape {shape}."
            )
    for name in found:
        if name not in wanted:
            raise UserError(f"{where} has {name}, which the model does not know.")


def _check_is_model_folder(folder: Path) -> None:
    if not (folder / CONFIG).exists():
        raise UserError(
            f"{folder} holds something that is no model (no {CONFIG}); name a folder that is new, "
            "empty or holds this model."
        )


def _is_empty(folder: Path) -> bool:
    """Nothing is there, or the first file was being written when the writer was killed."""
    return all(path.name == f"{CONFIG}.tmp" for path in folder.iterdir())


def _is_first_process() -> bool:
    return jax.process_index() == 0


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
