"""Tensorstore arrays, as orbax and T5X keep parameters: opened, and written by layers.

Orbax writes whole arrays from memory. To write models larger than memory it is given stand-ins,
`LazyParameter`, whose values are read slice by slice when it comes to writing them; chunks on disk
are single layers, so that a layer can be read without the others.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from openba_jax.checkpoints.checkpoint import Checkpoint, Slot, map_state, stacked_dtype
from openba_jax.checkpoints.files.tensors import SLICE_BYTES, Read, ahead
from openba_jax.checkpoints.layout import contiguous
from openba_jax.errors import UserError
from openba_jax.models.axes import VOCAB, Leaf, unflatten

MIN_CHUNK_BYTES = 2**20
"""Layers smaller than this share a chunk."""


@dataclasses.dataclass(frozen=True)
class LazyParameter:
    """An array of the tree, read from a checkpoint while it is written.

    Attributes:
      source: where its values come from.
      path: its path, `layers` standing for all layers or, unrolled, for one.
      slot: of the optimizer's state; empty for the parameter itself.
      layers: the numbers of its layers, stacked in the first axis; None where there is none.
      layer: the number of its layer in an unrolled tree.
      layers_axis: the axis in which layers are stacked.
      split: axes that are written as two, the second of this size, by name.
    """

    source: Checkpoint
    path: str
    slot: str = ""
    layers: tuple[int, ...] | None = None
    layer: int | None = None
    layers_axis: int = 0
    split: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        shape = list(self._layer_shape)
        if self.layers is not None:
            shape.insert(self.layers_axis, len(self.layers))
        return tuple(shape)

    @property
    def _layer_shape(self) -> tuple[int, ...]:
        """Its shape in one layer."""
        axes = self.source.model.axes
        shape: list[int] = []
        for axis, size in zip(axes.paths[self.path], axes.shape(self.path), strict=True):
            inner = self.split.get(axis)
            shape += [size] if inner is None else [size // inner, inner]
        return tuple(shape)

    @property
    def dtype(self) -> np.dtype:
        """Its type."""
        if self.layers is None:
            return self.source.dtype(Leaf(self.path, self.layer, self.slot))
        return stacked_dtype(self.source, self.path, self.slot)

    @property
    def ndim(self) -> int:
        """Its rank."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.size * self.dtype.itemsize

    @property
    def sliced_axis(self) -> int | None:
        """The axis along which it is read: layers, or the vocabulary."""
        if self.layers is not None:
            return self.layers_axis
        axes = self.source.model.axes.paths[self.path]
        return axes.index(VOCAB) if VOCAB in axes else None

    @property
    def chunk_bytes(self) -> int | None:
        """How large chunks on disk should be: a layer, a slice of the vocabulary, or (None) all."""
        if self.layers is not None:
            layer_bytes = self.nbytes // len(self.layers)
            return layer_bytes if layer_bytes >= MIN_CHUNK_BYTES else None
        sliced = self.sliced_axis is not None and self.nbytes > SLICE_BYTES
        return SLICE_BYTES if sliced else None

    def reads(self, chunk: int) -> Iterator[tuple[tuple[slice, ...], Read]]:
        """Reads of consecutive slices, and their place; `chunk` is a chunk's size there."""
        axis, everything = self.sliced_axis, (slice(None),) * self.ndim
        if axis is None:
            yield everything, functools.partial(self._read, slice(None))
            return
        size = self.shape[axis]
        step = chunk
        if self.layers is None:
            step *= max(1, SLICE_BYTES // (self.nbytes // size * chunk))
        for start in range(0, size, step):
            part = slice(start, min(start + step, size))
            place = (*everything[:axis], part, *everything[axis + 1 :])
            yield place, functools.partial(self._read, part)

    def _read(self, part: slice) -> np.ndarray:
        """Some layers, or some rows of the vocabulary, in C order."""
        if self.layers is None:
            rows = None if self.sliced_axis is None else part
            return contiguous(self.source.read(Leaf(self.path, self.layer, self.slot), rows))
        layers = [
            contiguous(self.source.read(Leaf(self.path, n, self.slot))).reshape(self._layer_shape)
            for n in self.layers[part]
        ]
        if len(layers) == 1:
            return np.expand_dims(layers[0], self.layers_axis)
        return np.stack(layers, self.layers_axis)


def lazy_tree(source: Checkpoint, slot: str = "") -> dict[str, Any]:
    """The parameters, or a slot of the optimizer, scanned or not as the configuration says."""
    flat = {}
    axes = source.model.axes
    for path in axes.paths:
        layers = axes.layers(path)
        if layers == [None]:
            flat[path] = LazyParameter(source, path, slot)
        elif source.model.config.scan_layers:
            stacked = tuple(n for n in layers if n is not None)
            flat[path] = LazyParameter(source, path, slot, layers=stacked)
        else:
            for layer in layers:
                unrolled = Leaf(path, layer).unrolled
                flat[unrolled] = LazyParameter(source, path, slot, layer=layer)
    return unflatten(flat)


def lazy_optimizer(source: Checkpoint) -> Any:
    """The state of the optimizer, its slots as trees of `LazyParameter`; None without one."""
    return map_state(
        lambda leaf: lazy_tree(source, leaf.name) if isinstance(leaf, Slot) else leaf,
        source.optimizer,
    )


def write_lazily(leaf: LazyParameter, store: ts.TensorStore) -> None:
    """Writes a parameter into an array, slice by slice; the next ones are read meanwhile."""
    axis = leaf.sliced_axis
    chunk = 1 if axis is None else chunk_size(store, axis)
    places, reads = zip(*leaf.reads(chunk), strict=True)
    written = None
    for place, array in zip(places, ahead(reads), strict=True):
        if written is not None:
            written.result()
        written = store[place].write(array, can_reference_source_data_indefinitely=True)
    if written is not None:
        written.result()


def chunk_size(store: ts.TensorStore, axis: int) -> int:
    """How far a chunk reaches along an axis; 1 where there are no chunks."""
    shape = store.chunk_layout.write_chunk.shape
    return (shape[axis] if shape else None) or 1


class _Handler(ocp.type_handlers.NumpyHandler):
    """Orbax's handler of numpy arrays, for `LazyParameter`, too: one after the other, in slices."""

    def __init__(self) -> None:
        super().__init__(deepcopy_host_arrays=False)
        self._failed = False

    async def _open_and_write(
        self, value: LazyParameter | np.ndarray, tspec: dict[str, Any], ts_context: ts.Context
    ) -> None:
        # Nothing is awaited: orbax starts all parameters at once, and the next one gets its turn
        # when this one is written. After a failure there is no use in going on.
        if self._failed:
            return
        try:
            # Files are flushed to the disk once, when the folder is complete.
            context = ts.Context({"file_io_sync": False}, parent=ts_context)
            store = ts.open(ts.Spec(tspec), create=True, open=True, context=context).result()
            if isinstance(value, LazyParameter):
                write_lazily(value, store)
            else:
                store.write(value, can_reference_source_data_indefinitely=True).result()
        except BaseException:
            self._failed = True
            raise


def state_handler() -> ocp.PyTreeCheckpointHandler:
    """A handler that writes `LazyParameter` leaves besides arrays."""
    handler = _Handler()
    registry = ocp.type_handlers.create_type_handler_registry(
        (LazyParameter, handler),
        (np.ndarray, handler),
        (np.generic, handler),
        (jax.Array, ocp.type_handlers.ArrayHandler()),
    )
    # Weights hardly shrink, and packing them would take longer than all the rest.
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)


