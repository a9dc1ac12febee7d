"""Cross entropy over a large vocabulary, a chunk of positions at a time."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

MAX_CHUNK_LOGITS = 2**28
"""Logits that one chunk may hold (over all devices): 1 GiB in float32."""

LogitsFn = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """`-log p(target)` in nats, float32 `[...]`; logits `[..., vocab]`, int targets `[...]`."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def chunked_cross_entropy(
    logits_fn: LogitsFn,
    hidden: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    max_chunk_logits: int = MAX_CHUNK_LOGITS,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted cross entropy that never holds more than `max_chunk_logits` logits.

    The whole tensor of a 250k vocabulary at 32 x 380 positions would take 12 GB. Chunks run along
    the length, so that a sharded batch stays sharded; the backward pass computes logits again.

    Args:
      logits_fn: maps `(hidden, kernel, bias)` to logits `[batch, length, vocab]`.
      hidden: `[batch, length, embed]`.
      kernel: `[embed, vocab]`.
      bias: `[vocab]` or None.
      targets: int32 `[batch, length]`.
      weights: float32 `[batch, length]`.
      max_chunk_logits: bound on `batch * chunk * vocab`.

    Returns:
      The weighted sum of losses, float32, and `weight_sum`, `correct_sum` (float32).
    """

    def of_chunk(hidden: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        logits = logits_fn(hidden, kernel, bias)
        correct = jnp.argmax(logits, axis=-1) == targets
        return jnp.stack(
            [jnp.sum(cross_entropy(logits, targets) * weights), jnp.sum(correct * weights)]
        )

    batch, length, _ = hidden.shape
    chunk = max(1, max_chunk_logits // (batch * kernel.shape[1]))
    if chunk >= length:
        sums = of_chunk(hidden, targets, weights)
    else:
        padding = -length % chunk

        def split(x: jax.Array) -> jax.Array:
            """`[batch, length, ...]` to `[chunks, batch, chunk, ...]`; padding weighs nothing."""
            x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
            return jnp.moveaxis(x.reshape(batch, -1, chunk, *x.shape[2:]), 1, 0)

        def add(sums: jax.Array, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
            return sums + jax.checkpoint(of_chunk)(*chunk), None

        chunks = (split(hidden), split(targets), split(weights))
        sums, _ = jax.lax.scan(add, jnp.zeros(2, jnp.float32), chunks)
    return sums[0], {"weight_sum": jnp.sum(weights), "correct_sum": sums[1]}
