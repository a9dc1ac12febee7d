"""T5X checkpoints of this package's networks, in T5X's orbax and legacy formats.

T5X keeps the parameters under their own names, below `target`; there is nothing to map but the
container (T5X at commit cc342d4, `t5x/checkpoints.py`):

    checkpoint_<step>/state/       orbax tree `{target, state: {step, param_states}}`
    checkpoint_<step>/checkpoint   legacy: msgpack `{version, optimizer: {target, state}}`, whose
                                   leaves are zarr arrays beside it or, where small, values

Beside it go `config.json`, `plan.json` and `tokenizer.model`, as in a model folder.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from absl import logging
from flax import serialization

from openba_jax.checkpoints import model_folder
from openba_jax.checkpoints.arrays import ArrayCheckpoint
from openba_jax.checkpoints.checkpoint import Checkpoint
from openba_jax.checkpoints.files.tensorstore_arrays import (
    LazyParameter,
    lazy_optimizer,
    lazy_tree,
    open_array,
    open_orbax,
    read_array,
    save_arguments,
    state_handler,
    write_lazily,
)
from openba_jax.checkpoints.formats.native import split_state
from openba_jax.checkpoints.formats.t5x_networks import (
    CARRIED,
    SpreadCheckpoint,
    as_here,
    lazy_network,
    named_network,
    network_of,
)
from openba_jax.errors import UserError
from openba_jax.models import registry
from openba_jax.models.axes import axis_table, flatten, split_layer, unflatten
from openba_jax.models.base import Model
from openba_jax.models.config import ModelConfig

T5XLayout = Literal["orbax", "legacy"]

STEP_PREFIX = "checkpoint"
_PREFIX = f"{STEP_PREFIX}_"
_LEGACY_FILE = "checkpoint"
_LEGACY_VERSION = 3
_TARGET = "target/"
_STEP = "state/step"
_OPTIMIZER = "state/param_states/"

LINKS: tuple[tuple[str, ...], ...] = ((), ("count", "mu", "nu"), ("inner_state",), ("count",))
"""The links of the chain `training.optimizer.adamw`; T5X leaves out those without arrays."""


@dataclasses.dataclass(frozen=True)
class T5X:
    """The format of T5X.

    Attributes:
      layout: what is written: the format of T5X's orbax or of its legacy checkpointer.
      config: the configuration of what is read. By default that of a `config.json` beside the
        checkpoint. T5X writes none by itself; without it sizes are taken from the shapes, and what
        shapes do not say is at its default, with a warning.
      network: which of T5X's own networks is written, by name; by default the one that was read,
        or else this package's module.
    """

    layout: T5XLayout = "orbax"
    config: ModelConfig | None = None
    network: str = ""

    name = "t5x"
    description = "T5X folder (checkpoint_<step>)"

    def recognises(self, path: Path) -> bool:
        """Whether `path` is a T5X model folder or one checkpoint."""
        return is_checkpoint(path) or bool(steps(path))

    def open(self, path: Path) -> ArrayCheckpoint:
        """Opens a T5X model folder (its newest checkpoint) or one checkpoint.

        Raises:
          UserError: anything is missing, damaged or does not fit the configuration.
        """
        folder = find_checkpoint(path)
        arrays = open_arrays(folder)
        target = _below(arrays, _TARGET)
        step = arrays.get(_STEP)
        network = network_of(target)
        if network is not None:
            target = as_here(target, network, folder)
        scanned = any("/layers/" in name for name in target)
        model = registry.model_of(self._config(target, folder).replace(scan_layers=scanned))
        links = {
            name.removeprefix(_OPTIMIZER): array
            for name, array in arrays.items()
            if name.startswith(_OPTIMIZER)
        }
        has_optimizer = any(array is not None for array in links.values())
        if any(not name[0].isdecimal() for name in links):
            logging.warning(
                "%s has the state of another optimizer than adamw; it cannot be moved.", folder
            )
        return ArrayCheckpoint(
            model,
            target,
            folder,
            tokenizer=model_folder.tokenizer_path(folder.parent),
            plan=model_folder.plan_text(folder.parent),
            step=0 if step is None else int(read_array(step, folder, _STEP)),
            open_optimizer=functools.partial(_open_optimizer, links, set(target), folder)
            if has_optimizer
            else None,
            carried={CARRIED: network} if network else {},
        )

    def write(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Writes `checkpoint_<step>`, and beside it what a model folder has beside checkpoints.

        Args:
          checkpoint: the model.
          folder: an empty folder, to become a T5X model folder.

        Raises:
          UserError: the checkpoint has optimizer state, and the legacy format is asked for or one
            of T5X's own networks; or that network cannot have this model.
        """
        network = None
        if name := self.network or checkpoint.carried.get(CARRIED):
            network = named_network(name, checkpoint.model.config.family)
            if checkpoint.optimizer is not None:
                raise UserError(f"T5X's {name} is written without optimizer state only.")
            checkpoint = SpreadCheckpoint(checkpoint, network)
        state: dict[str, Any] = {"step": np.asarray(checkpoint.step, np.int32)}
        if checkpoint.optimizer is not None:
            if self.layout == "legacy":
                raise UserError("T5X's legacy format is written without optimizer state only.")
            links = enumerate(lazy_optimizer(checkpoint))
            state["param_states"] = {str(n): link for n, link in links if _has_arrays(link)}
        model_folder.write_metadata_of(checkpoint, folder)
        parameters = lazy_network(checkpoint, network) if network else lazy_tree(checkpoint)
        tree = {"target": parameters, "state": state}
        if self.layout == "legacy":
            _write_legacy(tree, folder / f"{_PREFIX}{checkpoint.step}")
            return
        options = ocp.CheckpointManagerOptions(
            step_prefix=STEP_PREFIX, enable_async_checkpointing=False
        )
        handlers = {"state": state_handler()}
        with ocp.CheckpointManager(
            folder.absolute(), options=options, item_handlers=handlers
        ) as manager:
            manager.save(checkpoint.step, args=ocp.args.Composite(state=save_arguments(tree)))

    def _config(self, target: Mapping[str, ts.TensorStore], folder: Path) -> ModelConfig:
        beside = folder.parent / model_folder.CONFIG
        if self.config is not None:
            return self.config
        if beside.is_file():
            return registry.load_config(beside)
        config, guessed = infer_config(target, folder)
        logging.warning(
            "%s has no config.json: sizes are those of its tensors, and these are guessed: %s; put "
            "a config.json there where they are wrong.",
            folder.parent,
            ", ".join(f"{name}={value!r}" for name, value in guessed.items()),
        )
        return config


