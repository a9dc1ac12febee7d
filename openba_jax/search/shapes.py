"""Which shapes are worth a trial: the least damaged within the budget, no two nearly the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, VOCAB, axis_of
from openba_jax.models.base import Model
from openba_jax.pruning.criteria.base import Scores
from openba_jax.pruning.stages import Stage
from openba_jax.search import budget as budgets
from openba_jax.search.budget import Budget
from openba_jax.search.damage import layers_kept
from openba_jax.search.grid import Grid, text_of
from openba_jax.staged.settings import Data

NEAR = 1 / 8
"""Shapes are nearly the same if no size differs by more than this share of the whole model's."""

RUNGS = 16
"""Costs, evenly apart on a logarithmic scale, among which one within a time is looked for."""


class Shape(NamedTuple):
    """A shape that may be tried.

    Attributes:
      values: of each dimension of the grid, by name.
      sizes: of what is cut, by key.
      vocabulary: rows of the vocabulary.
      model: the model.
      damage: what it is estimated to lose, in nats.
      cost: in the budget's unit.
    """

    values: dict[str, int]
    sizes: dict[str, int]
    vocabulary: int
    model: Model
    damage: float
    cost: float

    @property
    def text(self) -> str:
        """Its values in words."""
        return text_of(self.values)


class Shapes:
    """The shapes of a grid with their estimates and costs."""

    def __init__(
        self,
        grid: Grid,
        scores: Scores,
        damage: np.ndarray,
        budget: Budget,
        data: Data,
        measure: Callable[[Model, str], float] | None = None,
    ) -> None:
        """Counts what all of them cost.

        Args:
          grid: the shapes.
          scores: of layers, if these move.
          damage: the estimate of every shape.
          budget: what is limited.
          data: lengths of an example.
          measure: milliseconds per token of a model whose shape is said in words, where these are
            limited.
        """
        self._grid, self._budget, self._data = grid, budget, data
        self._kept = layers_kept(grid, scores)
        self._measure = measure
        self.damage = damage
        self.costs = budget.costs(grid, self._kept, data)

    def at(self, place: Sequence[int]) -> Shape:
        """The shape at a place of the grid.

        Raises:
          UserError: no network of the family has these sizes.
        """
        grid = self._grid
        sizes, whole = grid.sizes_at(place), grid.axes.sizes
        model = grid.model_at(place, self._kept)
        if self._measure is not None:
            cost = self._measure(model, grid.text(place))
        else:
            cost = self._budget.cost(model, self._data)
        return Shape(
            grid.values(place),
            {key: sizes[key] for key in grid.moving if key != VOCAB and sizes[key] < whole[key]},
            sizes[VOCAB],
            model,
            float(self.damage[tuple(place)]),
            cost,
        )

    def propose(self, limit: float, count: int) -> list[Shape]:
        """The least damaged shapes within a limit, at most `count`.

        Of equally damaged shapes the smaller one comes first.

        Raises:
          UserError: no shape is within the limit; the message has the nearest.
        """
        within = limit if self._measure is None else self._within_time(limit)
        costs, damage = self.costs.ravel(), self.damage.ravel()
        places = np.flatnonzero(costs <= within)
        if not places.size:
            raise self._nothing(limit)
        places = places[np.lexsort((costs[places], damage[places]))]
        shares = self._shares(places)
        chosen: list[Shape] = []
        for _ in range(_MOST_TRIED * count):
            if not places.size or len(chosen) == count:
                break
            index = self._index(places[0])
            if not self._is_network(index):
                places, shares = places[1:], shares[1:]
                continue
            shape = self.at(index)
            if shape.cost <= limit:
                chosen.append(shape)
            far = np.any(np.abs(shares - shares[0]) > NEAR, axis=1)
            places, shares = places[far], shares[far]
        if not chosen:
            raise self._nothing(limit)
        return chosen

    def check(self, limit: float) -> None:
        """Checks that a shape is within a limit that is not one of time.

        Raises:
          UserError: none is; the message has the nearest.
        """
        if self.costs.min() > limit:
            raise self._nothing(limit)

    def _shares(self, places: np.ndarray) -> np.ndarray:
        """The sizes of shapes as shares of the whole model's, float32 `[shapes, dimensions]`."""
        columns = []
        indices = np.unravel_index(places, self._grid.shape)
        for dimension, index in zip(self._grid.dimensions, indices, strict=True):
            values = np.array(dimension.values, np.float32)
            columns.append((values / values[-1])[index])
        return np.stack(columns, axis=1)

    def _is_network(self, index: Sequence[int]) -> bool:
        """Whether the family has a network of the shape."""
        try:
            self._grid.model_at(index, self._kept)
        except UserError:
            return False
        return True

    def _within_time(self, limit: float) -> float:
        """The largest cost of which the least damaged shape decodes within a time.

        Time is no sum over sizes, so that nothing but a clock tells it. It grows with the FLOPs of
        a token all the same, on average: among some costs the largest is looked for by bisection,
        and a few shapes are measured.

        Raises:
          UserError: the cheapest shape takes longer.
        """
        costs = self.costs.ravel()
        rungs = np.geomspace(costs.min(), costs.max(), RUNGS)
        rungs[0], rungs[-1] = costs.min(), costs.max()

        def fits(rung: int) -> bool:
            within = np.flatnonzero(costs <= rungs[rung])
            order = within[np.argsort(self.damage.ravel()[within], kind="stable")]
            index = next((i for i in map(self._index, order) if self._is_network(i)), None)
            return index is not None and self.at(index).cost <= limit

        if not fits(0):
            raise self._nothing(limit)
        low, high = 0, RUNGS - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return float(rungs[low])

    def _nothing(self, limit: float) -> UserError:
        cheapest = map(self._index, np.argsort(self.costs.ravel(), kind="stable"))
        nearest = self.at(next(index for index in cheapest if self._is_network(index)))
        show = self._budget.show
        return UserError(
            f"no shape is within {show(limit)}; the nearest has {show(nearest.cost)} "
            f"({nearest.text}), so give as much, let more axes move, or give smaller multiples."
        )

    def _index(self, place: np.intp) -> list[int]:
        return [int(i) for i in np.unravel_index(place, self._grid.shape)]


