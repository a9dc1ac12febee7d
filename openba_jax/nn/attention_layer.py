"""Self- and cross-attention of every family, with the key/value cache of decoding.

Cache leaves (collection `cache`), the names T5X's decoding knows: `cached_key`, `cached_value`
`[batch, kv_heads, length, kv]`, in the compute type or as `int8.Int8`, and, for self-attention,
`cache_index`, int32, a scalar or `[batch]`. Keys are cached after rotation. Cross-attention
projects the encoder output once, when the cache is made. These keys and values never change:
`EncoderDecoder.split_cache` moves them to the collection `encoded`, which loops and scans only
read, and which has one row for all beams of an example.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from openba_jax.nn.attention import (
    AttentionMask,
    Dropout,
    Scores,
    write_cache,
    xla_attention,
)
from openba_jax.nn.attention_kernels.registry import AUTO, attention
from openba_jax.nn.int8 import Int8, quantize
from openba_jax.nn.layers import Projection, RMSNorm
from openba_jax.nn.rotary import Rotary

Bias = Callable[[jax.Array, jax.Array], jax.Array]
"""(positions of queries int `[batch or 1, queries]`, of keys `[batch or 1, keys]`) -> what is added
to the scores, broadcastable to `[batch, heads, queries, keys]`."""


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """What tells the attention of one family from that of another.

    Attributes:
      embed_dim: width of the residual stream.
      num_heads: query heads.
      head_dim: size of a head.
      num_kv_heads: heads of keys and values, with an axis `kv_heads` of their own (grouped
        queries, Ainslie et al. 2023, arXiv:2305.13245); 0: every query head has its own, and the
        axis is `heads`.
      joined: heads and their channels are one axis `joined_kv` of the kernels, as in T5X's network.
      qkv_bias: biases on query, key and value projections.
      out_bias: bias on the output projection.
      rotary: how self-attention rotates queries and keys; None: not at all.
      qk_norm: epsilon of RMS norms on queries and keys of self-attention; 0: there are none.
      norm_offset: added to the scales of these norms.
      scale: see `Scores`.
      softcap: see `Scores`.
      memory_embed: logical name of the channels that cross-attention reads.
      std: standard deviation of the initial query, key and value kernels.
      out_std: that of the output kernel.
      query_std: that of the query kernel where it is another one; None: `std`.
      dropout_rate: of the probabilities.
      dropout_shared: all queries of a head lose the same keys, as in T5X's networks.
      kernel: see `nn.attention_kernels.registry.attention`.
      kv_cache: `compute`: keys and values are cached in `dtype`; `int8`: in int8, with a scale for
        each head and position.
      dtype: name of the compute type.
      param_dtype: name of the type of the parameters.
    """

    embed_dim: int
    num_heads: int
    head_dim: int
    num_kv_heads: int = 0
    joined: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    rotary: Rotary | None = None
    qk_norm: float = 0.0
    norm_offset: float = 0.0
    scale: float | None = None
    softcap: float = 0.0
    memory_embed: str = "embed"
    std: float = 0.02
    out_std: float = 0.02
    query_std: float | None = None
    dropout_rate: float = 0.0
    dropout_shared: bool = False
    kernel: str = AUTO
    kv_cache: str = "compute"
    dtype: str = "float32"
    param_dtype: str = "float32"

    @property
    def types(self) -> dict[str, Any]:
        """`dtype` and `param_dtype`."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}


