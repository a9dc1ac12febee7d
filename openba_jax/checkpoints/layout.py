"""Tensor layouts of other frameworks, written down with logical axis names.

A layout names the axes of *their* tensor, slowest first; axes in brackets are merged into one:
`"(heads part kv) embed"` is a fused projection whose rows run over heads, within a head over query,
key and value, and within those over `kv`. Our side needs no words: the axes of our parameters are
declared in the model. `part` counts our parameters that one of their tensors holds.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

PART = "part"
SHARDED_AXES = frozenset({"vocab", "heads", "mlp"})
"""Axes that tensor parallelism cuts; all other tensors are whole on each rank."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Axes of one of their tensors.

    Attributes:
      dims: for each dimension of their tensor the names that it merges.
    """

    dims: tuple[tuple[str, ...], ...]

    @classmethod
    @functools.cache
    def parse(cls, text: str) -> Layout:
        """Reads e.g. `"(heads part kv) embed"`."""
        dims: list[tuple[str, ...]] = []
        for piece in text.replace("(", "|(").replace(")", ")|").split("|"):
            if piece.startswith("("):
                dims.append(tuple(piece[1:-1].split()))
            else:
                dims.extend((name,) for name in piece.split())
        return cls(tuple(dims))

    @property
    def names(self) -> tuple[str, ...]:
        """All axis names, slowest first."""
        return tuple(name for dim in self.dims for name in dim)

    @property
    def sharded_dim(self) -> int | None:
        """The dimension that tensor parallelism cuts, or None."""
        for number, dim in enumerate(self.dims):
            if SHARDED_AXES & set(dim):
                return number
        return None

    def sharded_blocks(self, parts: int) -> int:
        """How many blocks the dimension that is cut has, each of them cut by itself.

        A rank holds its own part of every parameter where `part` runs slower than the axis that is
        cut, as in `"(part mlp) embed"`.
        """
        if self.sharded_dim is None:
            return 1
        dim = self.dims[self.sharded_dim]
        first = next(number for number, name in enumerate(dim) if name in SHARDED_AXES)
        return parts if PART in dim[:first] else 1

    def shape(self, sizes: Mapping[str, int], parts: int) -> tuple[int, ...]:
        """The shape of their tensor; `sizes` are those of the logical axes."""
        sizes = {**sizes, PART: parts}
        return tuple(math.prod(sizes[name] for name in dim) for dim in self.dims)

    def unpack(
        self, tensor: np.ndarray, axes: Sequence[str], sizes: Mapping[str, int], parts: int
    ) -> list[np.ndarray]:
        """Views of their tensor as our `parts` parameters, whose axes are `axes`.

        `sizes` may differ from the model's where a slice of the tensor is given.
        """
        sizes = {**sizes, PART: parts}
        atoms = tensor.reshape([sizes[name] for name in self.names])
        names = [name for name in self.names if name != PART]
        order = [names.index(name) for name in axes]
        if PART not in self.names:
            return [atoms.transpose(order)]
        position = self.names.index(PART)
        return [part.transpose(order) for part in np.moveaxis(atoms, position, 0)]

    def pack(self, arrays: Sequence[np.ndarray], axes: Sequence[str]) -> np.ndarray:
        """The inverse of `unpack`: their tensor, a view where nothing has to be joined."""
        order = [axes.index(name) for name in self.names if name != PART]
        views = [array.transpose(order) for array in arrays]
        if PART in self.names:
            position = self.names.index(PART)
            joined = np.empty(
                (*views[0].shape[:position], len(views), *views[0].shape[position:]),
                views[0].dtype,
            )
            for number, view in enumerate(views):
                copy_blocked(np.moveaxis(joined, position, 0)[number], view)
        else:
            joined = views[0]
        sizes = dict(zip(self.names, joined.shape, strict=True))
        shape = [math.prod(sizes[name] for name in dim) for dim in self.dims]
        return joined.reshape(shape)


_BLOCK = 64


def copy_blocked(target: np.ndarray, source: np.ndarray) -> None:
    """`target[...] = source` for equal types, in blocks of the last axis.

    Twice as fast where the source is transposed; bfloat16, whose type is not numpy's own, gains
    as much again from being moved as integers.
    """
    bits = np.dtype(f"u{source.itemsize}")
    target, source = target.view(bits), source.view(bits)
    if source.ndim < 2 or source.strides[-1] == source.itemsize:
        target[...] = source
        return
    for start in range(0, source.shape[-1], _BLOCK):
        target[..., start : start + _BLOCK] = source[..., start : start + _BLOCK]


def contiguous(array: np.ndarray) -> np.ndarray:
    """The array in C order, copied only where it is not."""
    if array.flags.c_contiguous:
        return array
    result = np.empty(array.shape, array.dtype)
    copy_blocked(result, array)
    return result
