"""Log-likelihoods of continuations of a context, and whether greedy decoding would give them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.errors import UserError
from openba_jax.inference.padding import LENGTH_MULTIPLE, pad_rows
from openba_jax.models.base import Model, Params
from openba_jax.nn.losses import (
    MAX_CHUNK_LOGITS,
    chunk_length,
    cross_entropy,
    join_length,
    split_length,
)
from openba_jax.parallel.sharding import to_host

MAX_ANSWERS = 8
"""Continuations of one context that are scored at once; more of them are divided."""


class Continuation(NamedTuple):
    """A continuation as a model reads it.

    Attributes:
      inputs: ids of the context, frame included.
      targets: ids of the continuation, frame included.
      scored: the part of `targets` that counts.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    scored: slice


class ContinuationScore(NamedTuple):
    """What a model thinks of a continuation.

    Attributes:
      log_likelihood: summed log p of the tokens that count, in nats.
      greedy: whether each of them is the likeliest one, given those before it.
    """

    log_likelihood: float
    greedy: bool


class _Group(NamedTuple):
    """Continuations of one context, by their numbers."""

    inputs: tuple[int, ...]
    members: list[int]


@functools.partial(jax.jit, static_argnums=0)
def continuation_scores(
    model: Model,
    params: Params,
    inputs: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Scores several continuations of each context, which is read once.

    Args:
      model: the model.
      params: its parameters.
      inputs: int32 `[batch, input_length]`, padded with `model.padding`.
      targets: int32 `[batch, answers, length]`, padded with any id.
      weights: float32 like `targets`: 1 where a token counts.

    Returns:
      Summed log p of the tokens that count, float32 `[batch, answers]`, in nats; and whether all of
      them are the likeliest ones, bool `[batch, answers]`.
    """
    batch, answers, length = targets.shape
    inputs = jnp.asarray(inputs)
    encoded = model.encode(params, inputs, room=length)
    rows = targets.reshape(batch * answers, length)
    first = jnp.repeat(model.first_tokens(inputs), answers)
    hidden = model.decode_hidden(
        params,
        model.repeat(encoded, answers),
        jnp.repeat(inputs, answers, axis=0),
        jnp.concatenate([first[:, None], rows[:, :-1]], axis=1),
    )
    head = model.head(params)

    def of_positions(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits = head.logits(part[0])
        return cross_entropy(logits, part[1]), jnp.argmax(logits, axis=-1) == part[1]

    chunk = chunk_length(batch * answers, head.kernel.shape[1], MAX_CHUNK_LOGITS)
    if chunk >= length:
        losses, hits = of_positions((hidden, rows))
    else:
        parts = jax.lax.map(of_positions, (split_length(hidden, chunk), split_length(rows, chunk)))
        losses, hits = (join_length(part, length) for part in parts)
    losses, hits = losses.reshape(weights.shape), hits.reshape(weights.shape)
    return -jnp.sum(losses * weights, axis=-1), jnp.all(hits | (weights == 0), axis=-1)


def score_continuations(
    model: Model,
    params: Params,
    continuations: Sequence[Continuation],
    batch_size: int,
    multiple: int = 1,
) -> Iterator[tuple[int, ContinuationScore]]:
    """Scores continuations, those of one context together and the longest first.

    Shapes are rounded up, so that few programs are compiled. Where memory does not suffice, the
    first batch says so.

    Args:
      model: the model.
      params: its parameters.
      continuations: what to score.
      batch_size: continuations at once.
      multiple: what the number of contexts in a batch is a multiple of, see `PlacedModel.rows`.

    Yields:
      The number of a continuation, and its score.

    Raises:
      UserError: a score is not finite.
    """
    for width, groups in _by_width(continuations):
        size = max(1, batch_size // width)
        size = -(-size // multiple) * multiple
        for start in range(0, len(groups), size):
            chunk = groups[start : start + size]
            sums, greedy = _score_groups(model, params, continuations, chunk, (size, width))
            for row, group in enumerate(chunk):
                for column, number in enumerate(group.members):
                    value = float(sums[row, column])
                    if not np.isfinite(value):
                        raise UserError(
                            f"request {number + 1}: the log-likelihood is not finite, and no "
                            "figure would mean anything; the compute type is too narrow for the "
                            "parameters, or these are damaged."
                        )
                    yield number, ContinuationScore(value, bool(greedy[row, column]))


def rounded_length(length: int) -> int:
    """A length of few: powers of two from 16 on, then multiples of `LENGTH_MULTIPLE`."""
    if length > LENGTH_MULTIPLE:
        return -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    return max(16, 1 << max(0, length - 1).bit_length())


def _by_width(continuations: Sequence[Continuation]) -> Iterator[tuple[int, list[_Group]]]:
    """Groups of continuations of one context, by how many there is room for."""
    members: dict[tuple[int, ...], list[int]] = {}
    for number, continuation in enumerate(continuations):
        members.setdefault(continuation.inputs, []).append(number)
    widths: dict[int, list[_Group]] = {}
    for inputs, numbers in members.items():
        for start in range(0, len(numbers), MAX_ANSWERS):
            part = numbers[start : start + MAX_ANSWERS]
            width = 1 << (len(part) - 1).bit_length()
            widths.setdefault(width, []).append(_Group(inputs, part))

    def size(group: _Group) -> tuple[int, int]:
        targets = max(len(continuations[number].targets) for number in group.members)
        return rounded_length(len(group.inputs)), targets

    for width in sorted(widths, reverse=True):
        yield width, sorted(widths[width], key=size, reverse=True)


def _score_groups(
    model: Model,
    params: Params,
    continuations: Sequence[Continuation],
    groups: Sequence[_Group],
    shape: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Sums and greedy marks `[size, width]`; what there is no continuation for is padding."""
    size, width = shape
    rows: list[tuple[int, ...]] = [()] * (size * width)
    scored = [slice(0, 0)] * (size * width)
    for row, group in enumerate(groups):
        for column, number in enumerate(group.members):
            rows[row * width + column] = continuations[number].targets
            scored[row * width + column] = continuations[number].scored
    contexts = [list(group.inputs) for group in groups] + [[]] * (size - len(groups))
    inputs = pad_rows(contexts, rounded_length(max(map(len, contexts))), model.padding)
    targets = pad_rows(rows, rounded_length(max(map(len, rows))))
    weights = np.zeros(targets.shape, np.float32)
    for weight, part in zip(weights, scored, strict=True):
        weight[part] = 1
    grouped = (size, width, targets.shape[1])
    sums, greedy = continuation_scores(
        model, params, inputs, targets.reshape(grouped), weights.reshape(grouped)
    )
    return to_host(sums), to_host(greedy)
