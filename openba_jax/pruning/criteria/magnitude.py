"""Scores by weights alone."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, Leaf
from openba_jax.pruning.criteria.base import Scores, Subject, criterion, score_shape

_BLOCK = 2**22
"""Values that are squared at once."""


@criterion("magnitude", looks_at_text=False)
def magnitude(subject: Subject, keys: Collection[str]) -> Scores:
    """Sums of squared weights, over all parameters that have the axis.

    Computed on the host in float64 and in a fixed order, so that a sharded model gives the very
    scores of an unsharded one.
    """
    axes = subject.axes
    scores = {key: np.zeros(score_shape(axes, key)) for key in keys}
    for leaf in axes.leaves():
        names = axes.paths[leaf.path]
        wanted = {axis: axes.cut_by(leaf.path, axis) for axis in names}
        wanted = {axis: (key, width) for axis, (key, width) in wanted.items() if key in scores}
        of_layer = None if leaf.layer is None else axes.key(leaf.path, LAYERS)
        if not wanted and of_layer not in scores:
            continue
        sums = _squares(np.asarray(subject.read(leaf)), leaf)
        for axis, (key, width) in wanted.items():
            place = scores[key] if axes.layers_key(key) is None else scores[key][leaf.layer]
            place += sums[names.index(axis)].reshape(-1, width).sum(axis=1)
        if of_layer in scores:
            scores[of_layer][leaf.layer] += sums[0].sum()
    return scores


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
