"""Scores by first-order effects on the loss: what the loss loses with a group of weights.

The loss after a group of weights w is set to zero is, to first order, L - sum(w * dL/dw)
(Molchanov et al. 2019, arXiv:1906.10771; LLM-Pruner, arXiv:2305.11627). The sum runs over all
parameters that have the axis: of a unit of the MLP over its rows and columns, of a channel over the
embedding, norms and projections. Effects of one sign in one batch and the other in the next do not
cancel: what is averaged over the batches is their absolute value (`taylor`) or square (`fisher`).

All keys are scored in one pass of a forward and a backward step for each batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, AxisTable, flatten, stack_of
from openba_jax.models.base import Batch, Model, Params
from openba_jax.nn.losses import token_cross_entropy
from openba_jax.pruning.criteria.base import Scores, Subject, criterion


@criterion("taylor")
def taylor(subject: Subject, keys: Collection[str]) -> Scores:
    """Mean over batches of |sum(w * dL/dw)|, L the mean loss per target token of a batch."""
    effects = _effects(subject, keys)
    return {key: np.abs(values).mean(axis=0) for key, values in effects.items()}


@criterion("fisher")
def fisher(subject: Subject, keys: Collection[str]) -> Scores:
    """Mean over batches of sum(w * dL/dw)^2: batches that lose much count more than by `taylor`."""
    effects = _effects(subject, keys)
    return {key: np.square(values).mean(axis=0) for key, values in effects.items()}


def _effects(subject: Subject, keys: Collection[str]) -> dict[str, np.ndarray]:
    """sum(w * dL/dw) by key, float64 `[batches, ...]`.

    Raises:
      UserError: one is not finite.
    """
    compiled = subject.on_mesh(effects_of(subject.scanned, keys))
    found: list[dict[str, np.ndarray]] = []
    for number, batch in enumerate(subject.calibration.placed()):
        found.append(jax.device_get(compiled(subject.params, batch)))
        if not all(np.isfinite(values).all() for values in found[-1].values()):
            raise UserError(
                f"the gradient of calibration batch {number} is not finite; give other text, or "
                "a model with a wider type."
            )
    return {key: np.stack([each[key] for each in found]).astype(np.float64) for key in keys}


def effects_of(
    model: Model, keys: Collection[str]
) -> Callable[[Params, Batch], dict[str, jax.Array]]:
    """What is compiled to score by gradients.

    Args:
      model: layers stacked, parameters in float32.
      keys: of its axes.

    Returns:
      `(params, batch) -> sum(w * dL/dw)` by key, float32 arrays of the shape of its scores.
    """

    def loss(params: Params, batch: Batch) -> jax.Array:
        total, sums = token_cross_entropy(model.hidden(params, batch), model.head(params), batch)
        return total / sums["weight_sum"]

    def effects(params: Params, batch: Batch) -> dict[str, jax.Array]:
        gradients = flatten(jax.grad(loss)(params, batch))
        products = {path: gradients[path] * leaf for path, leaf in flatten(params).items()}
        return group_sums(model.axes, keys, products)

    return effects


def group_sums(
    axes: AxisTable, keys: Collection[str], leaves: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Sums over all that belongs to each index of a key.

    Args:
      axes: of the model.
      keys: what to sum for.
      leaves: by path, with a leading axis of layers in layers.

    Returns:
      By key float32 arrays of the shape of its scores.
    """
    sums: dict[str, jax.Array] = {}

    def add(key: str, values: jax.Array) -> None:
        sums[key] = sums[key] + values if key in sums else values

    for path, leaf in leaves.items():
        leaf = leaf.astype(jnp.float32)
        inside = stack_of(path) is not None
        for place, axis in enumerate(axes.paths[path], start=int(inside)):
            key, width = axes.cut_by(path, axis)
            if key not in keys:
                continue
            kept = (0, place) if inside and axes.layers_key(key) is not None else (place,)
            others = tuple(other for other in range(leaf.ndim) if other not in kept)
            values = jnp.sum(leaf, axis=others)
            add(key, values.reshape(*values.shape[:-1], -1, width).sum(axis=-1))
        if inside and (key := axes.key(path, LAYERS)) in keys:
            add(key, jnp.sum(leaf, axis=tuple(range(1, leaf.ndim))))
    return sums
