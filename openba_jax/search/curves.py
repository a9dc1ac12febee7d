"""What the loss rises by along each dimension of a grid alone: exact, a forward pass for each size.

Scores add up what single channels are worth, and miss that half of them together are worth far more
than the sum: what is left grows more precious with every cut. A curve of measured losses knows that
within its dimension. Only what two dimensions do to each other is left out then.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from openba_jax.errors import UserError
from openba_jax.files import write_json
from openba_jax.models.axes import VOCAB
from openba_jax.models.base import Batch, Model, Params
from openba_jax.nn.losses import token_cross_entropy
from openba_jax.parallel import sharding
from openba_jax.pruning.criteria.base import Scores, Subject
from openba_jax.pruning.plan import Plan, pruned_model, relative
from openba_jax.pruning.selection import best
from openba_jax.pruning.transform import take
from openba_jax.search.grid import Grid

Curves = dict[str, list[float]]
"""For each dimension, by name, what the loss rises by at each of its values, in nats."""

_WHOLE = "whole"


def measured_curves(
    grid: Grid, scores: Scores, subject: Subject, path: Path, say: Callable[[str], None]
) -> Curves:
    """Cuts along one dimension after the other, and measures on the calibration text.

    The vocabulary has no curve: a smaller one cannot read the text.

    Args:
      grid: the shapes.
      scores: by which a cut chooses.
      subject: the whole model and the text.
      path: JSON file that losses are kept in, so that none is measured twice.
      say: shows a line.

    Raises:
      UserError: a loss is not finite.
    """
    found: dict[str, float] = {}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
    last = [n - 1 for n in grid.shape]

    def loss(name: str, place: list[int]) -> float:
        if name not in found:
            found[name] = _loss(grid, scores, subject, place)
            if not math.isfinite(found[name]):
                raise UserError(f"the loss at {name} is not finite; look at the weights.")
            write_json(path, found)
            say(f"loss at {name}: {found[name]:.4f}")
        return found[name]

    whole = loss(_WHOLE, last)
    return {
        each.name: [
            loss(f"{each.name} {value}", [*last[:d], number, *last[d + 1 :]]) - whole
            if number < last[d]
            else 0.0
            for number, value in enumerate(each.values)
        ]
        for d, each in enumerate(grid.dimensions)
        if VOCAB not in each.keys
    }


def _loss(grid: Grid, scores: Scores, subject: Subject, place: list[int]) -> float:
    """The loss of a shape right after its cut, nats per target token."""
    sizes, axes = grid.sizes_at(place), grid.axes
    targets = {key: sizes[key] for key in grid.moving if sizes[key] < axes.sizes[key]}
    whole = Plan.identity(subject.scanned, "")
    plan = whole.narrow(best(axes, scores, targets, "").keep)
    keep = relative(plan, whole)
    model: Model = pruned_model(plan, like=subject.scanned)
    names = subject.scanned.logical_axes()

    def sums(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        params = take(params, names, keep)
        total, counts = token_cross_entropy(model.hidden(params, batch), model.head(params), batch)
        return total, counts["weight_sum"]

    compiled: Any = sharding.jit_on_mesh(sums, subject.calibration.mesh)
    batches = subject.calibration.placed()
    found = [jax.device_get(compiled(subject.params, batch)) for batch in batches]
    total, weight = (math.fsum(float(each[part]) for each in found) for part in (0, 1))
    return total / weight
