"""Sampling whose settings are arrays, one entry for each row: new settings compile nothing."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from openba_jax.inference.decoding import Sampling

SEED_RANGE = 2**32
_MOST = 2**31 - 1  # Of an int32: more tokens than any vocabulary has.


class RowSampling(NamedTuple):
    """Settings of `rows` rows; what they mean, `decoding.Sampling` says.

    Attributes:
      temperature: float32 `[rows]`; 0 takes the most likely token.
      top_k: int32 `[rows]`; 0 keeps all.
      top_p: float32 `[rows]`.
      seed: uint32 `[rows]`.
      step: int32 `[rows]`, the tokens that the row has already; each draws numbers of its own.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    seed: jax.Array
    step: jax.Array


def unused_rows(rows: int) -> RowSampling:
    """Greedy settings for rows that nobody uses yet."""
    return RowSampling(
        jnp.zeros(rows, jnp.float32),
        jnp.zeros(rows, jnp.int32),
        jnp.ones(rows, jnp.float32),
        jnp.zeros(rows, jnp.uint32),
        jnp.zeros(rows, jnp.int32),
    )


def row_settings(sampling: Sampling, seed: int) -> RowSampling:
    """Scalar settings of one row at its first step; seeds are counted modulo `SEED_RANGE`."""
    return RowSampling(
        jnp.float32(sampling.temperature),
        jnp.int32(min(sampling.top_k, _MOST)),
        jnp.float32(sampling.top_p),
        jnp.uint32(seed % SEED_RANGE),
        jnp.int32(0),
    )


def choose_tokens(logits: jax.Array, sampling: RowSampling) -> jax.Array:
    """Draws int32 `[rows]` from float32 logits `[rows, vocab]`, each row by its own settings.

    What a row draws depends on its logits, its settings and its step, never on other rows.
    """
    likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    sampled = sampling.temperature > 0

    def draw() -> jax.Array:
        scaled = logits / jnp.where(sampled, sampling.temperature, 1.0)[:, None]
        # A sort of the whole vocabulary costs more than a small model: only where someone asks.
        limited = sampled & ((sampling.top_k > 0) | (sampling.top_p < 1))
        kept = jax.lax.cond(jnp.any(limited), _limit, lambda values, _: values, scaled, sampling)
        return jax.vmap(_draw)(kept, sampling.seed, sampling.step).astype(jnp.int32)

    drawn = jax.lax.cond(jnp.any(sampled), draw, lambda: likeliest)
    return jnp.where(sampled, drawn, likeliest)


def _draw(logits: jax.Array, seed: jax.Array, step: jax.Array) -> jax.Array:
    return jax.random.categorical(jax.random.fold_in(jax.random.key(seed), step), logits)


def _limit(logits: jax.Array, sampling: RowSampling) -> jax.Array:
    """-inf for what top_k and then top_p leave out."""
    vocab = logits.shape[-1]
    descending = -jnp.sort(-logits, axis=-1)
    count = jnp.where(sampling.top_k > 0, jnp.minimum(sampling.top_k, vocab), vocab)
    kth = jnp.take_along_axis(descending, count[:, None] - 1, axis=-1)
    probabilities = jax.nn.softmax(jnp.where(descending < kth, -jnp.inf, descending), axis=-1)
    # A token stays when the tokens before it do not reach top_p yet: the first always does.
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    within = jnp.where(before < sampling.top_p[:, None], descending, jnp.inf)
    least = jnp.where(sampling.top_p[:, None] < 1, jnp.min(within, -1, keepdims=True), -jnp.inf)
    return jnp.where(logits < jnp.maximum(kth, least), -jnp.inf, logits)