def stage_of(
    name: str,
    shape: Shape,
    *,
    width_method: str,
    layer_method: str,
    compensation: str,
    calibration_batches: int,
    pieces: int | None = None,
) -> Stage:
    """The cut to a shape, without tokens to recover with.

    Args:
      name: of the stage.
      shape: the shape.
      width_method: criterion of widths.
      layer_method: criterion of layers.
      compensation: what is fitted anew.
      calibration_batches: batches that criteria and compensation look at.
      pieces: of the vocabulary; None: it stays.
    """
    of_layers = [key for key in shape.sizes if axis_of(key) == LAYERS]
    methods: dict[str, str] = {LAYERS: layer_method} if of_layers else {}
    if len(of_layers) < len(shape.sizes):
        methods["*"] = width_method
    return Stage(
        name,
        sizes=shape.sizes,
        vocabulary=pieces,
        method=methods if methods else width_method,
        compensation=compensation,
        calibration_batches=calibration_batches,
    )


def figures(shape: Shape, budget: Budget, data: Data) -> dict[str, float]:
    """`parameters`, `bytes` and `flops_per_example` of a shape."""
    parameters = shape.model.axes.count()
    return {
        budgets.PARAMETERS: parameters,
        budgets.BYTES: budgets.parameter_bytes(shape.model, budget.dtype),
        budgets.FLOPS: budgets.flops(shape.model, data),
    }


_MOST_TRIED = 8
"""Shapes that are looked at for each that is wanted, where some are too slow or no networks."""
