"""The shapes that a search may propose: a grid of sizes, counted without making a model.

A dimension of the grid is what moves by itself: the depth of a stack, or a width in all stacks that
have it. What holds between axes is held by construction: keys that are `Equal` share a dimension,
members of groups are so many for each group, and joined axes follow.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, VOCAB, AxisTable, Equal, Grouped, Joined, axis_of, join
from openba_jax.models.base import Model
from openba_jax.pruning.plan import Plan, pruned_model

MOST_SHAPES = 4_000_000
"""Of a grid; some arrays of float64 of this size are in memory at once."""

PARTS = 8
"""Into how many steps a width is divided, unless a multiple is given."""

TILE = 128
"""Multiples of this fill the tiles of matrix units."""


class Dimension(NamedTuple):
    """What moves by itself.

    Attributes:
      name: a key, or the name of an axis.
      keys: of the axes that it moves.
      values: of the first of the keys, ascending; the last is that of the whole model. Of members
        of groups: members of one group.
    """

    name: str
    keys: tuple[str, ...]
    values: tuple[int, ...]


Kept = Mapping[str, Sequence[Sequence[int]]]
"""For each key of layers which of them are kept, by their number less one."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """All shapes that a search looks at.

    Attributes:
      model: the whole model.
      dimensions: what moves.
      moves: of every key that a dimension moves int64 arrays with as many axes as there are
        dimensions, of size 1 along all others; of members of groups: of one group.
    """

    model: Model
    dimensions: tuple[Dimension, ...]
    moves: Mapping[str, np.ndarray]

    @property
    def axes(self) -> AxisTable:
        """The axes of the whole model."""
        return self.model.axes

    @property
    def shape(self) -> tuple[int, ...]:
        """How many values each dimension has."""
        return tuple(len(dimension.values) for dimension in self.dimensions)

    @functools.cached_property
    def sizes(self) -> dict[str, np.ndarray]:
        """Of every key of the model's axes an array as in `moves`, or with several axes."""
        ones = (1,) * len(self.shape)
        found = _completed(self.axes, self.moves)
        return {key: np.broadcast_to(v, np.shape(v) or ones) for key, v in found.items()}

    @functools.cached_property
    def moving(self) -> tuple[str, ...]:
        """Keys of what can be cut that do not stay as they are in all shapes."""
        return tuple(key for key in self.axes.keys if self.sizes[key].size > 1)

    def parameters(self) -> np.ndarray:
        """The number of parameters of every shape, int64: sums of products of sizes."""
        total = np.zeros((1,) * len(self.shape), np.int64)
        for path, names in self.axes.paths.items():
            count = np.ones_like(total)
            for axis in names:
                count = count * self.sizes[self.axes.key(path, axis)]
            if self.axes.layers(path) != [None]:
                count = count * self.sizes[self.axes.key(path, LAYERS)]
            total = total + count
        return np.broadcast_to(total, self.shape)

    def sizes_at(self, place: Sequence[int]) -> dict[str, int]:
        """The sizes of all keys of the shape at a place of the grid."""
        return {
            key: int(values[tuple(min(i, n - 1) for i, n in zip(place, values.shape, strict=True))])
            for key, values in self.sizes.items()
        }

    def text(self, place: Sequence[int]) -> str:
        """The shape at a place of the grid in words."""
        return text_of(self.values(place))

    def values(self, place: Sequence[int]) -> dict[str, int]:
        """The values of all dimensions at a place of the grid, by name."""
        pairs = zip(self.dimensions, place, strict=True)
        return {dimension.name: dimension.values[index] for dimension, index in pairs}

    def model_at(self, place: Sequence[int], kept: Kept) -> Model:
        """The model of a shape.

        Args:
          place: in the grid.
          kept: layers that are kept, as some families have layers of several kinds.

        Raises:
          UserError: no network of the family has these sizes.
        """
        return self._model(self.sizes_at(place), kept)

    def _model(self, sizes: Mapping[str, int], kept: Kept) -> Model:
        layers = tuple(
            (key, tuple(kept[key][sizes[key] - 1])) for key in sorted(kept) if key in self.moving
        )
        return _with_layers(self.model, layers).resized(sizes)

    def interpolated(self, figure: Callable[[Model], float], kept: Kept) -> np.ndarray:
        """A figure of every shape, float64, from that of a few models.

        FLOPs are sums over layers, and in a layer sums of products of different axes: what stacks
        add is added, and along the size of an axis the figure is a line. To make a model for each
        shape would take minutes.

        Args:
          figure: of a model.
          kept: as of `model_at`.
        """
        deep = [d for d, each in enumerate(self.dimensions) if axis_of(each.keys[0]) == LAYERS]
        lines = [line for d in range(len(self.shape)) if d not in deep for line in self._lines(d)]
        whole = {key: int(values.max()) for key, values in self.moves.items()}

        def along(depth: int | None) -> np.ndarray:
            """With one depth moving, all widths."""
            count = 1 if depth is None else self.shape[depth]
            corners = list(itertools.product((0, -1), repeat=len(lines)))
            total = np.zeros((1,) * len(self.shape))
            for number in range(count):
                of_number = np.zeros_like(total)
                for corner in corners:
                    sizes = dict(whole)
                    weight = np.ones_like(total)
                    for line, end in zip(lines, corner, strict=True):
                        sizes |= {key: int(self.moves[key].ravel()[end]) for key in line.keys}
                        weight = weight * (line.share if end else 1.0 - line.share)
                    if depth is not None:
                        for key in self.dimensions[depth].keys:
                            sizes[key] = int(self.moves[key].ravel()[number])
                    model = self._model(_completed(self.axes, sizes), kept)
                    of_number = of_number + figure(model) * weight
                if depth is None:
                    return of_number
                at = np.zeros(self.shape[depth])
                at[number] = 1.0
                total = total + of_number * at.reshape(_along(depth, len(self.shape)))
            return total

        total = along(None)
        for depth in deep:
            total = total + along(depth) - along(None)
        return np.broadcast_to(total, self.shape)

    def _lines(self, dimension: int) -> list[_Line]:
        """Keys of a dimension by how they go from their least to their largest size."""
        found: dict[bytes, _Line] = {}
        for key in self.dimensions[dimension].keys:
            sizes = self.moves[key].astype(np.float64)
            if (spread := np.ptp(sizes)) > 0:
                share = (sizes - sizes.min()) / spread
                line = found.get(share.tobytes(), _Line((), share))
                found[share.tobytes()] = line._replace(keys=(*line.keys, key))
        return list(found.values())


