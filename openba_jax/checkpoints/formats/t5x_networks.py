"""Checkpoints of T5X's own networks, as those of this package's modules.

What a network calls its parameters and how it stacks them says its family
(`models.mapping.T5XNetwork`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from openba_jax.checkpoints.checkpoint import Checkpoint
from openba_jax.checkpoints.files.tensors import RowSlice
from openba_jax.checkpoints.files.tensorstore_arrays import LazyParameter
from openba_jax.errors import UserError
from openba_jax.models import registry
from openba_jax.models.axes import Joined, Leaf, flatten, stack_of, unflatten
from openba_jax.models.mapping import T5XNetwork

CARRIED = "t5x_network"
"""Where a checkpoint keeps the name of the network that it is of."""


@dataclasses.dataclass(frozen=True)
class MergedArray:
    """A tensorstore array some of whose neighbouring axes are one.

    Attributes:
      store: the array.
      counts: how many axes of it each axis here stands for.
    """

    store: ts.TensorStore
    counts: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, axes merged."""
        sizes = iter(self.store.shape)
        return tuple(math.prod(next(sizes) for _ in range(count)) for count in self.counts)

    @property
    def dtype(self) -> ts.dtype:
        """Its type."""
        return self.store.dtype

    @property
    def chunk_layout(self) -> ts.ChunkLayout:
        """Where its chunks lie."""
        return self.store.chunk_layout

    def __getitem__(self, place: tuple[Any, ...]) -> MergedArray:
        """A part; merged axes are taken whole."""
        parts = zip(place, self.counts, strict=True)
        spelt = [i for i, count in parts for i in ([i] if count == 1 else [slice(None)] * count)]
        left = [n for i, n in zip(place, self.counts, strict=True) if isinstance(i, slice)]
        return MergedArray(self.store[tuple(spelt)], tuple(left))

    def read(self) -> PendingRead:
        """Begins to read."""
        return PendingRead(self.store.read(), self.shape)


@dataclasses.dataclass(frozen=True)
class PendingRead:
    """Values that are being read.

    Attributes:
      values: the future of the array.
      shape: what it is brought to.
    """

    values: Any
    shape: tuple[int, ...]

    def result(self) -> np.ndarray:
        """The values."""
        found: np.ndarray = self.values.result()
        return found.reshape(self.shape)


class SpreadCheckpoint:
    """Another checkpoint, each layer with its own copy of what they share there."""

    def __init__(self, inner: Checkpoint, network: T5XNetwork) -> None:
        """Reads nothing.

        Args:
          inner: where the values come from.
          network: what lies otherwise.

        Raises:
          UserError: the network has parameters that the checkpoint does not tell.
        """
        self.model = inner.model.replace(**network.fields)
        lacking = self.model.axes.paths.keys() - inner.model.axes.paths.keys()
        if odd := sorted(lacking - network.spread.keys()):
            raise UserError(
                f"this network of T5X has one {odd[0]}, and the model has one in each layer; write "
                "--t5x_network=scalable_t5."
            )
        self._source = {path: network.spread[path] for path in lacking}
        self._inner = inner
        self.tokenizer, self.plan, self.step = inner.tokenizer, inner.plan, inner.step
        self.optimizer, self.data, self.carried = inner.optimizer, inner.data, inner.carried

    def dtype(self, leaf: Leaf) -> np.dtype:
        """The type of a leaf."""
        return self._inner.dtype(self._shared(leaf))

    def read(self, leaf: Leaf, rows: RowSlice = None) -> np.ndarray:
        """A leaf, or a slice of its axis `vocab`."""
        return self._inner.read(self._shared(leaf), rows)

    def place(self, leaf: Leaf) -> str:
        """The file and the tensor that hold a leaf."""
        return self._inner.place(self._shared(leaf))

    def _shared(self, leaf: Leaf) -> Leaf:
        return Leaf(self._source[leaf.path]) if leaf.path in self._source else leaf


def network_of(target: Mapping[str, Any]) -> str | None:
    """The name of the network that nests its layers as these paths do; None: as here."""
    for family in registry.families():
        for name, network in family.t5x_networks.items():
            if any(path.startswith(there) for there in network.stacks for path in target):
                return name
    return None


def named_network(name: str, family: str) -> T5XNetwork:
    """One of T5X's networks of a family.

    Raises:
      UserError: the family has none of that name.
    """
    known = registry.family(family).t5x_networks
    if name not in known:
        names = f"known are {', '.join(known)}" if known else "it has none"
        raise UserError(f"the family {family} has no network of T5X's called {name!r}; {names}.")
    return known[name]


def as_here(target: Mapping[str, ts.TensorStore], name: str, where: Path) -> dict[str, Any]:
    """The arrays of a network's checkpoint, named and stacked as here.

    Raises:
      UserError: the network has no such parameter, or it has another number of axes there.
    """
    family = next(f for f in registry.families() if name in f.t5x_networks)
    network = family.t5x_networks[name]
    axes: dict[str, tuple[str, ...]] = {}
    joined: set[str] = set()
    for config in (family.largest, *family.alternatives):
        model = family.model(config.replace(**network.fields))
        axes |= flatten(model.logical_axes())
        joined |= {c.axis for c in model.couplings if isinstance(c, Joined)}
    found: dict[str, Any] = {}
    for path, array in target.items():
        here = network.here(path)
        names = axes.get(here)
        counts = tuple(1 + (network.split and axis in joined) for axis in names or ())
        if names is None or len(array.shape) != sum(counts):
            raise UserError(
                f"{where}: {path} of shape {list(array.shape)} is no parameter of T5X's {name}."
            )
        if stack_of(here) is not None:
            array = array[ts.d[network.layers_axis].transpose[0]]
        found[here] = MergedArray(array, counts)
    return found


def lazy_network(source: Checkpoint, network: T5XNetwork) -> dict[str, Any]:
    """The parameters as a network has them, to be written; see `lazy_tree`."""
    axes = source.model.axes
    split = {c.axis: c.inner for c in axes.couplings if isinstance(c, Joined) and network.split}
    flat = {}
    for path in axes.paths:
        layers = axes.layers(path)
        if layers == [None] or source.model.config.scan_layers:
            stacked = tuple(n for n in layers if n is not None) or None
            flat[network.there(path)] = LazyParameter(
                source, path, layers=stacked, layers_axis=network.layers_axis, split=split
            )
            continue
        for layer in layers:
            unrolled = network.there(Leaf(path, layer).unrolled)
            flat[unrolled] = LazyParameter(source, path, layer=layer, split=split)
    return unflatten(flat)
