"""Tables of tensor names, spelt out for one model and read in both directions.

A family says in `models/FAMILY/` what its tensors are called elsewhere (`models.mapping.Row`); here
a row becomes one `Entry` for each layer.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator

import numpy as np

from openba_jax.checkpoints.checkpoint import Checkpoint
from openba_jax.checkpoints.files.tensors import Read, RowSlice, row_slices
from openba_jax.checkpoints.layout import PART, Layout, contiguous
from openba_jax.errors import UserError
from openba_jax.models.axes import VOCAB, AxisTable, Leaf, stack_of
from openba_jax.models.mapping import Row


@dataclasses.dataclass(frozen=True)
class Entry:
    """One of their tensors and the leaves that it holds.

    Attributes:
      theirs: its name.
      leaves: our leaves, in order.
      axes: the axes of each of those leaves, without `layers`.
      layout: its layout.
    """

    theirs: str
    leaves: tuple[Leaf, ...]
    axes: tuple[str, ...]
    layout: Layout

    def shape(self, table: AxisTable) -> tuple[int, ...]:
        """The shape of their tensor."""
        return self.layout.shape(table.sizes_at(self.leaves[0].path), len(self.leaves))


def expand(rows: Iterable[Row], table: AxisTable) -> list[Entry]:
    """The rows that apply to a model, layer by layer in the order of layers.

    Consecutive rows of one stack's layers are repeated as a block: layer 0, then layer 1, ...
    """
    entries: list[Entry] = []
    block: list[Row] = []

    def flush() -> None:
        if block:
            for number in table.layers(block[0].ours[0]):
                entries.extend(_entry(row, table, number) for row in block)
            block.clear()

    for row in rows:
        if not _applies(row, table):
            continue
        stack = stack_of(row.ours[0])
        if stack is None or (block and stack_of(block[0].ours[0]) != stack):
            flush()
        if stack is None:
            entries.append(_entry(row, table, None))
        else:
            block.append(row)
    flush()
    return entries


def read_entry(checkpoint: Checkpoint, entry: Entry, rows: RowSlice = None) -> np.ndarray:
    """One of their tensors, in C order; `rows` are those of the vocabulary."""
    arrays = [checkpoint.read(leaf, rows) for leaf in entry.leaves]
    return contiguous(entry.layout.pack(arrays, entry.axes))


def entry_reads(checkpoint: Checkpoint, entry: Entry) -> Iterator[Read]:
    """Reads of one of their tensors: of consecutive rows if it is one of the vocabulary."""
    if VOCAB not in entry.axes:
        yield functools.partial(read_entry, checkpoint, entry)
        return
    shape = entry.shape(checkpoint.model.axes)
    row_bytes = entry_dtype(checkpoint, entry).itemsize * math.prod(shape[1:])
    for rows in row_slices(shape[0], row_bytes):
        yield functools.partial(read_entry, checkpoint, entry, rows)


def entry_dtype(checkpoint: Checkpoint, entry: Entry) -> np.dtype:
    """The type of one of their tensors.

    Raises:
      UserError: its leaves have different types.
    """
    dtypes = {checkpoint.dtype(leaf) for leaf in entry.leaves}
    if len(dtypes) > 1:
        names = ", ".join(str(leaf) for leaf in entry.leaves)
        raise UserError(
            f"{names} have different types ({', '.join(sorted(map(str, dtypes)))}) and cannot make "
            f"up {entry.theirs}; choose one with --dtype."
        )
    return dtypes.pop()


def _applies(row: Row, table: AxisTable) -> bool:
    axes = set(Layout.parse(row.layout).names) - {PART}
    return all(path in table.paths and set(table.paths[path]) == axes for path in row.ours)


def _entry(row: Row, table: AxisTable, number: int | None) -> Entry:
    return Entry(
        theirs=row.theirs.format(n=number),
        leaves=tuple(Leaf(path, number) for path in row.ours),
        axes=table.paths[row.ours[0]],
        layout=Layout.parse(row.layout),
    )