class _Line(NamedTuple):
    """Keys whose sizes move in proportion, and where between least and largest they are."""

    keys: tuple[str, ...]
    share: np.ndarray


def text_of(values: Mapping[str, int]) -> str:
    """A shape in words, from the values of dimensions by name."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


@functools.lru_cache(maxsize=4096)
def _with_layers(model: Model, layers: tuple[tuple[str, tuple[int, ...]], ...]) -> Model:
    """A model with some of its layers."""
    return pruned_model(Plan.identity(model, "").narrow(dict(layers)), like=model)


def grid_of(
    model: Model,
    axes: Sequence[str] = (),
    multiples: Mapping[str, int] | None = None,
    vocabularies: Sequence[int] = (),
) -> Grid:
    """The grid of a model.

    Args:
      model: the whole model.
      axes: what moves: names of axes (`mlp`), which move in all stacks that have them, or keys
        (`decoder/mlp`), which move by themselves; empty: all but the vocabulary. The layers of each
        stack move by themselves in either case.
      multiples: of which numbers sizes are, by name or key; by default 1 for layers, and of a width
        about an eighth, as a power of two or a multiple of 128. The size of the whole model is
        always one of the choices.
      vocabularies: rows of vocabularies that may be chosen besides that of the model.

    Raises:
      UserError: the model has no such axis, an axis is named twice, a multiple is below 1, or there
        are too many shapes.
    """
    table, multiples = model.axes, multiples or {}
    movable = [key for key in table.keys if key != VOCAB]
    for what, names in (("axes", axes), ("multiples", multiples)):
        for name in names:
            _check_known(what, name, movable)
    for name, multiple in multiples.items():
        if multiple < 1:
            raise UserError(f"the multiple of {name} is {multiple}; it must be at least 1.")
    outer = {c.inner: c.outer for c in table.couplings if isinstance(c, Grouped)}
    dimensions: list[tuple[Dimension, list[int], list[int]]] = []
    for name, keys in _moves(table, movable, axes):
        sizes = [_size(table, key, outer) for key in keys]
        steps = [
            multiples.get(key, multiples.get(axis_of(key), 0)) or _step(key, size)
            for key, size in zip(keys, sizes, strict=True)
        ]
        values = tuple(dict.fromkeys([*range(steps[0], sizes[0], steps[0]), sizes[0]]))
        dimensions.append((Dimension(name, keys, values), sizes, steps))
    if vocabularies:
        rows = tuple(sorted({*vocabularies, table.sizes[VOCAB]}))
        dimensions.append((Dimension("vocabulary", (VOCAB,), rows), [rows[-1]], [1]))
    count = math.prod(len(dimension.values) for dimension, _, _ in dimensions)
    if count > MOST_SHAPES:
        raise UserError(
            f"there are {count:,} shapes, and a search looks at {MOST_SHAPES:,} at most; let fewer "
            "axes move, or give larger multiples."
        )
    moves = {}
    for place, (dimension, sizes, steps) in enumerate(dimensions):
        for key, size, step in zip(dimension.keys, sizes, steps, strict=True):
            scaled = [_scaled(value, sizes[0], size, step) for value in dimension.values]
            moves[key] = np.array(scaled, np.int64).reshape(_along(place, len(dimensions)))
    return Grid(model, tuple(dimension for dimension, _, _ in dimensions), moves)


def _completed(table: AxisTable, moves: Mapping[str, Any]) -> dict[str, Any]:
    """All sizes, from those that move: members of groups, and axes that join others, follow."""
    sizes: dict[str, Any] = {**table.sizes, **moves}
    for coupling in table.couplings:
        if isinstance(coupling, Grouped):
            inner, outer = coupling.inner, coupling.outer
            members = moves.get(inner, table.sizes[inner] // table.sizes[outer])
            sizes[inner] = sizes[outer] * members
    for coupling in table.couplings:
        if isinstance(coupling, Joined):
            for key in [key for key in sizes if axis_of(key) == coupling.outer]:
                joined = join(key.rpartition("/")[0], coupling.axis)
                sizes[joined] = sizes[key] * coupling.inner
    return sizes


def _along(dimension: int, count: int) -> tuple[int, ...]:
    """The shape of an array that moves along one of some dimensions."""
    return tuple(-1 if d == dimension else 1 for d in range(count))


def _moves(
    table: AxisTable, movable: Sequence[str], axes: Sequence[str]
) -> list[tuple[str, tuple[str, ...]]]:
    """Names of dimensions and the keys that each moves, layers first."""
    equal = [c.keys for c in table.couplings if isinstance(c, Equal)]

    def with_equals(keys: Sequence[str]) -> list[str]:
        more = [key for group in equal if set(group) & set(keys) for key in group]
        return [key for key in movable if key in {*keys, *more}]

    wanted = list(axes or dict.fromkeys(map(axis_of, movable)))
    moved: dict[str, str] = {}
    found: dict[str, tuple[str, ...]] = {}

    def add(name: str, keys: Sequence[str]) -> None:
        together = [key for key in with_equals(keys) if key not in moved]
        if not together:
            raise UserError(
                f"{name} is named twice among the axes that move, as {moved[keys[0]]}, too; name "
                "it once."
            )
        found[name] = tuple(together)
        moved.update(dict.fromkeys(together, name))

    for name in sorted(wanted, key=lambda name: name not in table.sizes):  # Keys first.
        if name in table.sizes:
            add(name, [name])
        elif name == LAYERS:
            for key in [k for k in movable if axis_of(k) == LAYERS and k not in moved]:
                if key not in moved:
                    add(key, [key])
        else:
            add(name, [key for key in movable if axis_of(key) == name])
    order = {key: place for place, key in enumerate(table.sizes)}
    return sorted(found.items(), key=lambda item: order[item[1][0]])


def _check_known(what: str, name: str, movable: Sequence[str]) -> None:
    known = dict.fromkeys([*movable, *map(axis_of, movable)])
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}."
        raise UserError(f"{what} names {name!r}, and the model has no such axis to cut; {hint}")


def _size(table: AxisTable, key: str, outer: Mapping[str, str]) -> int:
    """The size of a key or, of members of groups, of one group."""
    return table.sizes[key] // (table.sizes[outer[key]] if key in outer else 1)


def _step(key: str, size: int) -> int:
    """Between two sizes of a width: about an eighth, of a kind that hardware likes; of layers 1."""
    if axis_of(key) == LAYERS:
        return 1
    part = size / PARTS
    return TILE * round(part / TILE) if part >= TILE else 2 ** round(math.log2(max(1.0, part)))


def _scaled(value: int, reference: int, size: int, step: int) -> int:
    """The size of another key when the first of a dimension has a value."""
    if value == reference:
        return size
    return min(size, max(step, step * round(value / reference * size / step)))
