"""`AxisTable`: the sizes of a model's axes, and which parameter has which axes.

It is derived from parameters and the names of their axes, and is the only place where sizes are
worked out: plans, selection, counting, conversion and the inference of configurations read it.

A *key* names an axis. An axis that occurs outside of the stacks, `embed` or `vocab`, has its name
for a key, which speaks of every axis of that name. Any other belongs to its stack: `encoder/heads`,
and `encoder/layers` for the layers themselves. Most of these are cut in each layer by itself. Those
that also occur outside of the layers are cut alike in all of them: the heads of T5, which share one
position bias (`AxisTable.layers_key`). A parameter names an axis of another stack by its key, such
as `encoder/embed` in the cross-attention of a decoder.

Paths are those of a tree with scanned layers, `encoder/layers/mlp/wo/kernel`, however the layers
lie in memory.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from openba_jax.errors import UserError

LAYERS = "layers"
VOCAB = "vocab"

_IN_LAYERS = re.compile(r"(?P<stack>(?:.+?/)?)layers(?:_(?P<number>\d+))?/(?P<rest>.+)")


@dataclasses.dataclass(frozen=True)
class Equal:
    """Keys of which a model keeps equally many: it has one size for all of them."""

    keys: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Fixed:
    """An axis, by name, that is never cut."""

    axis: str


@dataclasses.dataclass(frozen=True)
class Grouped:
    """Grouped-query attention: the indices of `inner` form equal consecutive groups of `outer`.

    A dropped group takes its members along; every kept group keeps equally many.

    Attributes:
      outer: key of the groups, e.g. `decoder/kv_heads`.
      inner: key of the members, e.g. `decoder/heads`.
    """

    outer: str
    inner: str


@dataclasses.dataclass(frozen=True)
class Joined:
    """One axis of an array that stands for two; only the slower one is cut.

    Attributes:
      axis: name of the axis of the array, e.g. `joined_kv`.
      outer: name of the slower axis, e.g. `heads`.
      inner: size of the faster one.
    """

    axis: str
    outer: str
    inner: int


Coupling = Equal | Fixed | Grouped | Joined


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter in one layer, or what an optimizer keeps for it.

    Attributes:
      path: e.g. `encoder/layers/mlp/wo/kernel`; the same whether layers are scanned or not.
      layer: number of the layer; None outside of layers.
      slot: of the optimizer's state, e.g. `1/mu`; empty for the parameter itself.
    """

    path: str
    layer: int | None = None
    slot: str = ""

    def __str__(self) -> str:
        """The path, the number of the layer in brackets, and the slot."""
        path = self.path if self.layer is None else f"{self.path}[{self.layer}]"
        return f"{path} of optimizer state {self.slot}" if self.slot else path

    @property
    def unrolled(self) -> str:
        """Its path in a tree whose layers are not scanned: `layers_3` for `layers`."""
        if self.layer is None:
            return self.path
        return re.sub(r"(^|/)layers/", rf"\1layers_{self.layer}/", self.path, count=1)


@dataclasses.dataclass(frozen=True)
class AxisTable:
    """Axes of a model.

    Attributes:
      sizes: size of the axis that each key names.
      paths: for each parameter the names of its axes, `layers` left out.
      couplings: what holds between keys.
    """

    sizes: Mapping[str, int]
    paths: Mapping[str, tuple[str, ...]]
    couplings: tuple[Coupling, ...] = ()

    @functools.cached_property
    def stacks(self) -> tuple[str, ...]:
        """Names of the stacks of layers, in order."""
        return tuple(
            key.rpartition("/")[0] for key in self.sizes if key.rpartition("/")[2] == LAYERS
        )

    @functools.cached_property
    def shared(self) -> frozenset[str]:
        """Keys that also occur outside of layers: of these all layers keep the same."""
        return frozenset(
            self.key(path, axis)
            for path, axes in self.paths.items()
            if stack_of(path) is None
            for axis in axes
        )

    def layers_key(self, key: str) -> str | None:
        """The key of the layers that keep each their own indices of an axis; None if all share."""
        stack, slash, axis = key.rpartition("/")
        return join(stack, LAYERS) if slash and axis != LAYERS and key not in self.shared else None

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """Keys of what can be cut."""
        fixed = {coupling.axis for coupling in self.couplings if isinstance(coupling, Fixed)}
        fixed |= {coupling.axis for coupling in self.couplings if isinstance(coupling, Joined)}
        return tuple(key for key in self.sizes if axis_of(key) not in fixed)

    def key(self, path: str, axis: str) -> str:
        """The key of an axis of a parameter."""
        inner = join(_home(path, self.stacks), axis)
        return inner if "/" not in axis and inner in self.sizes else axis

    def cut_by(self, path: str, axis: str) -> tuple[str, int]:
        """The key by which an axis of a parameter is cut, and how many indices go together.

        It is the key of the axis, and 1, unless the axis joins two: then it is that of the slower
        one, and the size of the faster one.
        """
        key = self.key(path, axis)
        for coupling in self.couplings:
            if isinstance(coupling, Joined) and coupling.axis == axis_of(key):
                return _sibling(key, coupling.outer), coupling.inner
        return key, 1

    def depth(self, stack: str) -> int:
        """Number of layers of a stack."""
        return self.sizes[join(stack, LAYERS)]

    def layers(self, path: str) -> list[int | None]:
        """Numbers of the layers that have a parameter; `[None]` outside of layers."""
        stack = stack_of(path)
        return [None] if stack is None else list(range(self.depth(stack)))

    def sizes_at(self, path: str) -> dict[str, int]:
        """Sizes of the axes of a parameter, by name."""
        return {axis: self.sizes[self.key(path, axis)] for axis in self.paths[path]}

    def shape(self, path: str) -> tuple[int, ...]:
        """Shape of a parameter in one layer."""
        return tuple(self.sizes[self.key(path, axis)] for axis in self.paths[path])

    def leaves(self, slot: str = "") -> list[Leaf]:
        """All leaves, in the order of the paths."""
        return [Leaf(path, layer, slot) for path in self.paths for layer in self.layers(path)]

    def count(self) -> int:
        """Number of parameters."""
        return sum(math.prod(self.shape(path)) * len(self.layers(path)) for path in self.paths)