def save_arguments(tree: Any) -> ocp.args.PyTreeSave:
    """What to pass to an orbax checkpointer to save a tree with `LazyParameter` leaves."""

    def arguments(leaf: Any) -> ocp.SaveArgs:
        if not isinstance(leaf, LazyParameter) or leaf.chunk_bytes is None:
            return ocp.SaveArgs()
        # Axes named here are cut down to 1; without a name the largest one is cut as needed.
        cut = () if leaf.layers is None else (leaf.layers_axis,)
        return ocp.SaveArgs(chunk_byte_size=leaf.chunk_bytes, shard_axes=cut)

    return ocp.args.PyTreeSave(tree, save_args=jax.tree.map(arguments, tree))


def open_orbax(folder: Path) -> dict[str, ts.TensorStore | None]:
    """Opens the arrays of an orbax tree by path; no value is read.

    Returns:
      The arrays; None where the tree has an empty node.

    Raises:
      UserError: the folder is no complete orbax tree.
    """
    metadata = folder / "_METADATA"
    try:
        fields = json.loads(metadata.read_text())
        entries = {
            tuple(str(key["key"]) for key in entry["key_metadata"]): bool(
                entry["value_metadata"].get("skip_deserialize", False)
            )
            for entry in fields["tree_metadata"].values()
        }
    except FileNotFoundError as error:
        raise UserError(f"{metadata} does not exist; {folder} is no orbax checkpoint.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{metadata} is damaged.") from error
    driver = "zarr3" if fields.get("use_zarr3") else "zarr"
    base = {"driver": "file", "path": f"{folder.absolute()}/"}
    ocdbt = (folder / "manifest.ocdbt").exists()
    arrays: dict[str, ts.TensorStore | None] = {}
    for key, empty in entries.items():
        name = ".".join(key)
        kvstore = (
            {"driver": "ocdbt", "base": base, "path": f"{name}/"}
            if ocdbt
            else {**base, "path": f"{base['path']}{name}/"}
        )
        arrays["/".join(key)] = (
            None if empty else open_array({"driver": driver, "kvstore": kvstore}, folder, name)
        )
    return arrays


def open_array(spec: Mapping[str, Any], folder: Path, name: str) -> ts.TensorStore:
    """Opens one array for reading.

    Raises:
      UserError: it is not there or damaged.
    """
    try:
        # By default a chunk that is not there is read as zeros.
        strict = ts.Spec({**spec, "fill_missing_data_reads": False})
        return ts.open(strict, open=True, read=True).result()
    except ValueError as error:
        raise UserError(f"{folder}: array {name} is missing or damaged.") from error


def read_array(store: ts.TensorStore, folder: Path, name: str) -> np.ndarray:
    """The values of an array; `folder` and `name` are for messages.

    Raises:
      UserError: some are not there or damaged.
    """
    try:
        return store.read().result()
    except ValueError as error:
        raise UserError(
            f"{folder}: array {name} is damaged, or a file of it is missing."
        ) from error