class Attention(nn.Module):
    """Query, key, value and output projections around the attention product."""

    spec: AttentionSpec
    memory: bool = False
    """Whether keys and values are those of another sequence."""

    def setup(self) -> None:
        """Names the projections `query`, `key`, `value`, `out`, and norms if there are any."""
        spec = self.spec
        memory = spec.memory_embed if self.memory else "embed"
        query_std = spec.std if spec.query_std is None else spec.query_std
        self.query = self._to_heads("heads", spec.num_heads, "embed", query_std)
        self.key, self.value = (
            self._to_heads(
                "kv_heads" if spec.num_kv_heads else "heads",
                spec.num_kv_heads or spec.num_heads,
                memory,
                spec.std,
            )
            for _ in range(2)
        )
        self.out = Projection(
            in_axes=("joined_kv",) if spec.joined else ("heads", "kv"),
            out_axes=("embed",),
            out_shape=(spec.embed_dim,),
            use_bias=spec.out_bias,
            std=spec.out_std,
            **spec.types,
        )
        if spec.qk_norm and not self.memory:
            norm = functools.partial(RMSNorm, spec.qk_norm, spec.norm_offset, "kv", **spec.types)
            self.query_norm, self.key_norm = norm(), norm()
        shared = (-2,) if spec.dropout_shared else ()
        self.dropout = nn.Dropout(spec.dropout_rate, broadcast_dims=shared)

    def _to_heads(self, axis: str, heads: int, embed: str, std: float) -> Projection:
        spec = self.spec
        return Projection(
            in_axes=(embed,),
            out_axes=("joined_kv",) if spec.joined else (axis, "kv"),
            out_shape=(heads * spec.head_dim,) if spec.joined else (heads, spec.head_dim),
            use_bias=spec.qkv_bias,
            std=std,
            **spec.types,
        )

    def _split(self, projected: jax.Array) -> jax.Array:
        """`[batch, length, heads, kv]` of projections, whose heads may be joined with channels."""
        return projected.reshape(*projected.shape[:2], -1, self.spec.head_dim)

    def _joined(self, context: jax.Array) -> jax.Array:
        """The output of `[batch, length, heads, kv]`, `[batch, length, embed]`."""
        if self.spec.joined:
            context = context.reshape(*context.shape[:2], -1)
        return self.out(context)

    def _attend(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        mask: AttentionMask,
        bias: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        axes = ("activation_batch", "activation_length", "activation_heads", "activation_kv")
        query = nn.with_logical_constraint(query, axes)
        if not self.spec.num_kv_heads:  # Fewer heads may be too few for the mesh.
            key, value = (nn.with_logical_constraint(x, axes) for x in (key, value))
        context = attention(
            self.spec.kernel,
            query,
            key,
            value,
            mask,
            self._dropout(deterministic),
            self._scores(bias),
        )
        return self._joined(nn.with_logical_constraint(context, axes))

    def _cached(self, x: jax.Array) -> jax.Array | Int8:
        """Keys or values `[batch, heads, length, kv]` as they are cached."""
        return quantize(x, (-1,)) if self.spec.kv_cache == "int8" else x

    def _scores(self, bias: jax.Array | None) -> Scores:
        return Scores(self.spec.scale, self.spec.softcap, bias)

    def _dropout(self, deterministic: bool) -> Dropout | None:
        if deterministic or not self.spec.dropout_rate:
            return None
        return functools.partial(self.dropout, deterministic=False)


class SelfAttention(Attention):
    """Attention of a sequence to itself."""

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        positions: jax.Array,
        mask: AttentionMask,
        *,
        deterministic: bool,
        bias: Bias | None = None,
        decode: bool = False,
        cache_length: int | None = None,
        prefill_lengths: jax.Array | None = None,
    ) -> jax.Array:
        """Attends.

        Args:
          inputs: `[batch, length, embed]`.
          positions: int32 `[batch or 1, length]`; not read while decoding, where they follow from
            the cache index.
          mask: what each position sees; while decoding only its `window` and `prefix` are read.
          deterministic: no dropout.
          bias: of the scores.
          decode: read and extend the cache. The first such call only makes it.
          cache_length: positions that a new cache holds; by default the length of the inputs.
          prefill_lengths: int32 `[batch]`: the inputs are whole prompts, padded on the right to one
            length; the next token of each row follows at its own length.

        Returns:
          `[batch, length, embed]`.
        """
        query, key, value = (
            self._split(projection(inputs)) for projection in (self.query, self.key, self.value)
        )
        if self.spec.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        rotary = self.spec.rotary or _unrotated
        if not decode:
            query, key = rotary(query, positions), rotary(key, positions)
            biases = None if bias is None else bias(positions, positions)
            return self._attend(query, key, value, mask, biases, deterministic)

        exists = self.has_variable("cache", "cached_key")
        batch, length, heads, kv = key.shape
        # Heads first: so one query for each row reads keys that lie together.
        shape = (batch, heads, cache_length or length, kv)

        like = jax.eval_shape(self._cached, jax.ShapeDtypeStruct(shape, key.dtype))

        def empty() -> Any:
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)

        cached_key = self.variable("cache", "cached_key", empty)
        cached_value = self.variable("cache", "cached_value", empty)
        index = self.variable("cache", "cache_index", lambda: jnp.zeros((), jnp.int32))
        start = index.value
        positions = jnp.atleast_1d(start)[:, None] + jnp.arange(length)
        query, key = rotary(query, positions), rotary(key, positions)
        if exists:
            for cached, new in ((cached_key, key), (cached_value, value)):
                cached.value = write_cache(cached.value, self._cached(new.swapaxes(1, 2)), start)
            index.value = start + length if prefill_lengths is None else prefill_lengths
        places = jnp.arange(cached_key.value.shape[2])
        allowed = _visible(positions, places, mask)
        biases = None if bias is None else bias(positions, places[None])
        context = xla_attention(
            query,
            cached_key.value,
            cached_value.value,
            AttentionMask(allowed=allowed),
            self._scores(biases),
            self._dropout(deterministic),
            heads_first=True,
        )
        return self._joined(context)


