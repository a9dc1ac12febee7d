"""Answers that end at strings: generation in segments, each followed by a look at the text."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.inference.decoding import GREEDY, NOT_FINITE, Sampling, choose_tokens
from openba_jax.inference.padding import LENGTH_MULTIPLE, pad_rows
from openba_jax.inference.stop_strings import StopStrings
from openba_jax.models.base import DecodingState, Model, Params
from openba_jax.models.layers_apart import apart, together
from openba_jax.parallel.sharding import to_host

SEGMENT = 16
"""Tokens between two looks at the text."""


def answer_until(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop: StopStrings = StopStrings(),  # noqa: B008 - it cannot be changed.
    sampling: Sampling = GREEDY,
    seed: int = 0,
    batch_size: int = 16,
) -> Iterator[tuple[int, str]]:
    """Answers framed prompts, the longest first; a batch ends when all its answers have ended.

    Args:
      model: the model.
      params: its parameters.
      vocabulary: its vocabulary.
      prompts: ids, frame included.
      max_new_tokens: longest answer, sentinel and end of sequence included.
      stop: strings that end an answer besides the end of sequence, and are left out.
      sampling: how tokens are chosen; greedy by default.
      seed: for sampling.
      batch_size: prompts at once; what the mesh divides.

    Yields:
      The number of a prompt, and its answer without special tokens.

    Raises:
      UserError: the logits of an answer are not finite.
    """
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        answers = _answer_batch(
            model,
            params,
            vocabulary,
            {number: prompts[number] for number in numbers},
            max_new_tokens,
            stop,
            sampling,
            jax.random.fold_in(jax.random.key(seed), start),
            batch_size,
        )
        for number, ids in answers.items():
            yield number, stop.cut(vocabulary.decode(ids, skip_special_tokens=True))


def _answer_batch(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    prompts: Mapping[int, Sequence[int]],
    max_new_tokens: int,
    stop: StopStrings,
    sampling: Sampling,
    rng: jax.Array,
    batch_size: int,
) -> dict[int, list[int]]:
    """The ids of the answers, by number of the prompt; behind a stop string there may be more."""
    length = -(-max(1, *map(len, prompts.values())) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    rows = [*prompts.values(), *[[]] * (batch_size - len(prompts))]
    inputs = pad_rows(rows, length, model.padding)
    room = -(-max_new_tokens // SEGMENT) * SEGMENT
    cache, fixed, last = _start(model, params, inputs, room)
    answers: dict[int, list[int]] = {number: [] for number in prompts}
    done = np.arange(batch_size) >= len(prompts)  # Rows that fill up the batch.
    for step in range(0, max_new_tokens, SEGMENT):
        steps = np.array([step, min(step + SEGMENT, max_new_tokens)], np.int32)
        state = (inputs, rng, fixed, cache, last, done)
        cache, last, segment = _advance(
            model, params, *state, steps, sampling=sampling, stop_ids=vocabulary.stop_ids
        )
        for row, (number, ids) in enumerate(zip(answers, to_host(segment).tolist(), strict=False)):
            if NOT_FINITE in ids:
                raise UserError(
                    f"request {number + 1}: the logits are not finite, and no answer would mean "
                    "anything; the compute type is too narrow for the parameters, or these are "
                    "damaged."
                )
            new = [token for token in ids if token != model.padding]
            answers[number] += new
            if new and not done[row]:
                text = vocabulary.decode(answers[number], skip_special_tokens=True)
                done[row] = new[-1] in vocabulary.stop_ids or stop.find(text) is not None
        if done.all():
            break
    return answers


@functools.partial(jax.jit, static_argnums=(0, 3))
def _start(model: Model, params: Params, inputs: jax.Array, room: int) -> tuple[Any, Any, Any]:
    """Cache, what no step changes, and the first tokens int32 `[batch]`."""
    inputs = jnp.asarray(inputs)
    cache, fixed = model.start_decoding(params, inputs, room)
    return cache, fixed, model.first_tokens(inputs)


@functools.partial(
    jax.jit, static_argnums=0, static_argnames=("sampling", "stop_ids"), donate_argnums=5
)
def _advance(
    model: Model,
    params: Params,
    inputs: jax.Array,
    rng: jax.Array,
    fixed: Any,
    cache: Any,
    last: jax.Array,
    done: jax.Array,
    steps: jax.Array,
    *,
    sampling: Sampling,
    stop_ids: tuple[int, ...],
) -> tuple[Any, jax.Array, jax.Array]:
    """The tokens of some steps, from the first to before the last, as `decoding.generate` does it.

    Returns:
      The cache, the last tokens int32 `[batch]`, and the new ones int32 `[batch, SEGMENT]`.
    """
    inputs = jnp.asarray(inputs)
    start, end = steps
    given = model
    model, params, (cache, fixed) = apart(model, params, DecodingState(cache, fixed))
    ends = jnp.array((*stop_ids, NOT_FINITE))

    def unfinished(state: tuple[Any, ...]) -> jax.Array:
        step, _, _, done, _ = state
        return (step < end) & ~jnp.all(done)

    def advance(state: tuple[Any, ...]) -> tuple[Any, ...]:
        step, last, cache, done, ids = state
        decoding = DecodingState(cache, fixed)
        logits, cache = model.decode_step(params, decoding, inputs, last[:, None])
        chosen = choose_tokens(logits[:, 0], sampling, jax.random.fold_in(rng, step))
        finite = jnp.isfinite(jnp.max(logits[:, 0], axis=-1))  # The maximum of a NaN is NaN.
        chosen = jnp.where(done, model.padding, jnp.where(finite, chosen, NOT_FINITE))
        ids = jax.lax.dynamic_update_slice_in_dim(ids, chosen[:, None], step - start, axis=1)
        return step + 1, jnp.maximum(chosen, 0), cache, done | jnp.isin(chosen, ends), ids

    ids = jnp.full((inputs.shape[0], SEGMENT), model.padding, jnp.int32)
    state = (start, last, cache, done, ids)
    _, last, cache, _, ids = jax.lax.while_loop(unfinished, advance, state)
    return together(given, cache), last, ids