def axis_table(
    shapes: Mapping[str, Any],
    axes: Mapping[str, Any],
    *,
    stacks: Sequence[str] = (),
    couplings: Sequence[Coupling] = (),
) -> AxisTable:
    """The table of any tree of parameters whose axes have names.

    Args:
      shapes: nested dict of anything with a `shape`, scanned (`layers/...`) or unrolled
        (`layers_0/...`).
      axes: the same structure, of tuples with the name of each axis.
      stacks: order of the stacks; by default that of the tree.
      couplings: what holds between the axes.

    Raises:
      UserError: the two trees differ, an array has not one axis for each name, or two arrays
        disagree about the size of an axis.
    """
    leaves, names = flatten(shapes), flatten(axes)
    if leaves.keys() != names.keys():
        odd = sorted(leaves.keys() ^ names.keys())
        raise UserError(f"parameters and axis names do not match, for instance at {odd[0]}.")
    found_stacks = {stack for path in names if (stack := stack_of(path)) is not None}
    everywhere = {VOCAB} | {
        axis
        for path, all_axes in names.items()
        if not _home(path, found_stacks)
        for axis in all_axes
    }
    found: dict[str, int] = {}
    paths: dict[str, tuple[str, ...]] = {}
    depths = {join(stack, LAYERS): 0 for stack in stacks}
    for path, all_axes in names.items():
        shape = tuple(leaves[path].shape)
        if len(shape) != len(all_axes):
            raise UserError(f"{path} has shape {shape}, but should have the axes {all_axes}.")
        normal, number = split_layer(path)
        paths[normal] = tuple(axis for axis in all_axes if axis != LAYERS)
        stack = stack_of(normal)
        if stack is not None:
            depth = number + 1 if number is not None else shape[all_axes.index(LAYERS)]
            key = join(stack, LAYERS)
            depths[key] = max(depths.get(key, 0), depth)
        for axis, size in zip(all_axes, shape, strict=True):
            if axis == LAYERS:
                continue
            known = axis in everywhere or "/" in axis
            key = axis if known else join(_home(normal, found_stacks), axis)
            if found.setdefault(key, size) != size:
                raise UserError(f"{path} has {size} along {key}, and others have {found[key]}.")
    for coupling in couplings:
        if isinstance(coupling, Joined):
            for key in [key for key in found if axis_of(key) == coupling.axis]:
                found.setdefault(_sibling(key, coupling.outer), found[key] // coupling.inner)
    order = list(depths)
    flat = sorted(key for key in found if "/" not in key)
    inner = [
        key
        for stack in (depth.rpartition("/")[0] for depth in depths)
        for key in sorted(found)
        if "/" in key and key.rpartition("/")[0] == stack
    ]
    sizes = {key: depths[key] for key in order if depths[key]}
    return AxisTable(
        {**sizes, **{key: found[key] for key in (*flat, *inner)}}, paths, tuple(couplings)
    )


def axis_of(key: str) -> str:
    """The name of the axis that a key speaks of."""
    return key.rpartition("/")[2]


def join(stack: str, axis: str) -> str:
    """The key of an axis in the layers of a stack."""
    return f"{stack}/{axis}" if stack else axis


def stack_of(path: str) -> str | None:
    """The stack in whose layers a parameter lies; None outside of layers."""
    match = _IN_LAYERS.match(path)
    return None if match is None else match["stack"].rstrip("/")


def _home(path: str, stacks: Iterable[str]) -> str:
    """The stack that a parameter belongs to, in its layers or beside them; empty if to none."""
    inside = stack_of(path)
    if inside is not None:
        return inside
    return max((stack for stack in stacks if path.startswith(f"{stack}/")), key=len, default="")


def split_layer(path: str) -> tuple[str, int | None]:
    """The path in a scanned tree, and the number of the layer if `path` is of an unrolled one."""
    match = _IN_LAYERS.match(path)
    if match is None or match["number"] is None:
        return path, None
    return f"{match['stack']}{LAYERS}/{match['rest']}", int(match["number"])


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one dict, keys joined by `/`."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}/{key}" if prefix else str(key)))
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = value
    return tree


def _sibling(key: str, axis: str) -> str:
    return join(key.rpartition("/")[0], axis)