class CrossAttention(Attention):
    """Attention of the decoder to the encoder output; no positions."""

    memory: bool = True

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        encoded: jax.Array,
        mask: AttentionMask,
        *,
        deterministic: bool,
        decode: bool = False,
    ) -> jax.Array:
        """Attends `[batch, length, embed]` to `[batch, encoder_length, encoder embed]`.

        Args:
          inputs: the decoder's activations; several rows in a run may share an encoder output.
          encoded: the encoder output; while decoding it is read only to make the cache.
          mask: what of the encoder output each position sees.
          deterministic: no dropout.
          decode: use the cached keys and values.

        Returns:
          `[batch, length, embed]`.
        """
        query = self._split(self.query(inputs))
        if not decode:
            key, value = self._split(self.key(encoded)), self._split(self.value(encoded))
            queries = query.reshape(key.shape[0], -1, *query.shape[2:])
            attended = self._attend(queries, key, value, mask, None, deterministic)
            return attended.reshape(*inputs.shape[:-1], attended.shape[-1])

        def cached(name: str, projection: Projection) -> jax.Array | Int8:
            def project() -> jax.Array | Int8:
                return self._cached(self._split(projection(encoded)).swapaxes(1, 2))

            collection = "encoded" if self.has_variable("encoded", name) else "cache"
            made: jax.Array | Int8 = self.variable(collection, name, project).value
            if self.spec.num_kv_heads:
                return made
            axes = ("activation_batch", "activation_heads", "activation_length", "activation_kv")
            return jax.tree.map(lambda x: nn.with_logical_constraint(x, axes), made)

        keys, values = cached("cached_key", self.key), cached("cached_value", self.value)
        # Rows that share an encoder output, beams, are so many queries of one row.
        rows = keys.shape[0]
        queries = query.reshape(rows, -1, *query.shape[2:])
        if mask.keys is not None and mask.keys.shape[0] > rows:
            real = mask.keys.reshape(rows, -1, mask.keys.shape[1])[:, 0]
            mask = dataclasses.replace(mask, keys=real)
        dropout = self._dropout(deterministic)
        context = xla_attention(
            queries, keys, values, mask, self._scores(None), dropout, heads_first=True
        )
        return self._joined(context.reshape(query.shape))


def _visible(positions: jax.Array, places: jax.Array, mask: AttentionMask) -> jax.Array:
    """What of a cache is seen: bool `[batch or 1, 1, queries, places]`."""
    distance = positions[:, :, None] - places
    visible = distance >= 0
    if mask.prefix is not None:  # The queries are a whole prompt, at the beginning of the cache.
        keys = jnp.pad(mask.prefix, ((0, 0), (0, places.shape[0] - mask.prefix.shape[1])))
        visible |= mask.prefix[:, :, None] & keys[:, None, :]
    if mask.window is not None:
        visible &= jnp.abs(distance) < mask.window
    return visible[:, None]


def _unrotated(inputs: jax.Array, positions: jax.Array) -> jax.Array:
    del positions
    return inputs
