"""The attention product, and the key/value cache of decoding."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

MASKED_SCORE = -10_000.0
"""Masked scores are replaced by this, so that a row without any key is uniform."""


def dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    dropout: nn.Dropout,
    deterministic: bool,
    heads_first: bool = False,
) -> jax.Array:
    """Softmax attention with float32 scores (docs/original.md, Architecture).

    Args:
      query: `[batch, queries, heads, kv]`.
      key: `[batch, keys, heads, kv]`, or `[batch, heads, keys, kv]` if `heads_first`.
      value: like `key`.
      mask: bool, broadcastable to `[batch, heads, queries, keys]`, true where attention is allowed.
      dropout: applied to the probabilities.
      deterministic: no dropout.
      heads_first: how keys and values lie.

    Returns:
      `[batch, queries, heads, kv]` in the dtype of `value`.
    """
    keys = "bhkd" if heads_first else "bkhd"
    scores = jnp.einsum(f"bqhd,{keys}->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = jnp.where(mask, scores, MASKED_SCORE)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    probabilities = dropout(probabilities, deterministic=deterministic)
    return jnp.einsum(f"bhqk,{keys}->bqhd", probabilities, value)


def write_cache(cache: jax.Array, update: jax.Array, start: jax.Array) -> jax.Array:
    """Writes `[batch, n, heads, kv]` into the cache from position `start`, scalar or `[batch]`."""
    update = update.astype(cache.dtype)
    if start.ndim == 0:
        return jax.lax.dynamic_update_slice_in_dim(cache, update, start, axis=1)
    write_row = jax.vmap(lambda c, u, s: jax.lax.dynamic_update_slice_in_dim(c, u, s, axis=0))
    return write_row(cache, update, start)
