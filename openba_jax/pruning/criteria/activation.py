"""Scores by activations, as Minitron has them (Muralidharan et al. 2024, arXiv:2407.14679).

Of a channel the outputs of the norms, of a unit what the MLP's last projection reads, of a head the
norm of its output. What is seen of one channel is summed up over the tokens of a row, padding left
out, and then over the rows; each of the two is a mean of absolute values, a Euclidean norm or a
variance: `activation` takes means for both, `activation_l2_mean` norms over the rows of means over
tokens, and so on.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.axes import Grouped, axis_of, stack_of
from openba_jax.models.base import Batch, Params
from openba_jax.nn import probes
from openba_jax.nn.layers import LayerNorm, Projection, RMSNorm
from openba_jax.pruning.criteria.base import Scores, Subject, criterion, score_shape

AGGREGATIONS = ("mean", "l2", "variance")
"""How tokens of a row, and rows, are summed up."""


def _activation(
    subject: Subject, keys: Collection[str], *, over_rows: str = "mean", over_tokens: str = "mean"
) -> Scores:
    """Scores by activations, float64; see the docstring of this module."""
    axes, model = subject.axes, subject.scanned
    followed = {c.outer: c.inner for c in axes.couplings if isinstance(c, Grouped)}
    wanted = {followed.get(key, key) for key in keys}

    def observe(params: Params, batch: Batch) -> probes.Observations:
        real = model.real_tokens(batch)

        def probe(module: nn.Module, arguments: Any, result: Any) -> dict[str, jax.Array]:
            read = _read(module, arguments, result)
            if read is None:
                return {}
            name, axis, values = read
            path = probes.path_of(module)
            key, _ = axes.cut_by(f"{path}/{name}", axis)
            if key not in wanted:
                return {}
            weights = real["encoder" if probes.reads_memory(module) else _stack(path)]
            size = axes.sizes[key]
            width = values.shape[-1] // size  # A head has several channels.
            return {key.replace("/", "."): _of_rows(values, width, weights, over_tokens)}

        return model.observe(params, batch, probe)[1]

    compiled = subject.on_mesh(observe)
    batches = [
        jax.device_get(compiled(subject.params, batch)) for batch in subject.calibration.placed()
    ]
    scores: Scores = {}
    for name in batches[0]:
        key = name.rpartition("/")[2].replace(".", "/")
        rows = np.concatenate([batch[name] for batch in batches], axis=-2).astype(np.float64)
        values = _of_all(rows, over_rows)
        if axes.layers_key(key) is None and stack_of(name) is not None:
            values = values.sum(axis=0)  # All layers share what is cut.
        scores[key] = scores[key] + values if key in scores else values
    for key in keys:
        if key in followed:
            members = scores[followed[key]]
            scores[key] = members.reshape(*score_shape(axes, key), -1).sum(axis=-1)
        if key not in scores:
            raise UserError(f"no activation runs along {key}; choose another criterion for it.")
    return {key: scores[key] for key in keys}


def _read(module: nn.Module, arguments: Any, result: Any) -> tuple[str, str, jax.Array] | None:
    """What tells of an axis: the parameter that has it, the axis, and values `[b, l, n]`."""
    if isinstance(module, LayerNorm):
        return "scale", "embed", result
    if isinstance(module, RMSNorm) and module.axis == "embed":
        return "scale", "embed", result
    if isinstance(module, Projection) and axis_of(module.in_axes[0]) != "embed":
        values = arguments[0]
        return "kernel", module.in_axes[0], values.reshape(*values.shape[:2], -1)
    return None


def _stack(path: str) -> str:
    """The stack that a module is in, or beside whose layers it stands."""
    return stack_of(f"{path}/x") or path.split("/")[0]


def _of_rows(values: jax.Array, width: int, weights: jax.Array, how: str) -> jax.Array:
    """Sums `[batch, length, n * width]` up over tokens: float32 `[batch, n]`."""
    values = values.astype(jnp.float32)
    if width > 1:  # The norm of each head's output.
        heads = values.reshape(*values.shape[:2], -1, width)
        values = jnp.sqrt(jnp.sum(jnp.square(heads), axis=-1))
    real = weights[..., None].astype(jnp.float32)
    count = jnp.maximum(jnp.sum(real, axis=1), 1.0)
    if how == "l2":
        return jnp.sqrt(jnp.sum(jnp.square(values) * real, axis=1))
    if how == "mean":
        return jnp.sum(jnp.abs(values) * real, axis=1) / count
    mean = jnp.sum(values * real, axis=1) / count
    return jnp.sum(jnp.square(values - mean[:, None]) * real, axis=1) / count


def _of_all(rows: np.ndarray, how: str) -> np.ndarray:
    """Sums `[..., rows, n]` up over rows."""
    if how == "l2":
        return np.sqrt(np.square(rows).sum(axis=-2))
    return rows.var(axis=-2) if how == "variance" else rows.mean(axis=-2)


criterion("activation", layers=False)(_activation)
for _rows, _tokens in itertools.product(AGGREGATIONS, repeat=2):
    if (_rows, _tokens) != ("mean", "mean"):
        criterion(f"activation_{_rows}_{_tokens}", layers=False)(
            functools.partial(_activation, over_rows=_rows, over_tokens=_tokens)
        )