def find_checkpoint(path: Path) -> Path:
    """The folder `checkpoint_<step>`: `path` itself, or the newest one in it.

    Raises:
      UserError: there is none.
    """
    if is_checkpoint(path):
        return path
    found = steps(path)
    if not found:
        raise UserError(f"{path} is no T5X checkpoint: it holds no {_PREFIX}<step>.")
    return path / f"{_PREFIX}{max(found)}"


def steps(path: Path) -> list[int]:
    """The steps of the checkpoints in a T5X model folder."""
    return [
        int(child.name.removeprefix(_PREFIX))
        for child in (path.iterdir() if path.is_dir() else ())
        if re.fullmatch(rf"{_PREFIX}\d+", child.name)
    ]


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a single T5X checkpoint."""
    return (path / _LEGACY_FILE).is_file() or (path / "state" / "_METADATA").is_file()


def open_arrays(folder: Path) -> dict[str, ts.TensorStore | None]:
    """Opens all arrays of one checkpoint by path: `target/...`, `state/step`, maybe more.

    Raises:
      UserError: it is missing, unfinished or damaged.
    """
    if (folder / _LEGACY_FILE).is_file():
        return _open_legacy(folder)
    if (folder / "state" / "_METADATA").is_file():
        return open_orbax(folder / "state")
    raise UserError(f"{folder} is no T5X checkpoint, or an unfinished or damaged one.")


def target_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters in one checkpoint, by path; nothing but its index is read.

    Raises:
      UserError: it is missing, unfinished or damaged.
    """
    return {
        name.removeprefix(_TARGET): tuple(array.shape)
        for name, array in open_arrays(folder).items()
        if array is not None and name.startswith(_TARGET)
    }


