"""Log-likelihoods of given answers (reference §7.6)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.network import OpenBA, Params, logits_from_hidden, output_head
from openba_jax.nn.losses import (
    MAX_CHUNK_LOGITS,
    chunk_length,
    cross_entropy,
    join_length,
    split_length,
)

LENGTH_MULTIPLE = 128
"""Lengths of prompts, questions and answers are padded to multiples of this."""


@functools.partial(jax.jit, static_argnums=0)
def answer_log_likelihoods(
    config: OpenBAConfig,
    params: Params,
    encoder_input_tokens: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    """Summed log p of weighted target tokens, for several answers to each input.

    The input is encoded once for all of its answers.

    Args:
      config: the model's configuration.
      params: its parameters.
      encoder_input_tokens: int32 `[batch, encoder_length]`.
      targets: int32 `[batch, answers, decoder_length]`, padded with 0.
      weights: float32 like `targets`: 1 where a token counts.

    Returns:
      float32 `[batch, answers]`, in nats, at most 0.
    """
    model = OpenBA(config)
    batch, answers, length = targets.shape
    encoded: Any = model.apply(
        {"params": params}, encoder_input_tokens, enable_dropout=False, method=OpenBA.encode
    )
    targets = targets.reshape(batch * answers, length)
    hidden: Any = model.apply(
        {"params": params},
        jnp.repeat(encoded, answers, axis=0),
        jnp.repeat(encoder_input_tokens, answers, axis=0),
        shift_right(targets),
        enable_dropout=False,
        method=OpenBA.decode_hidden,
    )
    losses = token_losses(config, params, hidden, targets).reshape(weights.shape)
    return -jnp.sum(losses * weights, axis=-1)


def token_losses(
    config: OpenBAConfig, params: Any, hidden: jax.Array, targets: jax.Array
) -> jax.Array:
    """`-log p` of every target, float32 `[batch, length]`, in chunks of positions where it is much.

    Args:
      config: the network's configuration.
      params: its parameters.
      hidden: decoder outputs `[batch, length, embed]`.
      targets: int32 `[batch, length]`.
    """
    kernel, bias = output_head(config, params)

    def of_positions(hidden: jax.Array, targets: jax.Array) -> jax.Array:
        return cross_entropy(logits_from_hidden(config, hidden, kernel, bias), targets)

    batch, length = targets.shape
    chunk = chunk_length(batch, config.vocab_size, MAX_CHUNK_LOGITS)
    if chunk >= length:
        return of_positions(hidden, targets)
    parts = (split_length(hidden, chunk), split_length(targets, chunk))
    return join_length(jax.lax.map(lambda part: of_positions(*part), parts), length)


def shift_right(targets: jax.Array) -> jax.Array:
    """Decoder inputs of int targets `[batch, length]`: start id 0 first, last token dropped."""
    return jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))


def fitting_length(rows: Sequence[Sequence[int]], limit: int) -> int:
    """A length for all rows: the longest, rounded up so that few shapes are compiled, within limit.

    Args:
      rows: rows of ids, none longer than `limit`.
      limit: the largest length.
    """
    longest = max(map(len, rows), default=0)
    return min(limit, -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE)


def pad_rows(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Rows of ids as int32 `[len(rows), length]`, padded with 0 on the right, cut at `length`."""
    padded = np.zeros((len(rows), length), np.int32)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids[:length]
    return padded
