"""Greedy decoding and sampling with the key/value cache.

The cross-attention keys and values are projected once, when the cache is made; each step then costs
one decoder pass over one token.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from openba_jax.errors import UserError
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.network import OpenBA, Params

PAD_ID = 0
EOS_ID = 1
START_ID = 0
LEAST_TEMPERATURE = 1e-4
"""Logits divided by less may leave the range of their type."""

Cache = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
      temperature: 0 takes the most likely token; otherwise logits are divided by it.
      top_k: keep only so many most likely tokens; 0 keeps all.
      top_p: keep the smallest set of most likely tokens whose probability reaches this.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
          UserError: a value out of its range.
        """
        if self.temperature != 0 and not LEAST_TEMPERATURE <= self.temperature < math.inf:
            raise UserError(
                f"temperature is {self.temperature}; it must be 0, for the most likely token, or a "
                f"number of at least {LEAST_TEMPERATURE:g}."
            )
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; it must be 0 (all tokens) or more.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")


GREEDY = Sampling()


def init_cache(
    config: OpenBAConfig,
    params: Params,
    encoder_input_tokens: jax.Array,
    encoded: jax.Array,
    cache_length: int,
) -> Cache:
    """Makes the cache: cross-attention keys and values filled, self-attention empty.

    Args:
      config: the model's configuration.
      params: its parameters.
      encoder_input_tokens: int32 `[batch, encoder_length]`.
      encoded: `[batch, encoder_length, embed]`.
      cache_length: decoder positions that the cache can hold.
    """
    start = jnp.zeros((encoded.shape[0], 1), jnp.int32)
    _, variables = OpenBA(config).apply(
        {"params": params},
        encoded,
        encoder_input_tokens,
        start,
        enable_dropout=False,
        decode=True,
        max_decode_length=cache_length,
        mutable=["cache"],
        method=OpenBA.decode_hidden,
    )
    return variables["cache"]


def split_cache(cache: Cache) -> tuple[Cache, Cache]:
    """What a step changes, and the projections of the encoder output, which nothing changes.

    Kept apart, the second is not copied with every token.
    """
    parts: tuple[Cache, Cache] = ({}, {})
    for path, leaf in traverse_util.flatten_dict(cache).items():
        parts["cross_attention" in path][path] = leaf
    return traverse_util.unflatten_dict(parts[0]), traverse_util.unflatten_dict(parts[1])


def decode_step(
    config: OpenBAConfig,
    params: Params,
    cache: Cache,
    encoder_input_tokens: jax.Array,
    tokens: jax.Array,
    encoded: Cache | None = None,
) -> tuple[jax.Array, Cache]:
    """One cached step.

    Args:
      config: the model's configuration.
      params: its parameters.
      cache: as made by `init_cache`, or the first part of `split_cache`.
      encoder_input_tokens: int32 `[batch, encoder_length]`, for the mask.
      tokens: int32 `[batch * beams, n]`, the next decoder inputs; usually n is 1. Beams, rows that
        share an encoder output, stand together.
      encoded: the second part of `split_cache`, if it was split.

    Returns:
      Float32 logits `[batch, n, vocab]`, and the cache after the step.
    """
    # Keys and values of the encoder output are cached: only its length is still looked at.
    unread = jnp.zeros((*encoder_input_tokens.shape, 0), config.dtype)
    logits, variables = OpenBA(config).apply(
        {"params": params, "cache": cache, "encoded": encoded or {}},
        unread,
        encoder_input_tokens,
        tokens,
        enable_dropout=False,
        decode=True,
        mutable=["cache"],
        method=OpenBA.decode,
    )
    return logits, variables["cache"]


def choose_tokens(logits: jax.Array, sampling: Sampling, rng: jax.Array) -> jax.Array:
    """Draws int32 `[batch]` from float32 logits `[batch, vocab]`."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    if sampling.top_k:
        kth = jax.lax.top_k(logits, min(sampling.top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < kth, -jnp.inf, logits)
    if sampling.top_p < 1:
        descending = -jnp.sort(-logits, axis=-1)
        probabilities = jax.nn.softmax(descending, axis=-1)
        # A token stays when the tokens before it do not reach top_p yet: the first always does.
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        least = jnp.min(jnp.where(before < sampling.top_p, descending, jnp.inf), -1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(rng, logits, axis=-1).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("config", "max_new_tokens", "sampling", "stop_ids"))
def generate(
    config: OpenBAConfig,
    params: Params,
    encoder_input_tokens: jax.Array,
    rng: jax.Array,
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: tuple[int, ...] = (EOS_ID,),
) -> jax.Array:
    """Generates until every row has a stop token or `max_new_tokens` are out.

    Args:
      config: the model's configuration.
      params: its parameters.
      encoder_input_tokens: int32 `[batch, length]`, 0 is padding (on either side).
      rng: a key for sampling; every row and step draws its own numbers.
      max_new_tokens: length of the answer.
      sampling: how tokens are chosen; greedy by default.
      stop_ids: ids that end a row; they are part of the answer.

    Returns:
      int32 `[batch, max_new_tokens]`, without the start id, padded with 0 after a stop id.
    """
    batch = encoder_input_tokens.shape[0]
    encoded: Any = OpenBA(config).apply(
        {"params": params}, encoder_input_tokens, enable_dropout=False, method=OpenBA.encode
    )
    cache, projections = split_cache(
        init_cache(config, params, encoder_input_tokens, encoded, max_new_tokens)
    )

    def unfinished(state: tuple[Any, ...]) -> jax.Array:
        step, _, _, done, _ = state
        return (step < max_new_tokens) & ~jnp.all(done)

    def advance(state: tuple[Any, ...]) -> tuple[Any, ...]:
        step, last, cache, done, answer = state
        logits, cache = decode_step(
            config, params, cache, encoder_input_tokens, last[:, None], projections
        )
        chosen = choose_tokens(logits[:, 0], sampling, jax.random.fold_in(rng, step))
        chosen = jnp.where(done, PAD_ID, chosen)
        answer = jax.lax.dynamic_update_slice_in_dim(answer, chosen[:, None], step, axis=1)
        return step + 1, chosen, cache, done | jnp.isin(chosen, jnp.array(stop_ids)), answer

    state = (
        jnp.int32(0),
        jnp.full(batch, START_ID, jnp.int32),
        cache,
        jnp.zeros(batch, bool),
        jnp.full((batch, max_new_tokens), PAD_ID, jnp.int32),
    )
    return jax.lax.while_loop(unfinished, advance, state)[-1]
