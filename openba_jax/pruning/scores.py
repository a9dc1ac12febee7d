"""How much each layer, channel, head and unit of a model matters: one function per criterion.

A criterion is given a model, a way to read its parameters and, where it needs some, batches of
text; it returns scores by key of the model's axes. What to keep is decided in `selection`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, AxisTable, Leaf
from openba_jax.models.base import Model

Scores = dict[str, np.ndarray]
"""By key: float64 `[size]` for layers and for axes that all layers share, else `[layers, size]`."""

ReadLeaf = Callable[[Leaf], Any]
"""The values of a leaf: anything that `np.asarray` takes, axes as in `model.axes.paths`."""


class Criterion(Protocol):
    """Scores a model."""

    def __call__(
        self,
        model: Model,
        read: ReadLeaf,
        keys: Collection[str],
        batches: Iterable[Mapping[str, np.ndarray]],
    ) -> Scores:
        """Scores.

        Args:
          model: the model.
          read: reads its parameters.
          keys: what to score.
          batches: text to score on.

        Raises:
          UserError: a parameter is not finite.
        """


RANDOM = "random"
"""The method that draws instead of scoring, as the original."""

CRITERIA: dict[str, Criterion] = {}


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Registers a criterion under a name."""

    def register(function: Criterion) -> Criterion:
        if name == RANDOM or CRITERIA.get(name, function) is not function:
            raise UserError(f"a criterion {name!r} is known already; choose another name.")
        CRITERIA[name] = function
        return function

    return register


def score(
    name: str,
    model: Model,
    read: ReadLeaf,
    keys: Collection[str],
    batches: Iterable[Mapping[str, np.ndarray]] = (),
) -> Scores:
    """Scores by the name of a criterion; arguments as `Criterion`.

    Raises:
      UserError: no criterion has that name, a parameter is not finite, or a score is not.
    """
    if name not in CRITERIA:
        known = ", ".join(CRITERIA)
        raise UserError(f"no pruning criterion is called {name!r}; known are random, {known}.")
    scores = CRITERIA[name](model, read, keys, batches)
    for key, values in scores.items():
        if not np.isfinite(values).all():
            raise UserError(f"the scores of {key} by {name} are not finite; look at the weights.")
    return scores


@criterion("magnitude")
def magnitude(
    model: Model,
    read: ReadLeaf,
    keys: Collection[str],
    batches: Iterable[Mapping[str, np.ndarray]] = (),
) -> Scores:
    """Sums of squared weights, over all parameters that have the axis.

    Computed on the host in float64 and in a fixed order, so that a sharded model gives the very
    scores of an unsharded one.
    """
    del batches
    axes = model.axes
    scores = {key: np.zeros(score_shape(axes, key)) for key in keys}
    for leaf in axes.leaves():
        names = axes.paths[leaf.path]
        wanted = {axis: axes.cut_by(leaf.path, axis) for axis in names}
        wanted = {axis: (key, width) for axis, (key, width) in wanted.items() if key in scores}
        of_layer = None if leaf.layer is None else axes.key(leaf.path, LAYERS)
        if not wanted and of_layer not in scores:
            continue
        sums = _squares(np.asarray(read(leaf)), leaf)
        for axis, (key, width) in wanted.items():
            place = scores[key] if axes.layers_key(key) is None else scores[key][leaf.layer]
            place += sums[names.index(axis)].reshape(-1, width).sum(axis=1)
        if of_layer in scores:
            scores[of_layer][leaf.layer] += sums[0].sum()
    return scores


def score_shape(axes: AxisTable, key: str) -> tuple[int, ...]:
    """The shape of the scores of a key, see `Scores`."""
    of_layers = axes.layers_key(key)
    return (axes.sizes[key],) if of_layers is None else (axes.sizes[of_layers], axes.sizes[key])


def _squares(array: np.ndarray, leaf: Leaf) -> list[np.ndarray]:
    """For each axis the float64 sums over all others, in blocks: an embedding fills gigabytes.

    Raises:
      UserError: a value is not finite.
    """
    if array.ndim == 0:
        array = array[None]
    sums = [np.zeros(size) for size in array.shape]
    rows = max(1, _BLOCK // max(1, array[0].size))
    for start in range(0, len(array), rows):
        block = np.square(array[start : start + rows].astype(np.float64))
        for axis in range(array.ndim):
            others = tuple(other for other in range(array.ndim) if other != axis)
            part = slice(start, start + len(block)) if axis == 0 else slice(None)
            sums[axis][part] += block.sum(axis=others)
    if not np.isfinite(sums[0]).all():
        raise UserError(f"{leaf} holds NaN or infinite values; prune a checkpoint that has none.")
    return sums


_BLOCK = 2**22
"""Values that are squared at once."""
