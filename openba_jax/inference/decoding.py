"""Greedy decoding and sampling with the key/value cache.

A model reads its input once, when decoding starts; each step then costs one pass over one token.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from openba_jax.errors import UserError
from openba_jax.models.base import DecodingState, Model, Params
from openba_jax.models.layers_apart import apart

PAD_ID = 0
EOS_ID = 1
LEAST_TEMPERATURE = 1e-4
"""Logits divided by less may leave the range of their type."""
NOT_FINITE = -2
"""Stands in an answer where the logits are NaN or infinite."""


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
          UserError: a value is out of its range.
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


def choose_tokens(logits: jax.Array, sampling: Sampling, rng: jax.Array) -> jax.Array:
    """Draws int32 `[batch]` from float32 logits `[batch, vocab]`."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.random.categorical(rng, warp_logits(logits, sampling), axis=-1).astype(jnp.int32)


def warp_logits(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits to draw from, those of tokens that are left out -inf.

    Temperature, top-k and top-p act in this order, as in transformers.

    Args:
      logits: float32 `[batch, vocab]`.
      sampling: of a temperature above 0.
    """
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
    return logits


@functools.partial(jax.jit, static_argnames=("model", "max_new_tokens", "sampling", "stop_ids"))
def generate(
    model: Model,
    params: Params,
    inputs: jax.Array,
    rng: jax.Array,
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: tuple[int, ...] = (EOS_ID,),
) -> jax.Array:
    """Generates until every row has a stop token or `max_new_tokens` are out.

    Args:
      model: the model.
      params: its parameters.
      inputs: int32 `[batch, length]`, padded with `model.padding`.
      rng: a key for sampling; every row and step draws its own numbers.
      max_new_tokens: length of the answer.
      sampling: how tokens are chosen; greedy by default.
      stop_ids: ids that end a row; they are part of the answer.

    Returns:
      int32 `[batch, max_new_tokens]`, without what stands in front, padded with `model.padding`
      after a stop id. A row whose logits are not finite ends with `NOT_FINITE`.
    """
    inputs = jnp.asarray(inputs)
    batch, ends = inputs.shape[0], (*stop_ids, NOT_FINITE)
    first = model.start_decoding(params, inputs, max_new_tokens)
    model, params, (cache, fixed) = apart(model, params, first)

    def unfinished(state: tuple[Any, ...]) -> jax.Array:
        step, _, _, done, _ = state
        return (step < max_new_tokens) & ~jnp.all(done)

    def advance(state: tuple[Any, ...]) -> tuple[Any, ...]:
        step, last, cache, done, answer = state
        state_now = DecodingState(cache, fixed)
        logits, cache = model.decode_step(params, state_now, inputs, last[:, None])
        chosen = choose_tokens(logits[:, 0], sampling, jax.random.fold_in(rng, step))
        finite = jnp.isfinite(jnp.max(logits[:, 0], axis=-1))  # The maximum of a NaN is NaN.
        chosen = jnp.where(done, model.padding, jnp.where(finite, chosen, NOT_FINITE))
        answer = jax.lax.dynamic_update_slice_in_dim(answer, chosen[:, None], step, axis=1)
        # No padding and no mark is looked up: a row that is done reads the token 0.
        return (
            step + 1,
            jnp.maximum(chosen, 0),
            cache,
            done | jnp.isin(chosen, jnp.array(ends)),
            answer,
        )

    state = (
        jnp.int32(0),
        model.first_tokens(inputs),
        cache,
        jnp.zeros(batch, bool),
        jnp.full((batch, max_new_tokens), model.padding, jnp.int32),
    )
    return jax.lax.while_loop(unfinished, advance, state)[-1]
