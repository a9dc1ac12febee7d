"""The loss of a student: cross entropy and divergence in one pass over the chunks.

Neither the logits of the student nor those of the teacher are ever held whole: a chunk of positions
has both, and the bound on the logits of a chunk counts them together.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from openba_jax.distillation.divergences import Divergence
from openba_jax.nn.losses import (
    MAX_CHUNK_LOGITS,
    Head,
    cross_entropy,
    group_sums,
    of_groups,
    position_groups,
    sum_over_chunks,
)


def distilled_sums(
    hidden: jax.Array,
    head: Head,
    batch: Any,
    teacher_hidden: jax.Array,
    teacher_head: Head,
    divergence: Divergence,
    temperature: float,
    weight: jax.Array,
    max_chunk_logits: int = MAX_CHUNK_LOGITS,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`(1 - weight) CE + weight T^2 D`, summed over target tokens; gradients for the student alone.

    Args:
      hidden: of the student, `[batch, length, embed]`.
      head: of the student.
      batch: `decoder_target_tokens` int32 `[batch, length]`, `decoder_loss_weights` float32.
      teacher_hidden: `[batch, length, embed of the teacher]`.
      teacher_head: for the vocabulary of the student.
      divergence: of logits.
      temperature: divides the logits of both.
      weight: float32 scalar.
      max_chunk_logits: bound on the logits of a chunk, over the number of devices.

    Returns:
      What is minimised, float32; `loss_sum`, the cross entropy, `divergence_sum` at the
      temperature, both in nats, `weight_sum` and `correct_sum`; cross entropy by group, if any.
    """
    weights = batch["decoder_loss_weights"]
    kernel = nn.with_logical_constraint(
        # Brought together once, not once for each chunk.
        teacher_head.kernel.astype(teacher_hidden.dtype),
        ("activation_embed", "activation_vocab"),
    )
    sums = sum_over_chunks(
        functools.partial(_sums, divergence, temperature, teacher_head.scale, teacher_head.softcap),
        hidden,
        head,
        (
            *(batch["decoder_target_tokens"], weights, jax.lax.stop_gradient(teacher_hidden)),
            position_groups(batch),
        ),
        jax.lax.stop_gradient((weight, kernel, teacher_head.bias)),
        max_chunk_logits // 2,
    )
    names = ("loss_sum", "divergence_sum", "correct_sum")
    counts = dict(zip(names, sums[1:4], strict=True))
    return sums[0], {**counts, "weight_sum": jnp.sum(weights), **of_groups(batch, sums[4:])}


def _sums(
    divergence: Divergence,
    temperature: float,
    scale: float,
    softcap: float,
    logits: jax.Array,
    rows: Any,
    constants: Any,
) -> jax.Array:
    """What is minimised, cross entropy, divergence, right predictions; then cross entropies by
    group: float32 `[4 + groups]`.
    """
    targets, weights, teacher_hidden, groups = rows
    weight, kernel, bias = constants
    of_teacher = Head(kernel, bias, scale, softcap).logits(teacher_hidden)
    diverging = divergence(logits / temperature, of_teacher / temperature)
    diverges = jnp.sum(diverging * weights)
    entropies = cross_entropy(logits, targets) * weights
    entropy = jnp.sum(entropies)
    correct = jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weights)
    minimised = (1.0 - weight) * entropy + weight * temperature**2 * diverges
    sums = jnp.stack([minimised, entropy, diverges, correct])
    return jnp.concatenate([sums, group_sums(entropies, groups)])
