"""Attention on a CPU: a few rows at a time, so that scores stay in its caches."""

from __future__ import annotations

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp

from openba_jax.nn.attention import MASKED_SCORE, AttentionMask, Scores

MAX_SCORES = 2**19
"""Scores of the rows that are taken at a time, of 4 bytes each."""


def cpu_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask, scores: Scores
) -> jax.Array:
    """What `xla_attention` computes, without dropout; the backward pass computes scores again.

    To keep the scores and probabilities of all layers, and to read them again, costs a CPU more
    than their products.
    """
    batch, queries, heads, _ = query.shape
    rows = max(1, MAX_SCORES // (heads * queries * key.shape[1]))
    while batch % rows:
        rows -= 1
    if rows >= batch:
        return _of_rows(query, key, value, mask, scores)

    mask = dataclasses.replace(mask, allowed=_of_rank_four(mask.allowed))
    scores = dataclasses.replace(scores, bias=_of_rank_four(scores.bias))
    # What all rows share has no rows, or one.
    leaves, tree = jax.tree.flatten((query, key, value, mask, scores))
    divided = [jnp.ndim(leaf) > 1 and leaf.shape[0] == batch for leaf in leaves]

    def of_block(own: list[jax.Array]) -> jax.Array:
        parts = iter(own)
        here = [next(parts) if is_own else x for x, is_own in zip(leaves, divided, strict=True)]
        return _of_rows(*jax.tree.unflatten(tree, here))

    own = [x for x, is_own in zip(leaves, divided, strict=True) if is_own]
    blocks = [x.reshape(batch // rows, rows, *x.shape[1:]) for x in own]
    return cast(jax.Array, jax.lax.map(of_block, blocks).reshape(query.shape))


def _of_rank_four(array: jax.Array | None) -> jax.Array | None:
    """With the axes that broadcasting adds in front: the first axis is that of the rows, then."""
    return None if array is None else array.reshape((1,) * (4 - array.ndim) + array.shape)


@jax.checkpoint
def _of_rows(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask, scores: Scores
) -> jax.Array:
    batch, queries, heads, kv = query.shape
    keys, groups = key.shape[1:3]
    # Query heads that share keys are so many queries of one head.
    folded = (batch, groups, -1, kv)
    products = _scores(query.swapaxes(1, 2).reshape(folded), key.swapaxes(1, 2))
    scored = scores(products.reshape(batch, heads, queries, keys), kv)
    allowed = mask.dense(queries, keys)
    if allowed is not None:
        scored = jnp.where(allowed, scored, MASKED_SCORE)
    probabilities = jax.nn.softmax(scored, axis=-1).astype(value.dtype)
    probabilities = probabilities.reshape(*products.shape)
    context = _context(probabilities, value.swapaxes(1, 2))
    return context.reshape(batch, heads, queries, kv).swapaxes(1, 2)


# Gradients by JAX's own rules are products of transposed arrays, and XLA's CPU compiler copies
# scores to transpose them, slowly. Each product below takes its operands as they lie.


@jax.custom_vjp
def _scores(query: jax.Array, key: jax.Array) -> jax.Array:
    """Float32 `[batch, heads, queries, keys]` of `[batch, heads, queries or keys, kv]`."""
    return _product("bhqd,bhkd->bhqk", query, key, jnp.float32)


def _scores_forward(
    query: jax.Array, key: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _scores(query, key), (query, key)


def _scores_backward(
    saved: tuple[jax.Array, jax.Array], of_scores: jax.Array
) -> tuple[jax.Array, jax.Array]:
    query, key = saved
    of_query = _product("bhqk,bhkd->bhqd", of_scores, key, query.dtype)
    return of_query, _product("bhqk,bhqd->bhkd", of_scores, query, key.dtype)


@jax.custom_vjp
def _context(probabilities: jax.Array, value: jax.Array) -> jax.Array:
    """`[batch, heads, queries, kv]` of probabilities `[batch, heads, queries, keys]`."""
    return _product("bhqk,bhkd->bhqd", probabilities, value, value.dtype)


def _context_forward(
    probabilities: jax.Array, value: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _context(probabilities, value), (probabilities, value)


def _context_backward(
    saved: tuple[jax.Array, jax.Array], of_context: jax.Array
) -> tuple[jax.Array, jax.Array]:
    probabilities, value = saved
    of_probabilities = _product("bhqd,bhkd->bhqk", of_context, value, probabilities.dtype)
    return of_probabilities, _product("bhqk,bhqd->bhkd", probabilities, of_context, value.dtype)


def _product(equation: str, left: jax.Array, right: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jnp.einsum(equation, left, right, preferred_element_type=dtype)


_scores.defvjp(_scores_forward, _scores_backward)
_context.defvjp(_context_forward, _context_backward)
