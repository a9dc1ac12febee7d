"""Beam search, with the rules of transformers, inside `jit`.

A finished hypothesis is scored by its summed log-probability, that of eos included, divided by
`length ** length_penalty`, where the length counts the tokens of the answer, the last included.
What is not finished is treated differently by transformers 4.31, with which OpenBA was published,
and 5: in 4.31 its length counts the token in front of the answer, too; whether a running beam could
still be better is judged by the best candidate, one that has just ended included; and of the last
step, candidates that take the place of ended ones are results, too. A model says whose rules are
its own (`Model.beam_rules`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from openba_jax.errors import UserError
from openba_jax.inference.decoding import EOS_ID, PAD_ID
from openba_jax.models.base import BeamRules, DecodingState, Model, Params
from openba_jax.models.layers_apart import apart

_NEVER = -1e9
"""Score of the beams that do not exist yet at the first step."""


@dataclasses.dataclass(frozen=True)
class BeamSettings:
    """How beams are searched; see `beam_search`.

    Attributes:
      beams: number of beams.
      length_penalty: exponent of the length by which scores are divided.
      early_stopping: stop at the first `beams` finished answers.
    """

    beams: int
    length_penalty: float = 1.0
    early_stopping: bool = False

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
          UserError: a value is out of its range.
        """
        if self.beams < 1:
            raise UserError(f"BEAMS is {self.beams}; it must be at least 1.")
        if not math.isfinite(self.length_penalty):
            raise UserError(f"LENGTH_PENALTY is {self.length_penalty}; it must be a finite number.")


Step = Callable[[Any, jax.Array], tuple[jax.Array, Any]]
Gather = Callable[[Any, jax.Array], Any]


class Beams(NamedTuple):
    """The result of a search, best first.

    Attributes:
      sequences: int32 `[batch, beams, 1 + max_new_tokens]`: the token in front of the answer, the
        answer, padding.
      scores: float32 `[batch, beams]`.
    """

    sequences: jax.Array
    scores: jax.Array


class _State(NamedTuple):
    length: jax.Array  # ids in each running beam
    sequences: jax.Array  # [batch, beams, longest]
    sums: jax.Array  # [batch, beams]
    leading: jax.Array  # [batch, beams]: was among the best candidates, ended ones included
    cache: Any
    finished: Beams  # scores -inf where there is none yet
    done: jax.Array  # [batch]


def beam_search(
    step: Step,
    gather: Gather,
    cache: Any,
    first_tokens: jax.Array,
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
    stop_ids: tuple[int, ...] = (EOS_ID,),
    padding: int = PAD_ID,
    rules: BeamRules = "transformers_4",
) -> Beams:
    """Searches with any model that decodes token by token.

    Args:
      step: maps a cache and int32 `[batch * beams]`, the last tokens, to float logits
        `[batch * beams, vocab]` of the next and the cache after them.
      gather: reorders the rows of a cache by int32 `[batch * beams]`; a row only ever takes the
        place of another of its example.
      cache: the first cache, each example repeated `beams` times.
      first_tokens: int32 `[batch]`, what stands in front of the answers.
      beams: number of beams, and of results.
      max_new_tokens: longest answer.
      length_penalty: exponent of the length; larger favours longer answers.
      early_stopping: an example is done as soon as it has `beams` finished hypotheses, rather than
        when no running beam can be better.
      stop_ids: tokens that end an answer, and are part of it.
      padding: stands behind answers.
      rules: how unfinished answers are treated, see above.

    Returns:
      The best `beams` hypotheses of each example.
    """
    longest, batch = 1 + max_new_tokens, first_tokens.shape[0]
    old_rules = rules == "transformers_4"
    start = int(old_rules)  # How much the token in front of an unfinished answer counts.

    def normalised(sums: jax.Array, length: jax.Array) -> jax.Array:
        return sums / length.astype(jnp.float32) ** length_penalty

    def unfinished(state: _State) -> jax.Array:
        return (state.length < longest) & ~jnp.all(state.done)

    def advance(state: _State) -> _State:
        last = jax.lax.dynamic_index_in_dim(state.sequences, state.length - 1, 2, keepdims=False)
        logits, cache = step(state.cache, last.reshape(-1))
        vocab = logits.shape[-1]
        gains = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(batch, beams, vocab)
        sums = (state.sums[..., None] + gains).reshape(batch, beams * vocab)
        # Twice as many candidates as beams: were all beams to end, there are beams to go on with.
        # Slices of the result, merged into it, would make XLA sort the whole vocabulary instead.
        sums, places = jax.lax.optimization_barrier(jax.lax.top_k(sums, 2 * beams))
        parents, tokens = places // vocab, places % vocab
        is_end = jnp.isin(tokens, jnp.array(stop_ids))

        # An end is accepted only from a candidate that would have been one of the beams.
        ends = is_end[:, :beams] & ~state.done[:, None]
        ended = Beams(
            _extended(state, parents[:, :beams], tokens[:, :beams]),
            jnp.where(ends, normalised(sums[:, :beams], state.length), -jnp.inf),
        )
        finished = _best(state.finished, ended)

        order = jnp.argsort(is_end, axis=1, stable=True)[:, :beams]
        parents, tokens = _take_beams(parents, order), _take_beams(tokens, order)
        sequences = _extended(state, parents, tokens)
        rows = jnp.arange(batch)[:, None] * beams + parents

        running = _take_beams(sums, order)
        worst = finished.scores[:, -1]
        best = sums[:, 0] if old_rules else running[:, 0]
        attainable = normalised(best, state.length + start)
        enough = jnp.isfinite(worst)
        done = enough if early_stopping else enough & (worst >= attainable)
        return _State(
            state.length + 1,
            sequences,
            running,
            order < beams,
            gather(cache, rows.reshape(-1)),
            finished,
            state.done | done,
        )

    sequences = jnp.full((batch, beams, longest), padding, jnp.int32)
    sequences = sequences.at[:, :, 0].set(first_tokens[:, None])
    none = jnp.full((batch, beams), -jnp.inf, jnp.float32)
    first = _State(
        jnp.int32(1),
        sequences,
        jnp.full((batch, beams), _NEVER, jnp.float32).at[:, 0].set(0.0),
        jnp.ones((batch, beams), bool),
        cache,
        Beams(sequences, none),
        jnp.zeros(batch, bool),
    )
    state = jax.lax.while_loop(unfinished, advance, first)
    running = normalised(state.sums, state.length - 1 + start)
    results = ~state.done[:, None] & (state.leading | old_rules)
    running = jnp.where(results, running, -jnp.inf)
    return _best(state.finished, Beams(state.sequences, running))


