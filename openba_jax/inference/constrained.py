"""Greedy decoding in which only some tokens may follow, as an automaton says."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.errors import UserError
from openba_jax.inference.padding import LENGTH_MULTIPLE, pad_rows
from openba_jax.models.base import DecodingState, Model, Params
from openba_jax.parallel.sharding import to_host

_CHOICES = 16
"""Tokens that may follow are padded to a power of two from here on, so that few shapes are
compiled."""


class Automaton(Protocol):
    """What may follow, of one answer."""

    def allowed(self) -> Sequence[int]:
        """The tokens that may follow; none where the answer is whole."""

    def read(self, token: int) -> None:
        """Goes on with one of them."""


def answer_constrained(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    automata: Sequence[Automaton],
    *,
    max_new_tokens: int,
    batch_size: int = 16,
) -> Iterator[tuple[int, list[int]]]:
    """Answers framed prompts with the likeliest of the tokens that may follow, step by step.

    Args:
      model: the model.
      params: its parameters.
      prompts: ids, frame included.
      automata: one for each prompt; they are used up.
      max_new_tokens: longest answer.
      batch_size: prompts at once; what the mesh divides.

    Yields:
      The number of a prompt, and the ids of its answer.

    Raises:
      UserError: logits are not finite.
    """
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        rows = [prompts[number] for number in numbers]
        length = -(-max(1, *map(len, rows)) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        inputs = pad_rows(rows + [[]] * (batch_size - len(rows)), length, model.padding)
        answers: list[list[int]] = [[] for _ in rows]
        cache, fixed, last = _start(model, params, inputs, max_new_tokens)
        for _ in range(max_new_tokens):
            choices = [automata[number].allowed() for number in numbers]
            if not any(choices):
                break
            width = 1 << (max(_CHOICES, *map(len, choices)) - 1).bit_length()
            allowed = np.zeros((batch_size, width), np.int32)
            for row, tokens in enumerate(choices):
                if tokens:  # Padded with one of them, which changes no maximum.
                    allowed[row] = tokens[0]
                    allowed[row, : len(tokens)] = tokens
            cache, last, finite = _step(model, params, inputs, fixed, cache, last, allowed)
            chosen, is_finite = to_host(last).tolist(), to_host(finite)
            for row, (number, tokens) in enumerate(zip(numbers, choices, strict=True)):
                if not tokens:
                    continue
                if not is_finite[row]:
                    raise UserError(
                        f"request {number + 1}: the logits are not finite, and no answer would "
                        "mean anything; the compute type is too narrow for the parameters, or "
                        "these are damaged."
                    )
                answers[row].append(chosen[row])
                automata[number].read(chosen[row])
        yield from zip(numbers, answers, strict=True)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _start(model: Model, params: Params, inputs: jax.Array, room: int) -> tuple[Any, Any, Any]:
    """Cache, what no step changes, and the first tokens int32 `[batch]`."""
    inputs = jnp.asarray(inputs)
    cache, fixed = model.start_decoding(params, inputs, room)
    return cache, fixed, model.first_tokens(inputs)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=4)
def _step(
    model: Model,
    params: Params,
    inputs: jax.Array,
    fixed: Any,
    cache: Any,
    last: jax.Array,
    allowed: jax.Array,
) -> tuple[Any, jax.Array, jax.Array]:
    """The cache, the chosen tokens int32 `[batch]`, and whether logits are finite, bool `[batch]`.

    `allowed` is int32 `[batch, n]`.
    """
    decoding = DecodingState(cache, fixed)
    logits, cache = model.decode_step(params, decoding, jnp.asarray(inputs), last[:, None])
    scores = jnp.take_along_axis(logits[:, 0], allowed, axis=1)
    best = jnp.argmax(scores, axis=1)
    chosen = jnp.take_along_axis(allowed, best[:, None], axis=1)[:, 0]
    return cache, chosen, jnp.isfinite(jnp.max(logits[:, 0], axis=-1))
