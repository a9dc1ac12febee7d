"""T5X decoding functions (`DecodeFnCallable`) that take the native runner's decisions.

T5X's own `temperature_sample` and `beam_search` work with this network, too. These here give what
`openba_jax.infer` gives: the same random numbers per step, and the beam search of transformers,
which ranks by another length penalty than T5X.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from t5x import decoding

from openba_jax.errors import UserError
from openba_jax.inference import beam_search as native_beams
from openba_jax.inference.decoding import PAD_ID, Sampling, choose_tokens
from openba_jax.models.base import BeamRules

Cache = Mapping[str, Any]
TokensToLogits = Callable[[decoding.DecodingState], tuple[jax.Array, Cache]]


def sample(
    *,
    inputs: jax.Array,
    cache: Cache,
    tokens_to_logits: TokensToLogits,
    eos_id: int,
    num_decodes: int = 1,
    decode_rng: jax.Array | None = None,
    cache_offset: int = 0,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Greedy decoding or sampling, as `openba_jax.inference.decoding.generate`.

    Args:
      inputs: int32 `[batch, length]`; only its shape is read, prompts belong into the encoder.
      cache: as T5X makes it.
      tokens_to_logits: one step of the model.
      eos_id: ends a row.
      num_decodes: must be 1.
      decode_rng: a key; T5X passes one for each batch.
      cache_offset: not needed.
      temperature: 0 is greedy.
      top_k: sample from so many tokens; 0 for all.
      top_p: sample from tokens of this probability together.
      seed: folded into `decode_rng`, since T5X's binaries give every run the same.

    Returns:
      int32 `[batch, 1, length]`, padded with 0 after eos; float32 `[batch, 1]`, summed log p.

    Raises:
      UserError: `num_decodes` is not 1.
    """
    del cache_offset
    if num_decodes != 1:
        raise UserError(
            f"num_decodes is {num_decodes}, and sampling gives one answer; for beams give "
            "DECODE_FN=@openba_decoding.beam_search, for several samples "
            "@t5x_decoding.temperature_sample."
        )
    sampling = Sampling(temperature, top_k, top_p)
    rng = jax.random.PRNGKey(0) if decode_rng is None else decode_rng
    if seed is not None:
        rng = jax.random.fold_in(rng, seed)
    batch, length = inputs.shape

    def unfinished(state: tuple[Any, ...]) -> jax.Array:
        step, _, _, done, _, _ = state
        return (step < length) & ~jnp.all(done)

    def advance(state: tuple[Any, ...]) -> tuple[Any, ...]:
        step, last, cache, done, answer, scores = state
        logits, cache = tokens_to_logits(_state(step, answer, last, cache))
        chosen = choose_tokens(logits, sampling, jax.random.fold_in(rng, step))
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), chosen[:, None], 1)[:, 0]
        scores = scores + jnp.where(done, 0.0, log_p)
        chosen = jnp.where(done, PAD_ID, chosen)
        answer = jax.lax.dynamic_update_slice_in_dim(answer, chosen[:, None], step, axis=1)
        return step + 1, chosen, cache, done | (chosen == eos_id), answer, scores

    first = (
        jnp.int32(0),
        jnp.zeros(batch, jnp.int32),
        cache,
        jnp.zeros(batch, bool),
        jnp.full((batch, length), PAD_ID, jnp.int32),
        jnp.zeros(batch, jnp.float32),
    )
    *_, answer, scores = jax.lax.while_loop(unfinished, advance, first)
    return answer[:, None], scores[:, None]


def beam_search(
    *,
    inputs: jax.Array,
    cache: Cache,
    tokens_to_logits: TokensToLogits,
    eos_id: int,
    num_decodes: int = 4,
    decode_rng: jax.Array | None = None,
    cache_offset: int = 0,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
    rules: BeamRules = "transformers_4",
) -> tuple[jax.Array, jax.Array]:
    """Beam search, as `openba_jax.inference.beam_search.generate_beams`.

    Args:
      inputs: int32 `[batch, length]`; only its shape is read.
      cache: as T5X makes it, for `batch` rows.
      tokens_to_logits: one step of the model, on `batch * num_decodes` rows.
      eos_id: ends an answer.
      num_decodes: number of beams, and of results.
      decode_rng: not needed.
      cache_offset: axis of the rows in the cache.
      length_penalty: exponent of the length; larger favours longer answers.
      early_stopping: see `openba_jax.inference.beam_search.beam_search`.
      rules: see there; OpenBA's, unless given.

    Returns:
      int32 `[batch, num_decodes, length]` and float32 `[batch, num_decodes]`, the best last, as
      T5X wants them.
    """
    del decode_rng
    batch, length = inputs.shape
    rows = jnp.repeat(jnp.arange(batch), num_decodes)

    def step(cache: Cache, last: jax.Array) -> tuple[jax.Array, Cache]:
        return tokens_to_logits(_state(jnp.int32(0), last[:, None], last, cache))

    beams = native_beams.beam_search(
        step,
        lambda cache, parents: _take_rows(cache, parents, cache_offset),
        _take_rows(cache, rows, cache_offset),
        jnp.zeros(batch, jnp.int32),
        beams=num_decodes,
        max_new_tokens=length,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        stop_ids=(eos_id,),
        rules=rules,
    )
    return jnp.flip(beams.sequences[:, :, 1:], axis=1), jnp.flip(beams.scores, axis=1)


def _state(
    step: jax.Array, sequences: jax.Array, last: jax.Array, cache: Cache
) -> decoding.DecodingState:
    index = jnp.full(last.shape, step)
    return decoding.DecodingState(index, sequences, last[:, None], cache)


def _take_rows(cache: Cache, rows: jax.Array, axis: int) -> Cache:
    """Rows of every leaf of a cache; the index has none while all rows are equally long."""
    flat = traverse_util.flatten_dict(cache)
    for path, leaf in flat.items():
        if path[-1] != "cache_index":
            flat[path] = jnp.take(leaf, rows, axis=axis)
    return traverse_util.unflatten_dict(flat)
