"""Log-likelihoods of given answers (docs/original.md, Evaluation)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from openba_jax.models.base import Model, Params
from openba_jax.nn.losses import (
    MAX_CHUNK_LOGITS,
    Head,
    chunk_length,
    cross_entropy,
    join_length,
    split_length,
)


@functools.partial(jax.jit, static_argnums=0)
def answer_log_likelihoods(
    model: Model,
    params: Params,
    inputs: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    """Summed log p of weighted target tokens, for several answers to each input.

    The input is encoded once for all of its answers.

    Args:
      model: the model.
      params: its parameters.
      inputs: int32 `[batch, input_length]`, padded with `model.padding`.
      targets: int32 `[batch, answers, decoder_length]`, padded with any id.
      weights: float32 like `targets`: 1 where a token counts.

    Returns:
      float32 `[batch, answers]`, in nats, at most 0.
    """
    batch, answers, length = targets.shape
    inputs = jnp.asarray(inputs)
    encoded = model.encode(params, inputs, room=length)
    first = jnp.broadcast_to(model.first_tokens(inputs)[:, None, None], (batch, answers, 1))
    tokens = jnp.concatenate([first, targets[:, :, :-1]], axis=2)
    hidden = model.answers_hidden(params, encoded, inputs, tokens)
    targets = jnp.asarray(targets).reshape(batch * answers, length)
    losses = token_losses(model.head(params), hidden, targets).reshape(weights.shape)
    return -jnp.sum(losses * weights, axis=-1)


@functools.partial(jax.jit, static_argnums=0)
def next_token_log_likelihoods(
    model: Model,
    params: Params,
    inputs: jax.Array,
    prefix: jax.Array,
    tokens: jax.Array,
) -> jax.Array:
    """log p of some tokens behind each input and a prefix: one position, not one for each token.

    Args:
      model: the model.
      params: its parameters.
      inputs: int32 `[batch, input_length]`, padded with `model.padding`.
      prefix: int32 `[length]`, which the answer to every input begins with; may be empty.
      tokens: int32 `[batch, count]`.

    Returns:
      float32 `[batch, count]`, in nats, at most 0.
    """
    inputs = jnp.asarray(inputs)
    rows = jnp.broadcast_to(jnp.asarray(prefix), (len(inputs), *prefix.shape))
    read = jnp.concatenate([model.first_tokens(inputs)[:, None], rows], axis=1)
    encoded = model.encode(params, inputs, room=read.shape[1])
    hidden = model.decode_hidden(params, encoded, inputs, read)
    logits = model.head(params).logits(hidden[:, -1:])[:, 0].astype(jnp.float32)
    found = jnp.take_along_axis(logits, jnp.asarray(tokens), axis=-1)
    return found - jax.nn.logsumexp(logits, axis=-1, keepdims=True)


def token_losses(head: Head, hidden: jax.Array, targets: jax.Array) -> jax.Array:
    """`-log p` of every target, float32 `[batch, length]`, in chunks of positions where it is much.

    Args:
      head: what makes logits of hidden states.
      hidden: decoder outputs `[batch, length, embed]`.
      targets: int32 `[batch, length]`.
    """

    def of_positions(hidden: jax.Array, targets: jax.Array) -> jax.Array:
        return cross_entropy(head.logits(hidden), targets)

    batch, length = targets.shape
    chunk = chunk_length(batch, head.kernel.shape[1], MAX_CHUNK_LOGITS)
    if chunk >= length:
        return of_positions(hidden, targets)
    parts = (split_length(hidden, chunk), split_length(targets, chunk))
    return join_length(jax.lax.map(lambda part: of_positions(*part), parts), length)