@functools.partial(
    jax.jit,
    static_argnames=(
        *("model", "beams", "max_new_tokens", "length_penalty", "early_stopping"),
        "stop_ids",
    ),
)
def generate_beams(
    model: Model,
    params: Params,
    inputs: jax.Array,
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
    stop_ids: tuple[int, ...] = (EOS_ID,),
) -> Beams:
    """Beam search with a model and its cache, by the rules of `model.beam_rules`.

    Args:
      model: the model.
      params: its parameters.
      inputs: int32 `[batch, length]`, padded with `model.padding`.
      beams: number of beams, and of results.
      max_new_tokens: longest answer.
      length_penalty: see `beam_search`.
      early_stopping: see `beam_search`.
      stop_ids: see `beam_search`.

    Returns:
      The best `beams` answers to each row.
    """
    inputs = jnp.asarray(inputs)
    first = model.start_decoding(params, inputs, max_new_tokens)
    model, params, (cache, fixed) = apart(model, params, first)

    def step(cache: Any, last: jax.Array) -> tuple[jax.Array, Any]:
        state = DecodingState(cache, fixed)
        logits, cache = model.decode_step(params, state, inputs, last[:, None])
        return logits[:, 0], cache

    return beam_search(
        step,
        model.take_rows,
        model.take_rows(cache, jnp.repeat(jnp.arange(len(inputs)), beams)),
        model.first_tokens(inputs),
        beams=beams,
        max_new_tokens=max_new_tokens,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        stop_ids=stop_ids,
        padding=model.padding,
        rules=model.beam_rules,
    )


def _extended(state: _State, parents: jax.Array, tokens: jax.Array) -> jax.Array:
    """Sequences of some running beams, int32 `[batch, m]`, each with one token more."""
    return _take_beams(state.sequences, parents).at[:, :, state.length].set(tokens)


def _take_beams(values: jax.Array, beams: jax.Array) -> jax.Array:
    """`values` `[batch, n, ...]` at int32 `[batch, m]`."""
    return jnp.take_along_axis(values, beams.reshape(*beams.shape, *[1] * (values.ndim - 2)), 1)


def _best(older: Beams, newer: Beams) -> Beams:
    """The best of two sets, as many as the first has; at a tie the older one stays."""
    scores = jnp.concatenate([older.scores, newer.scores], axis=1)
    scores, places = jax.lax.top_k(scores, older.scores.shape[1])
    sequences = jnp.concatenate([older.sequences, newer.sequences], axis=1)
    return Beams(_take_beams(sequences, places), scores)
