"""JAX's splash attention on TPUs: a Pallas kernel that holds a block of scores at a time."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from openba_jax.nn.attention import AttentionMask, Scores
from openba_jax.nn.attention_kernels.base import Kernel, UnsupportedError, on_each_device

LANES = 128
"""Blocks are multiples of so many positions."""

LONGEST_BLOCK = 512
"""Positions of a block at most: a block of scores and its gradients have to fit on the chip."""


def splash_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    scores: Scores,
    interpret: bool = False,
) -> jax.Array:
    """Attends without keeping scores; an `Attend`.

    Args:
      query: `[batch, queries, heads, kv]`.
      key: `[batch, keys, kv_heads, kv]`.
      value: like `key`.
      mask: what each query sees.
      scores: how products become scores.
      interpret: run it as JAX operations, on any platform.

    Returns:
      `[batch, queries, heads, kv]`.

    Raises:
      UnsupportedError: the kernel cannot.
    """
    # Pallas takes most of a second to import.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    if scores.bias is not None:
        raise UnsupportedError("it has no bias")
    if not (mask.prefix is None and mask.window is None and mask.allowed is None):
        raise UnsupportedError("it has no prefix and no window")
    (_, queries, heads, kv), keys = query.shape, key.shape[1]
    (block_q, padded_q), (block_k, padded_k) = _blocks(queries), _blocks(keys)
    seen = (masks.CausalMask if mask.causal else masks.FullMask)((padded_q, padded_k))
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([seen] * heads),
        block_sizes=splash.BlockSizes(
            block_q=block_q,
            block_kv=block_k,
            block_q_dkv=block_q,
            block_kv_dkv=block_k,
            block_q_dq=block_q,
            block_kv_dq=block_k,
        ),
        attn_logits_soft_cap=scores.softcap or None,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    segments = _segments(mask, query, key, padded_q, padded_k)
    scale = kv**-0.5 if scores.scale is None else scores.scale

    def padded(x: jax.Array, length: int) -> jax.Array:
        """`[batch, heads, length, kv]`."""
        return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, length - x.shape[1]), (0, 0)))

    attended = jax.vmap(kernel)(
        padded(query * jnp.asarray(scale, query.dtype), padded_q),
        padded(key, padded_k),
        padded(value, padded_k),
        segments and splash.SegmentIds(*segments),
    )
    return attended[:, :, :queries].swapaxes(1, 2)


def _blocks(length: int) -> tuple[int, int]:
    """Positions of a block, and the length in whole blocks."""
    count = -(-length // LONGEST_BLOCK)
    block = -(-length // (count * LANES)) * LANES
    return block, count * block


def _segments(
    mask: AttentionMask, query: jax.Array, key: jax.Array, padded_q: int, padded_k: int
) -> tuple[jax.Array, jax.Array] | None:
    """Segments of queries and of keys, int32 `[batch, length]`; no query is of that of padding."""
    if (
        mask.keys is None
        and mask.key_segments is None
        and (mask.causal or padded_k == key.shape[1])
    ):
        return None  # All are of one, and no query sees the padding.
    of_queries, of_keys = mask.query_segments, mask.key_segments
    if of_queries is None or of_keys is None:
        of_queries, of_keys = (jnp.zeros(x.shape[:2], jnp.int32) for x in (query, key))
    if mask.keys is not None:
        of_keys = jnp.where(mask.keys, of_keys, -1)

    def padded(ids: jax.Array, length: int, padding: int) -> jax.Array:
        width = ((0, 0), (0, length - ids.shape[1]))
        return jnp.pad(ids.astype(jnp.int32), width, constant_values=padding)

    return padded(of_queries, padded_q, 0), padded(of_keys, padded_k, -1)


KERNEL = Kernel(functools.partial(on_each_device, splash_attention), ("tpu",))
