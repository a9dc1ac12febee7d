"""Cross entropy over a large vocabulary, a chunk of positions at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

MAX_CHUNK_LOGITS = 2**27
"""Logits of one chunk that a device may hold: 512 MiB in float32, and about twice that besides."""

LogitsFn = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """`-log p(target)` in nats, float32 `[...]`; logits `[..., vocab]`, int targets `[...]`."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def chunk_length(batch: int, vocab: int, max_chunk_logits: int = MAX_CHUNK_LOGITS) -> int:
    """Positions of `batch` rows whose logits may be held at once, at least 1.

    The logits of a chunk lie divided over all devices of the mesh in use, if there is one.
    """
    devices = max(1, jax.sharding.get_abstract_mesh().size)  # 0 where there is no mesh.
    return max(1, max_chunk_logits * devices // (batch * vocab))


def split_length(x: jax.Array, chunk: int) -> jax.Array:
    """`[batch, length, ...]` to `[chunks, batch, chunk, ...]`, padded with zeros at the end.

    Chunks run along the length, so that a sharded batch stays sharded.
    """
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % chunk)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)


def join_length(chunks: jax.Array, length: int) -> jax.Array:
    """The inverse of `split_length`."""
    x = jnp.moveaxis(chunks, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def chunked_cross_entropy(
    logits_fn: LogitsFn,
    hidden: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    max_chunk_logits: int = MAX_CHUNK_LOGITS,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted cross entropy that never holds more than `max_chunk_logits` logits on a device.

    The whole tensor of a 250k vocabulary at 32 x 380 positions would take 12 GB. Where it takes
    more than one chunk, the pass over the chunks computes the gradients along with the loss: to
    compute logits again in the backward pass would cost a fourth product with the vocabulary.

    Args:
      logits_fn: maps `(hidden, kernel, bias)` to logits `[batch, length, vocab]`.
      hidden: `[batch, length, embed]`.
      kernel: `[embed, vocab]`.
      bias: `[vocab]` or None.
      targets: int32 `[batch, length]`.
      weights: float32 `[batch, length]`; no gradient is taken with respect to them.
      max_chunk_logits: bound on `batch * chunk * vocab` over the number of devices.

    Returns:
      The weighted sum of losses, float32, and `weight_sum`, `correct_sum` (float32).
    """
    chunk = chunk_length(hidden.shape[0], kernel.shape[1], max_chunk_logits)
    arguments = (hidden, kernel, bias, targets, weights)
    if chunk >= hidden.shape[1]:
        sums = _sums(logits_fn, *arguments)
    else:
        sums = _sums_of_chunks(logits_fn, chunk, *arguments)
    return sums[0], {"weight_sum": jnp.sum(weights), "correct_sum": sums[1]}


def _sums(
    logits_fn: LogitsFn,
    hidden: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    """Weighted sums of losses and of right predictions, float32 `[2]`."""
    logits = logits_fn(hidden, kernel, bias)
    correct = jnp.argmax(logits, axis=-1) == targets
    return jnp.stack(
        [jnp.sum(cross_entropy(logits, targets) * weights), jnp.sum(correct * weights)]
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sums_of_chunks(
    logits_fn: LogitsFn,
    chunk: int,
    hidden: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    """`_sums`, chunk by chunk."""
    shared = _shared(kernel, hidden.dtype)

    def add(sums: jax.Array, part: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        hidden, targets, weights = part
        return sums + _sums(logits_fn, hidden, shared, bias, targets, weights), None

    parts = tuple(split_length(x, chunk) for x in (hidden, targets, weights))
    return jax.lax.scan(add, jnp.zeros(2, jnp.float32), parts)[0]


def _sums_and_gradients(
    logits_fn: LogitsFn,
    chunk: int,
    hidden: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
) -> tuple[jax.Array, Any]:
    """`_sums_of_chunks`, and the gradients of the loss with respect to hidden, kernel, bias."""
    shared = _shared(kernel, hidden.dtype)

    def add(total: Any, part: tuple[jax.Array, ...]) -> tuple[Any, jax.Array]:
        hidden, targets, weights = part

        def loss(
            hidden: jax.Array, kernel: jax.Array, bias: jax.Array | None
        ) -> tuple[jax.Array, jax.Array]:
            sums = _sums(logits_fn, hidden, kernel, bias, targets, weights)
            return sums[0], sums

        (_, sums), (of_hidden, *others) = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
            hidden, shared, bias
        )
        total = jax.tree.map(lambda a, b: a + b.astype(jnp.float32), total, (sums, *others))
        # Each device keeps the part of the sum that it keeps of the parameter.
        of_kernel = nn.with_logical_constraint(total[1], ("embed", "vocab"))
        return (total[0], of_kernel, total[2]), of_hidden

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (jnp.zeros(2), kernel, bias))
    parts = tuple(split_length(x, chunk) for x in (hidden, targets, weights))
    (sums, of_kernel, of_bias), of_hidden = jax.lax.scan(add, zeros, parts)
    gradients = (join_length(of_hidden, hidden.shape[1]), of_kernel, of_bias)
    return sums, jax.tree.map(lambda g, x: g.astype(x.dtype), gradients, (hidden, kernel, bias))


def _scaled_gradients(
    logits_fn: LogitsFn, chunk: int, gradients: Any, cotangent: jax.Array
) -> tuple[Any, ...]:
    """The gradients times what the loss is multiplied by afterwards; none for the others."""
    del logits_fn, chunk
    return *jax.tree.map(lambda g: g * cotangent[0].astype(g.dtype), gradients), None, None


_sums_of_chunks.defvjp(_sums_and_gradients, _scaled_gradients)


def _shared(kernel: jax.Array, dtype: Any) -> jax.Array:
    """The kernel as all chunks use it: brought together once, not once for each of them."""
    return nn.with_logical_constraint(
        kernel.astype(dtype), ("activation_embed", "activation_vocab")
    )
