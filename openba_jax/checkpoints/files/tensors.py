"""Tensors in files, read lazily, and what can be said of their values."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import ml_dtypes
import numpy as np

SLICE_BYTES = 64 * 2**20
"""Tensors of the vocabulary are moved in slices of about this size."""

READERS = 2
"""Tensors that are read while another one is written."""

RowSlice = slice | None
Read = Callable[[], np.ndarray]
"""Reads a tensor, or some of its rows, when it is called."""


class Tensor(Protocol):
    """A tensor in a file."""

    @property
    def file(self) -> Path:
        """The file, for messages."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    @property
    def dtype(self) -> np.dtype:
        """Its type."""

    def read(self, rows: RowSlice = None) -> np.ndarray:
        """The tensor, or some of its rows; where possible a view of the mapped file."""


@dataclasses.dataclass(frozen=True)
class FileTensor:
    """A tensor whose bytes lie in a file as they are; each read maps them anew.

    Attributes:
      file: the file.
      offset: position of the first element, in bytes.
      shape: its shape.
      dtype: its type.
      strides: in elements; None is C order.
    """

    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...] | None = None

    def read(self, rows: RowSlice = None) -> np.ndarray:
        """The tensor, or some of its rows, as a view of the mapped file."""
        strides, shape, offset = self.strides or _c_strides(self.shape), self.shape, self.offset
        itemsize = self.dtype.itemsize
        if rows is not None and shape:
            start, stop, _ = rows.indices(shape[0])
            shape, offset = (stop - start, *shape[1:]), offset + start * strides[0] * itemsize
        if 0 in shape:
            return np.empty(shape, self.dtype)
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        _announce(self.file, offset, extent * itemsize)
        # A fresh map per read: pages go back to the system when the view is dropped.
        flat = np.memmap(self.file, self.dtype, "r", offset, (extent,)).view(np.ndarray)
        return np.lib.stride_tricks.as_strided(
            flat, shape, [s * itemsize for s in strides], writeable=False
        )


@dataclasses.dataclass(frozen=True)
class JoinedTensor:
    """A tensor cut into parts along one axis.

    Attributes:
      parts: the parts, in order.
      axis: the axis along which they are joined.
      blocks: how many blocks of equal size that axis has in each part; blocks of one number are
        joined with one another.
    """

    parts: tuple[Tensor, ...]
    axis: int
    blocks: int = 1

    @property
    def file(self) -> Path:
        """The folder that holds the files of all parts."""
        return Path(os.path.commonpath([part.file for part in self.parts]))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole."""
        shape = list(self.parts[0].shape)
        shape[self.axis] = sum(part.shape[self.axis] for part in self.parts)
        return tuple(shape)

    @property
    def dtype(self) -> np.dtype:
        """Type of the parts."""
        return self.parts[0].dtype

    def read(self, rows: RowSlice = None) -> np.ndarray:
        """The whole, or some of its rows."""
        if self.blocks > 1:
            pieces = [split_axis(part.read(), self.axis, self.blocks) for part in self.parts]
            whole = np.concatenate(pieces, self.axis + 1).reshape(self.shape)
            return whole if rows is None else whole[rows]
        if rows is None or self.axis != 0:
            return np.concatenate([part.read(rows) for part in self.parts], self.axis)
        start, stop, _ = rows.indices(self.shape[0])
        pieces, first = [], 0
        for part in self.parts:
            low, high = max(start - first, 0), min(stop - first, part.shape[0])
            if low < high:
                pieces.append(part.read(slice(low, high)))
            first += part.shape[0]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def split_axis(array: np.ndarray, axis: int, blocks: int) -> np.ndarray:
    """The array with an axis of `blocks` in front of `axis`, whose size they divide."""
    size = array.shape[axis] // blocks
    return array.reshape(*array.shape[:axis], blocks, size, *array.shape[axis + 1 :])


# The bits of the exponent, as an integer of the same size.
_EXPONENTS: dict[np.dtype, np.unsignedinteger] = {
    np.dtype(ml_dtypes.bfloat16): np.uint16(0x7F80),
    np.dtype(np.float16): np.uint16(0x7C00),
    np.dtype(np.float32): np.uint32(0x7F800000),
    np.dtype(np.float64): np.uint64(0x7FF0000000000000),
}
_PIECE = 2**17
WEIGHT_TYPES = frozenset(_EXPONENTS) - {np.dtype(np.float64)}
"""Types that weights can have."""


def count_not_finite(array: np.ndarray) -> int:
    """How many values are NaN or infinite: all bits of their exponent are set."""
    if array.dtype not in _EXPONENTS or array.size == 0:
        return 0
    mask = _EXPONENTS[array.dtype]
    bits = array.view(mask.dtype).ravel(order="K")
    # In pieces that stay in the processor's cache.
    scratch = np.empty(min(bits.size, _PIECE), mask.dtype)
    count = 0
    for start in range(0, bits.size, _PIECE):
        piece = bits[start : start + _PIECE]
        exponents = np.bitwise_and(piece, mask, out=scratch[: piece.size])
        if exponents.max() == mask:
            count += int(np.count_nonzero(exponents == mask))
    return count


def ahead(reads: Iterable[Read]) -> Iterator[np.ndarray]:
    """Results of the reads, in order; the next ones are made in threads meanwhile."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: collections.deque[Future[np.ndarray]] = collections.deque()
        for read in reads:
            waiting.append(pool.submit(read))
            if len(waiting) > READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def row_slices(count: int, row_bytes: int) -> Iterator[slice]:
    """Consecutive slices of `count` rows, of about `SLICE_BYTES` each."""
    step = max(1, SLICE_BYTES // row_bytes)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def equal_tensors(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits; read in slices."""
    if a == b:
        return True
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.shape or 0 in a.shape:
        return a.read().tobytes() == b.read().tobytes()
    row_bytes = a.dtype.itemsize * int(np.prod(a.shape[1:]))
    bits = np.dtype(f"u{a.dtype.itemsize}")
    return all(
        np.array_equal(a.read(rows).view(bits), b.read(rows).view(bits))
        for rows in row_slices(a.shape[0], row_bytes)
    )


def _c_strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return tuple(reversed(strides[: len(shape)]))


def _announce(file: Path, offset: int, size: int) -> None:
    """Asks the system to read a part of a file at once, rather than page by page when touched."""
    if hasattr(os, "posix_fadvise"):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), offset, size, os.POSIX_FADV_WILLNEED)
