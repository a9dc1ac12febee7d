"""Adafactor and Muon: optimizers that must know which axes of a parameter are those of a matrix.

Parameters of scanned layers lie in one array, `[layers, ...]`. What these optimizers compute of a
whole parameter, a norm or the factors of a matrix, they compute of each layer, so that it does not
matter whether layers are scanned.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import optax
from optax import contrib

from openba_jax.models.base import Model
from openba_jax.training.optimizer import (
    Optimizer,
    OptimizerOf,
    check_moment_dtype,
    decay_mask,
)

LAYERS = "layers"
_EMBEDDINGS = ("vocab", "relpos_buckets")
"""Axes of tables, whose rows are looked up."""


def adafactor(
    learning_rate: optax.Schedule,
    decay_rate: float = 0.8,
    clipping_threshold: float = 1.0,
    parameter_scale: bool = True,
    min_size_to_factor: int = 128,
    momentum: float | None = None,
    moment_dtype: str | None = None,
    weight_decay: float = 0.0,
) -> OptimizerOf:
    """Adafactor (Shazeer and Stern 2018, arXiv:1804.04235): a second moment of rows and columns.

    Args:
      learning_rate: maps the step, from 0, to the rate; with `parameter_scale` relative to the root
        mean square of a parameter.
      decay_rate: the second moment decays by `1 - step ** -decay_rate`.
      clipping_threshold: updates whose root mean square is larger are scaled down to it.
      parameter_scale: multiply updates by the root mean square of the parameter.
      min_size_to_factor: what has no two axes of this size keeps its second moment whole.
      momentum: decay of a first moment; None: there is none, as in T5.
      moment_dtype: type of the first moment, `bfloat16` or `float32`.
      weight_decay: multiplies the parameter; scaled by the learning rate, too.

    Returns:
      The optimizer, a function of the model.

    Raises:
      UserError: `moment_dtype` is something else.
    """
    check_moment_dtype(moment_dtype)

    @functools.lru_cache
    def of_model(model: Model) -> Optimizer:
        one = optax.chain(
            optax.scale_by_factored_rms(
                decay_rate=decay_rate, min_dim_size_to_factor=min_size_to_factor
            ),
            optax.clip_by_block_rms(clipping_threshold),
            optax.scale_by_param_block_rms() if parameter_scale else optax.identity(),
        )
        labels = _of_axes(model, lambda path, axes: path[0].key if axes[0] == LAYERS else "single")
        groups = {
            label: one if label == "single" else _for_each_layer(one)
            for label in sorted(set(jax.tree.leaves(labels)))
        }
        keeps = momentum is not None
        transformation = optax.chain(
            optax.partition(groups, labels),
            optax.ema(momentum, debias=False, accumulator_dtype=moment_dtype)
            if keeps
            else optax.identity(),
            optax.add_decayed_weights(weight_decay, mask=decay_mask),
            optax.scale_by_learning_rate(learning_rate),
        )
        return Optimizer(transformation, learning_rate)

    return of_model


def muon(
    learning_rate: optax.Schedule,
    beta: float = 0.95,
    steps: int = 5,
    rms: float = 0.2,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    max_norm: float = 1.0,
    moment_dtype: str | None = None,
) -> OptimizerOf:
    """Muon for the matrices of layers, AdamW for everything else.

    The momentum of a matrix is made orthogonal (Jordan 2024), and scaled so that its root mean
    square is that of AdamW's updates: one learning rate and one weight decay serve both (Liu et al.
    2025, arXiv:2502.16982). Embeddings, the head, biases and scales are AdamW's.

    Args:
      learning_rate: maps the step, from 0, to the rate.
      beta: decay of Muon's momentum, which is Nesterov's.
      steps: of Newton and Schulz.
      rms: root mean square of an orthogonal update.
      b1: decay of AdamW's first moment.
      b2: decay of AdamW's second moment.
      eps: added to denominators.
      weight_decay: multiplies the parameter; scaled by the learning rate, too.
      max_norm: gradients longer than this are scaled down to it.
      moment_dtype: type of the momenta, `bfloat16` or `float32`; None: of the parameters.

    Returns:
      The optimizer, a function of the model.

    Raises:
      UserError: `moment_dtype` is something else.
    """
    check_moment_dtype(moment_dtype)

    @functools.lru_cache
    def of_model(model: Model) -> Optimizer:
        matrices = _of_axes(model, lambda _, axes: matrix_axes(axes) or optax.MaskedNode())
        labels = _of_axes(model, lambda _, axes: "muon" if matrix_axes(axes) else "adamw")
        orthogonal = optax.chain(
            contrib.scale_by_muon(
                ns_steps=steps,
                beta=beta,
                eps=eps,
                mu_dtype=moment_dtype,
                weight_dimension_numbers=matrices,
            ),
            optax.stateless(lambda updates, _: _scaled_to_rms(updates, matrices, rms)),
        )
        adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=moment_dtype)
        transformation = optax.chain(
            optax.clip_by_global_norm(max_norm),
            optax.partition({"muon": orthogonal, "adamw": adam}, labels),
            optax.add_decayed_weights(weight_decay, mask=decay_mask),
            optax.scale_by_learning_rate(learning_rate),
        )
        return Optimizer(transformation, learning_rate)

    return of_model


def matrix_axes(axes: Sequence[str]) -> contrib.MuonDimensionNumbers | None:
    """Which axes of a parameter are read and which are written, if it is a matrix of a layer.

    One side of it is the embedding, the other all axes besides: `[layers, embed, heads, kv]` is, in
    every layer, a matrix from `embed` to `heads x kv`.

    Args:
      axes: logical names.

    Returns:
      Numbers of the axes; None for what is no matrix of a layer.
    """
    numbers = [number for number, name in enumerate(axes) if name != LAYERS]
    embed = [number for number in numbers if axes[number].rpartition("/")[2] == "embed"]
    others = tuple(number for number in numbers if number not in embed)
    if len(embed) != 1 or not others or any(axes[number] in _EMBEDDINGS for number in others):
        return None
    sides = (tuple(embed), others) if embed[0] < others[0] else (others, tuple(embed))
    return contrib.MuonDimensionNumbers(*sides)


def _of_axes(model: Model, function: Any) -> Any:
    """A tree like that of the parameters, of what a function of path and axes says."""
    return jax.tree.map_with_path(
        function, model.logical_axes(), is_leaf=lambda node: isinstance(node, tuple)
    )


def _scaled_to_rms(updates: Any, matrices: Any, rms: float) -> Any:
    """Orthogonal updates whose root mean square is `rms`: they are as long as their short side."""

    def scale(update: jax.Array, numbers: contrib.MuonDimensionNumbers) -> jax.Array:
        sides = (
            math.prod(update.shape[axis] for axis in side)
            for side in (numbers.reduction_axis, numbers.output_axis)
        )
        return update * (rms * math.sqrt(max(sides)))

    return jax.tree.map(scale, updates, matrices)


def _for_each_layer(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """The transformation of one layer, for parameters `[layers, ...]` of one stack."""

    def init(params: Any) -> Any:
        return jax.vmap(inner.init)(params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.vmap(inner.update)(updates, state, params)

    return optax.GradientTransformation(init, update)
