"""Attention: one function, one description of the mask, and a registry of kernels behind it.

A new kernel is a function with the signature of `Kernel` and a line in `KERNELS`; a model's
configuration names the one to use (`attention`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp

MASKED_SCORE = -10_000.0
"""Masked scores are replaced by this, so that a row without any key is uniform."""

Dropout = Callable[[jax.Array], jax.Array]
"""Drops out some of the probabilities."""


@flax.struct.dataclass
class AttentionMask:
    """Which keys a query sees: those that everything given here allows.

    Attributes:
      causal: none behind the query.
      keys: bool `[batch, keys]`, the real ones.
      query_segments: int `[batch, queries]`, with `key_segments`: those of the query's segment.
      key_segments: int `[batch, keys]`.
      allowed: bool, broadcastable to `[batch, heads, queries, keys]`, for what has no other words.
    """

    causal: bool = flax.struct.field(pytree_node=False, default=False)
    keys: jax.Array | None = None
    query_segments: jax.Array | None = None
    key_segments: jax.Array | None = None
    allowed: jax.Array | None = None

    def dense(self, queries: int, keys: int) -> jax.Array | None:
        """Bool, broadcastable to `[batch, heads, queries, keys]`; None where all is allowed."""
        parts = []
        if self.causal:
            parts.append(jnp.tril(jnp.ones((queries, keys), bool))[None, None])
        if self.query_segments is not None and self.key_segments is not None:
            same = self.query_segments[:, :, None] == self.key_segments[:, None, :]
            parts.append(same[:, None])
        if self.keys is not None:
            parts.append(self.keys[:, None, None, :])
        if self.allowed is not None:
            parts.append(self.allowed)
        return functools.reduce(jnp.logical_and, parts) if parts else None


class Kernel(Protocol):
    """Softmax attention without dropout."""

    def __call__(
        self, query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask
    ) -> jax.Array:
        """Attends.

        Args:
          query: `[batch, queries, heads, kv]`.
          key: `[batch, keys, heads, kv]`.
          value: like `key`.
          mask: what each query sees. Of a query that sees nothing the result is finite, and any.

        Returns:
          `[batch, queries, heads, kv]` in the dtype of `value`.
        """


def attention(
    kernel: str,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    dropout: Dropout | None = None,
) -> jax.Array:
    """Softmax attention by a kernel of `KERNELS`; arguments as `Kernel`.

    Dropout on the probabilities, which kernels do not hold, takes XLA's path.
    """
    if dropout is not None:
        return xla_attention(query, key, value, mask, dropout)
    return KERNELS[kernel](query, key, value, mask)


def xla_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    dropout: Dropout | None = None,
    heads_first: bool = False,
) -> jax.Array:
    """Attention left to the compiler, with float32 scores; arguments as `Kernel`.

    Args:
      query: `[batch, queries, heads, kv]`.
      key: `[batch, keys, heads, kv]`, or `[batch, heads, keys, kv]` if `heads_first`.
      value: like `key`.
      mask: what each query sees.
      dropout: applied to the probabilities.
      heads_first: how keys and values lie.
    """
    keys = "bhkd" if heads_first else "bkhd"
    scores = jnp.einsum(f"bqhd,{keys}->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores / math.sqrt(query.shape[-1])
    allowed = mask.dense(*scores.shape[-2:])
    if allowed is not None:
        scores = jnp.where(allowed, scores, MASKED_SCORE)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if dropout is not None:
        probabilities = dropout(probabilities)
    return jnp.einsum(f"bhqk,{keys}->bqhd", probabilities, value)


KERNELS: dict[str, Kernel] = {"xla": xla_attention}


def write_cache(cache: jax.Array, update: jax.Array, start: jax.Array) -> jax.Array:
    """Writes `[batch, n, heads, kv]` into the cache from position `start`, scalar or `[batch]`."""
    update = update.astype(cache.dtype)
    if start.ndim == 0:
        return jax.lax.dynamic_update_slice_in_dim(cache, update, start, axis=1)
    write_row = jax.vmap(lambda c, u, s: jax.lax.dynamic_update_slice_in_dim(c, u, s, axis=0))
    return write_row(cache, update, start)
