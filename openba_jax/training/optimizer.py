"""AdamW and its schedules, as the original trained (docs/original.md#training), and T5's schedule.

`layer_optimizers` has those that must know the axes of the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from openba_jax.errors import UserError
from openba_jax.models.base import Model

UNDECAYED = ("bias", "scale")
"""Last names of parameters without weight decay: biases and what is one-dimensional in a layer.

By name, since with scanned layers the scale of a layer norm is `[layers, embed]`, a matrix.
"""


class Optimizer(NamedTuple):
    """A gradient transformation and the schedule inside it, which the log wants to know."""

    transformation: optax.GradientTransformation
    learning_rate: optax.Schedule


OptimizerOf = Callable[[Model], Optimizer]
"""An optimizer that depends on the model; equal models get the same one."""

MOMENT_DTYPES = ("float32", "bfloat16")


def optimizer_of(optimizer: Optimizer | OptimizerOf, model: Model) -> Optimizer:
    """The optimizer of a model."""
    return optimizer if isinstance(optimizer, Optimizer) else optimizer(model)


def check_moment_dtype(name: str | None) -> None:
    """Checks the type of a first moment.

    Raises:
      UserError: it is none that serves.
    """
    if name is not None and name not in MOMENT_DTYPES:
        raise UserError(
            f"moment_dtype is {name!r}; it must be None, the type of the parameters, or one of "
            f"{', '.join(MOMENT_DTYPES)}."
        )


def check_rates(peak: float, minimum: float = 0.0) -> None:
    """Checks the learning rates of a schedule.

    Raises:
      UserError: one is negative, infinite or NaN, or the last is above the highest.
    """
    for name, rate in (("peak", peak), ("minimum", minimum)):
        if not (math.isfinite(rate) and rate >= 0):
            raise UserError(f"the {name} learning rate is {rate}; it must be a number from 0 on.")
    if minimum > peak:
        raise UserError(
            f"the minimum learning rate is {minimum} and the peak {peak}, which it falls from; "
            "give a minimum below."
        )


def decay_mask(params: Any) -> Any:
    """The same tree, true where weight decay applies."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", None) not in UNDECAYED, params
    )


def warmup_cosine(
    peak: float, minimum: float, warmup_steps: int, decay_steps: int
) -> optax.Schedule:
    """Linear warm-up from 0 to `peak`, cosine to `minimum` at `decay_steps`, then `minimum`.

    With warm-up the very first step has the rate 0, as in the original.

    Args:
      peak: highest learning rate.
      minimum: last learning rate.
      warmup_steps: steps of warm-up.
      decay_steps: step at which the cosine ends, counted from the start of the run.

    Raises:
      UserError: the decay ends before the warm-up does, or a rate cannot be one.
    """
    check_rates(peak, minimum)
    if not 0 <= warmup_steps < decay_steps:
        raise UserError(
            f"decay_steps is {decay_steps} and warmup_steps {warmup_steps}; "
            "the decay must end after the warm-up."
        )

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warm = peak * step / max(1, warmup_steps)
        ratio = jnp.clip((step - warmup_steps) / (decay_steps - warmup_steps), 0.0, 1.0)
        cosine = minimum + (peak - minimum) * 0.5 * (1.0 + jnp.cos(jnp.pi * ratio))
        return jnp.where(step < warmup_steps, warm, cosine)

    return schedule


def warmup_constant(peak: float, warmup_steps: int = 0) -> optax.Schedule:
    """Linear warm-up from 0 to `peak`, which then stays.

    Raises:
      UserError: the rate cannot be one.
    """
    check_rates(peak)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        return jnp.where(step < warmup_steps, peak * step / max(1, warmup_steps), peak)

    return schedule


def inverse_square_root(peak: float, warmup_steps: int) -> optax.Schedule:
    """`peak` up to `warmup_steps`, then falling as the square root of the step, as T5's.

    T5 was pretrained with `1 / sqrt(max(step, 10000))`: a peak of 0.01 and 10,000 steps (Raffel et
    al. 2020, arXiv:1910.10683, 3.1.2).

    Raises:
      UserError: there is no step before it falls, or the rate cannot be one.
    """
    check_rates(peak)
    if warmup_steps < 1:
        raise UserError(f"warmup_steps is {warmup_steps}; it must be at least 1.")

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        return peak * jnp.sqrt(warmup_steps / jnp.maximum(step, warmup_steps))

    return schedule


def adamw(
    learning_rate: optax.Schedule,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    max_norm: float = 1.0,
    moment_dtype: str | None = None,
) -> Optimizer:
    """Adam with decoupled weight decay, after clipping by the global norm.

    Args:
      learning_rate: maps the step, from 0, to the rate.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added outside the square root.
      weight_decay: multiplies the parameter; scaled by the learning rate, too.
      max_norm: gradients longer than this are scaled down to it.
      moment_dtype: type of the first moment, `bfloat16` or `float32`; None: of the parameters.

    Raises:
      UserError: `moment_dtype` is something else.
    """
    check_moment_dtype(moment_dtype)
    transformation = optax.chain(
        optax.clip_by_global_norm(max_norm),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=moment_dtype),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )
    return Optimizer(transformation, learning_rate)
