"""What a shape would lose, in nats: a sum over its dimensions, or over all that is dropped.

A curve says what the loss rises by along one dimension, and a score when one thing goes. What two
dimensions, or two things, do to each other is left out, as is what training brings back: shapes are
only ranked by the sum, and the best are tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from openba_jax.models.axes import LAYERS, VOCAB, Grouped, axis_of
from openba_jax.pruning.criteria.base import Scores
from openba_jax.pruning.selection import best
from openba_jax.search.curves import Curves
from openba_jax.search.grid import Grid

IN_NATS = ("taylor", "leave_one_out")
"""Criteria whose scores are changes of the loss, so that those of layers and widths add up."""


def layers_kept(grid: Grid, scores: Scores) -> dict[str, list[list[int]]]:
    """For each key of layers that are scored, which are kept, by their number less one."""
    axes = grid.axes
    return {
        key: [best(axes, scores, {key: n}, "").keep[key] for n in range(1, axes.sizes[key] + 1)]
        for key in scores
        if axis_of(key) == LAYERS
    }


MEASURED, SCORES = "measured", "scores"
ESTIMATES = (MEASURED, SCORES)
"""`measured`: the sum of `curves` over dimensions; `scores`: of the scores of all that goes."""


def damage_by_curves(
    grid: Grid,
    curves: Curves,
    scores: Scores,
    vocabularies: Mapping[int, Sequence[int]] | None = None,
) -> np.ndarray:
    """The estimate for every shape by measured losses, float64.

    Args:
      grid: the shapes.
      curves: of all dimensions but the vocabulary.
      scores: of the rows of the vocabulary, where it moves.
      vocabularies: as of `damage_by_scores`.
    """
    total = np.zeros((1,) * len(grid.shape))
    for place, dimension in enumerate(grid.dimensions):
        if dimension.name in curves:
            line = tuple(-1 if d == place else 1 for d in range(len(grid.shape)))
            total = total + np.array(curves[dimension.name]).reshape(line)
    if VOCAB in grid.moving:
        total = total + _lost_rows(grid, scores[VOCAB], vocabularies or {})
    return np.broadcast_to(total, grid.shape)


def damage_by_scores(
    grid: Grid, scores: Scores, vocabularies: Mapping[int, Sequence[int]] | None = None
) -> np.ndarray:
    """The estimate for every shape by scores, float64.

    The layers with the lowest scores go; in those that stay, each width loses what has the lowest
    scores there, by the very selection that the cut makes. Axes that also lie outside of layers are
    scored over all layers, dropped ones included.

    Args:
      grid: the shapes.
      scores: of all that moves.
      vocabularies: for each number of rows below the model's which of its rows are kept.
    """
    total = np.zeros((1,) * len(grid.shape))
    for keys in _together(grid):
        total = total + _lost(grid, scores, keys)
    if VOCAB in grid.moving:
        total = total + _lost_rows(grid, scores[VOCAB], vocabularies or {})
    return np.broadcast_to(total, grid.shape)


def _together(grid: Grid) -> list[tuple[str, ...]]:
    """Keys that are chosen together: layers, or widths, groups with their members."""
    moving = [key for key in grid.moving if key != VOCAB]
    grouped = [
        tuple(key for key in (c.outer, c.inner) if key in moving)
        for c in grid.axes.couplings
        if isinstance(c, Grouped)
    ]
    grouped = [keys for keys in grouped if keys]
    alone = [(key,) for key in moving if all(key not in keys for keys in grouped)]
    return [*alone, *grouped]


def _lost(grid: Grid, scores: Scores, keys: Sequence[str]) -> np.ndarray:
    """The scores of what is dropped of some keys, over the dimensions that move it."""
    axes = grid.axes
    shape = np.broadcast_shapes(*(grid.sizes[key].shape for key in keys))
    sizes = {key: np.broadcast_to(grid.sizes[key], shape) for key in keys}
    of_layers = axes.layers_key(keys[0])
    lost = np.zeros((*shape, *(() if of_layers is None else (axes.sizes[of_layers],))))
    for place in np.ndindex(*shape):
        targets = {key: int(sizes[key][place]) for key in keys}
        kept = best(axes, scores, targets, "").keep
        for key in keys:
            left = np.take_along_axis(scores[key], np.asarray(kept[key]), axis=-1)
            lost[place] += scores[key].sum(axis=-1) - left.sum(axis=-1)
    if of_layers is None:
        return lost
    if of_layers not in grid.moving:
        return lost.sum(axis=-1)
    # Of layers that go nothing is lost but themselves.
    depth = grid.sizes[of_layers]
    (along,) = [d for d, n in enumerate(depth.shape) if n > 1]
    stays = np.zeros((depth.size, axes.sizes[of_layers]))
    for row, kept_layers in zip(stays, _kept_at(grid, scores, of_layers), strict=True):
        row[kept_layers] = 1.0
    line = [depth.size if d == along else 1 for d in range(len(shape))]
    return (lost * stays.reshape(*line, -1)).sum(axis=-1)


def _kept_at(grid: Grid, scores: Scores, key: str) -> list[list[int]]:
    """The layers that are kept for each value of the dimension that moves their number."""
    kept = layers_kept(grid, {key: scores[key]})[key]
    return [kept[int(count) - 1] for count in grid.sizes[key].ravel()]


def _lost_rows(
    grid: Grid, scores: np.ndarray, vocabularies: Mapping[int, Sequence[int]]
) -> np.ndarray:
    """The scores of rows of the vocabulary that are dropped."""
    sizes = grid.sizes[VOCAB]
    lost = [
        scores.sum() - scores[sorted(set(vocabularies[rows]))].sum() if rows in vocabularies else 0
        for rows in map(int, sizes.ravel())
    ]
    return np.array(lost, np.float64).reshape(sizes.shape)
