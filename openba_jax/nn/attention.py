"""What attention is told, the mask and the scores, and attention as the compiler makes it.

`nn.attention_kernels` has the other ways to compute it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import flax.struct
import jax
import jax.numpy as jnp

from openba_jax.nn import int8
from openba_jax.nn.int8 import Int8

MASKED_SCORE = -10_000.0
"""Masked scores are replaced by this, so that a row without any key is uniform."""

Dropout = Callable[[jax.Array], jax.Array]
"""Drops out some of the probabilities."""


@flax.struct.dataclass
class AttentionMask:
    """Which keys a query sees: those that everything given here allows.

    Attributes:
      causal: none behind the query, except those of `prefix`.
      keys: bool `[batch, keys]`, the real ones.
      real_first: in each row of `keys` the real ones stand before all others, so that a kernel may
        count them.
      query_segments: int `[batch, queries]`, with `key_segments`: those of the query's segment.
      key_segments: int `[batch, keys]`.
      prefix: bool `[batch, length]`: what a causal row reads in both directions (prefix LM); every
        query that is part of it sees all of it.
      window: positions that lie less than this apart, an int or an int32 scalar; scanned layers
        have each its own.
      allowed: bool, broadcastable to `[batch, heads, queries, keys]`, for what has no other words.
    """

    causal: bool = flax.struct.field(pytree_node=False, default=False)
    keys: jax.Array | None = None
    real_first: bool = flax.struct.field(pytree_node=False, default=False)
    query_segments: jax.Array | None = None
    key_segments: jax.Array | None = None
    prefix: jax.Array | None = None
    window: jax.Array | int | None = None
    allowed: jax.Array | None = None

    def dense(self, queries: int, keys: int) -> jax.Array | None:
        """Bool, broadcastable to `[batch, heads, queries, keys]`; None where all is allowed."""
        parts = []
        distance = jnp.arange(queries)[:, None] - jnp.arange(keys)
        if self.causal:
            behind = (distance >= 0)[None, None]
            if self.prefix is not None:
                behind |= (self.prefix[:, :, None] & self.prefix[:, None, :])[:, None]
            parts.append(behind)
        if self.window is not None:
            parts.append((jnp.abs(distance) < self.window)[None, None])
        if self.query_segments is not None and self.key_segments is not None:
            same = self.query_segments[:, :, None] == self.key_segments[:, None, :]
            parts.append(same[:, None])
        if self.keys is not None:
            parts.append(self.keys[:, None, None, :])
        if self.allowed is not None:
            parts.append(self.allowed)
        return functools.reduce(jnp.logical_and, parts) if parts else None


@flax.struct.dataclass
class Scores:
    """How the products of queries and keys become scores.

    Attributes:
      scale: what products are multiplied by; None: `kv ** -0.5`.
      softcap: bounds scores to `softcap * tanh(score / softcap)` (Gemma 2); 0: they are not bound.
      bias: float, broadcastable to `[batch, heads, queries, keys]`, added last.
    """

    scale: float | None = flax.struct.field(pytree_node=False, default=None)
    softcap: float = flax.struct.field(pytree_node=False, default=0.0)
    bias: jax.Array | None = None

    def __call__(self, products: jax.Array, kv: int) -> jax.Array:
        """Scores of float32 products; `kv` is the size of a head."""
        scale = 1 / math.sqrt(kv) if self.scale is None else self.scale
        scores = products if scale == 1.0 else products * scale
        if self.softcap:
            scores = self.softcap * jnp.tanh(scores / self.softcap)
        return scores if self.bias is None else scores + self.bias


def xla_attention(
    query: jax.Array,
    key: jax.Array | Int8,
    value: jax.Array | Int8,
    mask: AttentionMask,
    scores: Scores | None = None,
    dropout: Dropout | None = None,
    heads_first: bool = False,
) -> jax.Array:
    """Attention left to the compiler, with float32 scores; an `attention_kernels.base.Attend`.

    Args:
      query: `[batch, queries, heads, kv]`.
      key: `[batch, keys, kv_heads, kv]`, or `[batch, kv_heads, keys, kv]` if `heads_first`; then it
        may be in int8.
      value: like `key`.
      mask: what each query sees; one that sees nothing has the mean of all values.
      scores: how products become scores.
      dropout: applied to the probabilities.
      heads_first: how keys and values lie.

    Returns:
      `[batch, queries, heads, kv]` in the dtype of `value`, or of `query` if that is int8.
    """
    keys = "bhkd" if heads_first else "bkhd"
    batch, queries, heads, kv = query.shape
    groups = key.shape[1 if heads_first else 2]
    grouped = query.reshape(batch, queries, groups, heads // groups, kv)
    key, key_scale = int8.parts(key)
    value, value_scale = int8.parts(value)
    if key_scale is not None:
        key, value = key.astype(query.dtype), value.astype(query.dtype)
    products = jnp.einsum(f"bqhrd,{keys}->bhrqk", grouped, key, preferred_element_type=jnp.float32)
    products = products.reshape(batch, heads, queries, -1)
    if key_scale is not None:
        products = products * _of_heads(key_scale, heads)
    scored = (scores or Scores())(products, kv)
    allowed = mask.dense(*scored.shape[-2:])
    if allowed is not None:
        scored = jnp.where(allowed, scored, MASKED_SCORE)
    probabilities = jax.nn.softmax(scored, axis=-1)
    if value_scale is not None:
        probabilities = probabilities * _of_heads(value_scale, heads)
    probabilities = probabilities.astype(value.dtype)
    if dropout is not None:
        probabilities = dropout(probabilities)
    probabilities = probabilities.reshape(batch, groups, heads // groups, queries, -1)
    context = jnp.einsum(f"bhrqk,{keys}->bqhrd", probabilities, value)
    return context.reshape(batch, queries, heads, kv)


def _of_heads(scale: jax.Array, heads: int) -> jax.Array:
    """Scales `[batch, kv_heads, keys, 1]` of cached positions, `[batch, heads, 1, keys]`."""
    return jnp.repeat(scale.swapaxes(2, 3), heads // scale.shape[1], axis=1)


Cached = TypeVar("Cached", jax.Array, Int8)


def write_cache(cache: Cached, update: Cached, start: jax.Array) -> Cached:
    """Writes `[batch, heads, n, kv]` into the cache from position `start`, scalar or `[batch]`."""

    def write(cache: jax.Array, update: jax.Array) -> jax.Array:
        update = update.astype(cache.dtype)
        if start.ndim == 0:
            return jax.lax.dynamic_update_slice_in_dim(cache, update, start, axis=2)
        write_row = jax.vmap(lambda c, u, s: jax.lax.dynamic_update_slice_in_dim(c, u, s, axis=1))
        return write_row(cache, update, start)

    return jax.tree.map(write, cache, update)
