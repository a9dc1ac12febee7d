"""cuDNN's attention on NVIDIA GPUs, through `jax.nn.dot_product_attention`."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from openba_jax.nn.attention import AttentionMask, Scores
from openba_jax.nn.attention_kernels.base import Kernel, UnsupportedError, on_each_device

TYPES = (jnp.bfloat16, jnp.float16)


def cudnn_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    scores: Scores,
    implementation: Literal["xla", "cudnn"] = "cudnn",
) -> jax.Array:
    """Attends without keeping scores; an `Attend`.

    Causality and padding behind the real keys cost nothing; any other mask (segments, a prefix, a
    window) is a bias `[batch, 1, queries, keys]` to cuDNN, in the compute type.

    Args:
      query: `[batch, queries, heads, kv]`, bfloat16 or float16.
      key: `[batch, keys, kv_heads, kv]`.
      value: like `key`.
      mask: what each query sees.
      scores: how products become scores.
      implementation: of `jax.nn.dot_product_attention`.

    Returns:
      `[batch, queries, heads, kv]`.

    Raises:
      UnsupportedError: cuDNN cannot.
    """
    if scores.softcap:
        raise UnsupportedError("it has no bound on scores")
    if implementation == "cudnn" and query.dtype not in TYPES:
        raise UnsupportedError(f"it has no type {query.dtype}")
    arguments, rest = _arguments(mask)
    queries, keys = query.shape[1], key.shape[1]
    dense = rest.dense(queries, keys)
    if dense is not None:
        dense = jnp.broadcast_to(dense, (*dense.shape[:2], queries, keys))
    bias = scores.bias
    if bias is not None:
        if dense is not None:
            # The sum of the two would be as large as the scores, and so would be its gradient.
            raise UnsupportedError("it has no bias together with segments, a prefix or a window")
        if queries % 2 or keys % 2:
            raise UnsupportedError("it has no gradient of a bias at odd lengths")
        bias = bias.astype(query.dtype)
    try:
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            bias,
            dense,
            scale=scores.scale,
            implementation=implementation,
            **arguments,
        )
    except (NotImplementedError, RuntimeError) as error:  # A shape, a device, a missing library.
        raise UnsupportedError(f"it says: {str(error).rstrip('.')}") from error


def _arguments(mask: AttentionMask) -> tuple[dict[str, Any], AttentionMask]:
    """What of a mask has arguments of its own, and the rest."""
    arguments: dict[str, Any] = {}
    if mask.causal and mask.prefix is None:
        arguments["is_causal"] = True
        mask = dataclasses.replace(mask, causal=False)
    if mask.keys is not None and mask.real_first:
        # A row that fills up a batch has no key; of one key its result is finite.
        real = jnp.maximum(jnp.sum(mask.keys, axis=1, dtype=jnp.int32), 1)
        arguments["key_value_seq_lengths"] = real
        mask = dataclasses.replace(mask, keys=None)
    return arguments, mask


KERNEL = Kernel(functools.partial(on_each_device, cudnn_attention), ("gpu",))
