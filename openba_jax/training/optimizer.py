"""AdamW and its schedules, as the original trained (docs/original.md#training)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from openba_jax.errors import UserError

UNDECAYED = ("bias", "scale")
"""Last names of parameters without weight decay: biases and what is one-dimensional in a layer.

By name, since with scanned layers the scale of a layer norm is `[layers, embed]`, a matrix.
"""


class Optimizer(NamedTuple):
    """A gradient transformation and the schedule inside it, which the log wants to know."""

    transformation: optax.GradientTransformation
    learning_rate: optax.Schedule


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
      UserError: the decay ends before the warm-up does.
    """
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
    """Linear warm-up from 0 to `peak`, which then stays."""

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        return jnp.where(step < warmup_steps, peak * step / max(1, warmup_steps), peak)

    return schedule


def adamw(
    learning_rate: optax.Schedule,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    max_norm: float = 1.0,
) -> Optimizer:
    """Adam with decoupled weight decay, after clipping by the global norm.

    Args:
      learning_rate: maps the step, from 0, to the rate.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added outside the square root.
      weight_decay: multiplies the parameter; scaled by the learning rate, too.
      max_norm: gradients longer than this are scaled down to it.
    """
    transformation = optax.chain(
        optax.clip_by_global_norm(max_norm),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )
    return Optimizer(transformation, learning_rate)