def infer_config(target: Mapping[str, Any], where: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The configuration that the shapes of parameters imply.

    Args:
      target: anything with `shape` and `dtype`, by path, layers stacked or not.
      where: the checkpoint, for messages.

    Returns:
      The configuration, and those of its fields that matter and that nothing there tells.

    Raises:
      UserError: the parameters are those of no family.
    """
    paths = {split_layer(name)[0] for name in target}
    for family in registry.families():
        names = {
            path: axes
            for config in (family.largest, *family.alternatives)
            for path, axes in flatten(family.model(config).logical_axes()).items()
        }
        if not paths <= names.keys():
            continue
        axes = {
            name: names[normal] if normal == name else names[normal][1:]
            for name in target
            for normal in (split_layer(name)[0],)
        }
        shapes = {name: jax.ShapeDtypeStruct(a.shape, np.float32) for name, a in target.items()}
        dtype = next(iter(target.values())).dtype.name
        try:
            table = axis_table(unflatten(shapes), unflatten(axes))
            fields = family.infer(table.sizes, table.paths)
        except KeyError as error:
            raise UserError(f"{where} lacks the parameters that tell {error}.") from error
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        # They are computed in their own type, as far as one can see.
        config = family.config(dtype=dtype, param_dtype=dtype, **fields)
        told = {*fields, *config.execution, "family", "param_dtype"}
        return config, {k: value for k, value in config.to_dict().items() if k not in told}
    odd = sorted(target)[0] if target else "nothing"
    raise UserError(f"{where} does not hold the parameters of a known family (it has {odd}).")


def check_fits(place: Path, model: Model) -> None:
    """Checks that a checkpoint has the parameters of a model.

    Raises:
      UserError: it has others; the message names the first.
    """
    found = target_shapes(place)
    wanted = {name: tuple(leaf.shape) for name, leaf in flatten(model.abstract_params()).items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise UserError(
                f"{place} has {name} of shape {found.get(name)} and the model asks for "
                f"{wanted.get(name)}; give the gin file of the size that the checkpoint has, or "
                "--gin.MODEL_CONFIG=@openba_checkpoints.config_of() to take its config.json."
            )


def _open_optimizer(
    links: Mapping[str, ts.TensorStore | None], parameters: set[str], where: Path
) -> tuple[list[Any], dict[str, dict[str, ts.TensorStore]]]:
    """The state of the chain, with the links that T5X left out, and the arrays of its slots."""
    numbers = {name.partition("/")[0] for name in links}
    odd = sorted(numbers - set(map(str, range(len(LINKS)))))
    if not odd:
        found, arrays = split_state(links, parameters, where)
        for number, link in enumerate(found):
            if link is not None and (not isinstance(link, dict) or set(link) != set(LINKS[number])):
                odd.append(str(number))
    if odd:
        raise UserError(
            f"{where}: the optimizer state has a part {odd[0]} that openba_jax's adamw does not "
            "have; only that can move between runners."
        )
    whole = [dict.fromkeys(names) or None for names in LINKS]  # As orbax gives back what is empty.
    filled = [*found, *whole[len(found) :]]
    return [link or empty for link, empty in zip(filled, whole, strict=True)], arrays


def _has_arrays(link: Any) -> bool:
    return link is not None and any(leaf is not None for leaf in flatten(link).values())


def _below(arrays: Mapping[str, ts.TensorStore | None], prefix: str) -> dict[str, ts.TensorStore]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if array is not None and name.startswith(prefix)
    }


def _open_legacy(folder: Path) -> dict[str, ts.TensorStore | None]:
    file = folder / _LEGACY_FILE
    try:
        content = serialization.msgpack_restore(file.read_bytes())
        state = content["optimizer"] if content.get("version", 0) else content
        leaves = _leaves(state)
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{file} is damaged: {error}.") from error
    arrays: dict[str, ts.TensorStore | None] = {}
    for name, leaf in leaves.items():
        if not isinstance(leaf, dict):
            arrays[name] = ts.array(np.asarray(leaf))
        else:
            place = leaf["kvstore"].get("path", leaf.get("path", ""))
            array_folder = (folder / place).resolve()
            if folder.resolve() not in array_folder.parents:
                raise UserError(f"{file}: {name} lies outside of the checkpoint, in {place}.")
            kvstore = {"driver": "file", "path": f"{array_folder}/"}
            arrays[name] = open_array({"driver": "zarr", "kvstore": kvstore}, folder, name)
    return arrays


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by path; a dictionary that describes an array is a leaf."""
    if not isinstance(tree, dict) or {"driver", "kvstore", "metadata"} <= set(tree):
        return {} if tree is None else {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(_leaves(value, f"{prefix}/{key}" if prefix else str(key)))
    return found


def _write_legacy(tree: dict[str, Any], folder: Path) -> None:
    folder.mkdir()

    def write(path: str, leaf: Any) -> Any:
        if not isinstance(leaf, LazyParameter):
            return leaf
        name = path.replace("/", ".")
        spec = {
            "driver": "zarr",
            "dtype": leaf.dtype.name,
            "kvstore": {"driver": "file", "path": f"{name}/"},
            "metadata": {
                # T5X compresses with gzip and reads any; raw is faster and hardly larger.
                "compressor": None,
                "shape": list(leaf.shape),
                "chunks": _chunks(leaf),
            },
        }
        place = {"driver": "file", "path": f"{folder.absolute()}/{name}/"}
        context = ts.Context({"file_io_sync": False})
        store = ts.open(ts.Spec({**spec, "kvstore": place}), create=True, context=context).result()
        write_lazily(leaf, store)
        return spec

    written = unflatten({path: write(path, leaf) for path, leaf in flatten(tree).items()})
    content = {"version": _LEGACY_VERSION, "optimizer": written}
    (folder / _LEGACY_FILE).write_bytes(serialization.msgpack_serialize(content))


def _chunks(leaf: LazyParameter) -> list[int]:
    """The shape of a chunk: of about `leaf.chunk_bytes`, cut along its sliced axis."""
    chunks = list(leaf.shape)
    if leaf.chunk_bytes is not None and leaf.sliced_axis is not None:
        rows = chunks[leaf.sliced_axis]
        chunks[leaf.sliced_axis] = max(1, leaf.chunk_bytes * rows // leaf.nbytes)
    return chunks
