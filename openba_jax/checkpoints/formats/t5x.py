"""T5X checkpoints of this network, in T5X's orbax and legacy formats: read, and written.

T5X keeps the parameters of this network under their own names, below `target`; there is nothing to
map but the container (T5X at commit cc342d4, `t5x/checkpoints.py`):

    checkpoint_<step>/state/       orbax tree `{target, state: {step, param_states}}`
    checkpoint_<step>/checkpoint   legacy: msgpack `{version, optimizer: {target, state}}`, whose
                                   leaves are zarr arrays beside it or, where small, values
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import serialization

from openba_jax.checkpoints.files.tensorstore_arrays import (
    LazyParameter,
    StoredSource,
    lazy_tree,
    open_array,
    open_orbax,
    read_array,
    save_arguments,
    state_handler,
    write_lazily,
)
from openba_jax.checkpoints.formats import native
from openba_jax.checkpoints.mapping import flatten, unflatten
from openba_jax.checkpoints.streaming import Source
from openba_jax.errors import UserError
from openba_jax.models.openba.config import OpenBAConfig

T5XFormat = Literal["orbax", "legacy"]

STEP_PREFIX = "checkpoint"
_PREFIX = f"{STEP_PREFIX}_"
_LEGACY_FILE = "checkpoint"
_LEGACY_VERSION = 3
_TARGET = "target/"
_STEP = "state/step"


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


def open_t5x(path: Path, config: OpenBAConfig | None = None) -> StoredSource:
    """Opens a T5X checkpoint of this network; nothing but its index is read.

    Args:
      path: a T5X model folder (its newest checkpoint) or one checkpoint.
      config: the model's configuration. By default that of a `config.json` beside the checkpoint.
        T5X writes none by itself; without it sizes are taken from the shapes, and what shapes do
        not say (dropout, lengths, scaled logits) is at its default.

    Raises:
      UserError: anything is missing, damaged or does not fit the configuration.
    """
    folder = find_checkpoint(path)
    arrays = open_arrays(folder)
    target = {
        name.removeprefix(_TARGET): array
        for name, array in arrays.items()
        if name.startswith(_TARGET)
    }
    step = int(read_array(arrays[_STEP], folder, _STEP)) if _STEP in arrays else 0
    shapes = {name: tuple(array.shape) for name, array in target.items()}
    dtypes = {name: array.dtype.name for name, array in target.items()}
    beside = folder.parent / native.CONFIG
    if config is None and beside.is_file():
        config = OpenBAConfig.load(beside)
    config = config or infer_config(shapes, dtypes, folder)
    scanned = any("/layers/" in name for name in shapes)
    return StoredSource(
        config.replace(scan_layers=scanned),
        target,
        folder,
        native.tokenizer_path(folder.parent),
        native.plan_text(folder.parent),
        step,
    )


def open_arrays(folder: Path) -> dict[str, ts.TensorStore]:
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
        if name.startswith(_TARGET)
    }


def write_t5x(source: Source, folder: Path, *, t5x_format: T5XFormat = "orbax") -> None:
    """Writes `checkpoint_<step>`, with parameters and step and without optimizer state.

    Beside it go `config.json` and what there is of `plan.json` and `tokenizer.model`.

    Args:
      source: the model.
      folder: an empty folder, to become a T5X model folder.
      t5x_format: the format of T5X's orbax or of its legacy checkpointer.
    """
    plan = None if source.plan is None else native.parse_plan(source.plan, "plan.json")
    native.write_metadata(folder, source.config, plan, source.tokenizer)
    tree = {"target": lazy_tree(source), "state": {"step": np.asarray(source.step, np.int32)}}
    if t5x_format == "legacy":
        _write_legacy(tree, folder / f"{_PREFIX}{source.step}")
        return
    write_checkpoint(folder, source.step, tree)


def write_checkpoint(folder: Path, step: int, tree: Mapping[str, Any]) -> None:
    """Writes `checkpoint_<step>` in T5X's orbax format, one array after the other.

    Args:
      folder: the T5X model folder.
      step: number of steps taken.
      tree: `target` and `state`, of numpy arrays and `stored.LazyParameter`.
    """
    options = ocp.CheckpointManagerOptions(
        step_prefix=STEP_PREFIX, enable_async_checkpointing=False
    )
    handlers = {"state": state_handler()}
    with ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handlers) as m:
        m.save(step, args=ocp.args.Composite(state=save_arguments(dict(tree))))


def infer_config(
    shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str], where: Path
) -> OpenBAConfig:
    """The configuration that the shapes of the parameters imply.

    Args:
      shapes: shapes by path, layers stacked or not.
      dtypes: names of types by path.
      where: the checkpoint, for messages.

    Raises:
      UserError: it is not this network.
    """

    def depth(stack: str) -> int:
        numbers = {
            int(found[1]) for name in shapes if (found := re.match(rf"{stack}/layers_(\d+)/", name))
        }
        if numbers:
            return max(numbers) + 1
        return shapes[f"{stack}/layers/pre_mlp_layer_norm/scale"][0]

    def has(suffix: str) -> bool:
        return any(name.endswith(suffix) for name in shapes)

    def layer(suffix: str) -> tuple[int, ...]:
        """The shape of an encoder parameter in one layer."""
        if f"encoder/layers/{suffix}" in shapes:
            return shapes[f"encoder/layers/{suffix}"][1:]
        return shapes[f"encoder/layers_0/{suffix}"]

    try:
        vocab_size, embed_dim = shapes["token_embedder/embedding"]
        _, heads, kv = layer("self_attention/query/kernel")
        dtype = dtypes["token_embedder/embedding"]
        return OpenBAConfig(
            vocab_size=vocab_size,
            embed_dim=embed_dim,
            num_heads=heads,
            head_dim=kv,
            mlp_dim=layer("mlp/wi_0/kernel")[-1],
            encoder_layers=depth("encoder"),
            decoder_layers=depth("decoder"),
            qkv_bias=has("self_attention/query/bias"),
            mlp_bias=has("mlp/wi_0/bias"),
            logits_bias="logits_dense/bias" in shapes,
            tie_embeddings="logits_dense/kernel" not in shapes,
            dtype=dtype,
            param_dtype=dtype,
        )
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{where} does not hold the parameters of this network ({error})."
        ) from error


def _open_legacy(folder: Path) -> dict[str, ts.TensorStore]:
    file = folder / _LEGACY_FILE
    try:
        content = serialization.msgpack_restore(file.read_bytes())
        state = content["optimizer"] if content.get("version", 0) else content
        leaves = _leaves(state)
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{file} is damaged: {error}.") from error
    arrays = {}
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
