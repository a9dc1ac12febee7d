"""Self- and cross-attention, with the key/value cache of decoding.

Cache leaves (collection `cache`), the names T5X's decoding knows: `cached_key`, `cached_value`
`[batch, length, heads, kv]` and, for self-attention, `cache_index`, int32, a scalar or `[batch]`.
Keys are cached after rotation. Cross-attention projects the encoder output once, when the cache is
made, heads before positions, `[batch, heads, length, kv]`, as its products want them. They never
change: `decoding.split_cache` moves them to the collection `encoded`, which loops and scans only
read, and which has one row for all beams of an example.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.nn.attention import dot_product_attention, write_cache
from openba_jax.nn.layers import Projection, rotary


class Attention(nn.Module):
    """Query, key, value and output projections around the attention product."""

    config: OpenBAConfig

    def setup(self) -> None:
        """Names the projections `query`, `key`, `value` and `out`."""
        config = self.config

        def to_heads() -> Projection:
            return Projection(
                in_axes=("embed",),
                out_axes=("heads", "kv"),
                out_shape=(config.num_heads, config.head_dim),
                use_bias=config.qkv_bias,
                std=config.initializer_std,
                **config.types,
            )

        self.query, self.key, self.value = to_heads(), to_heads(), to_heads()
        self.out = Projection(
            in_axes=("heads", "kv"),
            out_axes=("embed",),
            out_shape=(config.embed_dim,),
            use_bias=config.qkv_bias,
            std=config.output_initializer_std,
            **config.types,
        )
        self.dropout = nn.Dropout(config.attention_dropout_rate)

    def _attend(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        mask: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        axes = ("activation_batch", "activation_length", "activation_heads", "activation_kv")
        query, key, value = (nn.with_logical_constraint(x, axes) for x in (query, key, value))
        context = dot_product_attention(query, key, value, mask, self.dropout, deterministic)
        return self.out(nn.with_logical_constraint(context, axes))


class SelfAttention(Attention):
    """Attention of a sequence to itself, with rotary positions."""

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        positions: jax.Array,
        mask: jax.Array | None,
        *,
        deterministic: bool,
        decode: bool = False,
        cache_length: int | None = None,
        prefill_lengths: jax.Array | None = None,
    ) -> jax.Array:
        """Attends.

        Args:
          inputs: `[batch, length, embed]`.
          positions: int32 `[batch or 1, length]`; not read while decoding, where they follow from
            the cache index.
          mask: bool, broadcastable to `[batch, 1, length, length]`; not read while decoding.
          deterministic: no dropout.
          decode: read and extend the cache. The first such call only makes it.
          cache_length: positions that a new cache holds; by default the length of the inputs.
          prefill_lengths: int32 `[batch]`: the inputs are whole prompts, padded on the right to one
            length; the next token of each row follows at its own length.

        Returns:
          `[batch, length, embed]`.
        """
        query, key, value = self.query(inputs), self.key(inputs), self.value(inputs)
        theta = self.config.rope_theta
        if not decode:
            query, key = rotary(query, positions, theta), rotary(key, positions, theta)
            return self._attend(query, key, value, mask, deterministic)

        exists = self.has_variable("cache", "cached_key")
        batch, length, heads, kv = key.shape
        shape = (batch, cache_length or length, heads, kv)
        cached_key = self.variable("cache", "cached_key", jnp.zeros, shape, key.dtype)
        cached_value = self.variable("cache", "cached_value", jnp.zeros, shape, value.dtype)
        index = self.variable("cache", "cache_index", lambda: jnp.zeros((), jnp.int32))
        start = index.value
        positions = jnp.atleast_1d(start)[:, None] + jnp.arange(length)
        query, key = rotary(query, positions, theta), rotary(key, positions, theta)
        if exists:
            cached_key.value = write_cache(cached_key.value, key, start)
            cached_value.value = write_cache(cached_value.value, value, start)
            index.value = start + length if prefill_lengths is None else prefill_lengths
        mask = jnp.arange(cached_key.value.shape[1]) <= positions[:, None, :, None]
        return self._attend(query, cached_key.value, cached_value.value, mask, deterministic)


class CrossAttention(Attention):
    """Attention of the decoder to the encoder output; no positions."""

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        encoded: jax.Array,
        mask: jax.Array | None,
        *,
        deterministic: bool,
        decode: bool = False,
    ) -> jax.Array:
        """Attends `[batch, length, embed]` to `[batch, encoder_length, embed]`.

        Args:
          inputs: the decoder's activations.
          encoded: the encoder output; while decoding it is read only to make the cache.
          mask: bool, broadcastable to `[batch, 1, length, encoder_length]`.
          deterministic: no dropout.
          decode: use the cached keys and values.

        Returns:
          `[batch, length, embed]`.
        """
        query = self.query(inputs)
        if not decode:
            return self._attend(query, self.key(encoded), self.value(encoded), mask, deterministic)

        def cached(name: str, projection: Projection) -> jax.Array:
            collection = "encoded" if self.has_variable("encoded", name) else "cache"
            made = self.variable(collection, name, lambda: projection(encoded).swapaxes(1, 2))
            axes = ("activation_batch", "activation_heads", "activation_length", "activation_kv")
            return nn.with_logical_constraint(made.value, axes)

        key, value = cached("cached_key", self.key), cached("cached_value", self.value)
        # Rows that share an encoder output, beams, are so many queries of one row.
        queries = query.reshape(key.shape[0], -1, *query.shape[2:])
        if mask is not None and mask.shape[0] > key.shape[0]:
            mask = mask.reshape(key.shape[0], -1, *mask.shape[1:])[:, 0]
        context = dot_product_attention(
            queries, key, value, mask, self.dropout, deterministic, heads_first=True
        )
        return self.out(context.reshape(query.shape))
