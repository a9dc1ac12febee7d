"""Scores of the options of framed questions: sorted by length, in batches of few shapes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from openba_jax.errors import UserError
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.scoring import (
    answer_log_likelihoods,
    next_token_log_likelihoods,
    read_prefix,
)
from openba_jax.inference.padding import pad_rows
from openba_jax.inference.prompts import PromptFrame
from openba_jax.parallel.sharding import to_host

SHORTEST = 32
"""Prompts and answers are padded to at least so many tokens, the latter to a quarter of it."""


@dataclasses.dataclass(frozen=True)
class FramedQuestion:
    """A question whose options are scored as answers.

    Attributes:
      prompt: ids that the model reads.
      answers: ids of the answers to choose from.
      start: so many tokens of every answer are not scored.
      unscored: ids that are not scored; empty: those of the frame.
    """

    prompt: list[int]
    answers: list[list[int]]
    start: int = 0
    unscored: tuple[int, ...] = ()

    def weights(self, frame: PromptFrame) -> list[np.ndarray]:
        """For every answer 1 where a token counts, float32 `[tokens]`."""
        unscored = self.unscored or frame.unscored_ids
        rows = [np.isin(ids, unscored, invert=True).astype(np.float32) for ids in self.answers]
        for row in rows:
            row[: self.start] = 0
        return rows


@dataclasses.dataclass(frozen=True)
class FramedLetters:
    """A question whose options are scored as letters, at one position.

    Attributes:
      prompt: ids that the model reads.
      prefix: ids in front of the letter; they are the same for all questions of a benchmark.
      letters: ids of the letters.
    """

    prompt: list[int]
    prefix: list[int]
    letters: list[int]


Scored = tuple[np.ndarray, np.ndarray]
"""Log-likelihoods float32 `[options]`, in nats, and how many tokens they are sums of."""


def bucket(length: int, least: int, limit: int) -> int:
    """A length for padding: `least` times a power of two or half as much again, within `limit`.

    So a limit of 1,024 has eleven lengths, and a row is at most half padding above `least`.
    """
    size = least
    for size in itertools.accumulate(itertools.count(), _next_size, initial=least):
        if size >= length:
            break
    return max(min(size, limit), length)


def _next_size(size: int, number: int) -> int:
    """From a power of two to half as much again, from there to the next power."""
    return size * 3 // 2 if number % 2 == 0 else size * 4 // 3


def score_questions(
    questions: Sequence[FramedQuestion | FramedLetters],
    places: Sequence[str],
    asked: AskedModel,
    advance: Callable[[int], object],
) -> list[Scored]:
    """Scores the options of each question.

    The longest questions come first, so that memory that does not suffice is known soon.

    Args:
      questions: framed, all in the same way.
      places: where they stand, for messages.
      asked: the model.
      advance: is told of questions that are done.

    Returns:
      In the order of the questions.

    Raises:
      UserError: a score is not finite.
    """
    order = sorted(range(len(questions)), key=lambda n: _size(questions[n], asked), reverse=True)
    found: dict[int, Scored] = {}
    read = _Reader(asked)
    for start in range(0, len(order), asked.batch_size):
        numbers = order[start : start + asked.batch_size]
        chunk = [questions[number] for number in numbers]
        for number, scored in zip(numbers, _score_batch(chunk, asked, read), strict=True):
            if not np.isfinite(scored[0]).all():
                raise UserError(
                    f"{places[number]}: the score of an answer is not finite, and no figure would "
                    "mean anything; the compute type is too narrow for the parameters, or these "
                    "are damaged."
                )
            found[number] = scored
        advance(len(chunk))
    return [found[number] for number in range(len(questions))]


def _size(question: FramedQuestion | FramedLetters, asked: AskedModel) -> tuple[int, int, int]:
    """What questions are sorted by: the padded length of the prompt, then the longest answer."""
    answers = question.answers if isinstance(question, FramedQuestion) else []
    length = len(question.prompt)
    return bucket(length, SHORTEST, asked.encoder_length), max(map(len, answers), default=0), length


def _score_batch(
    chunk: Sequence[FramedQuestion | FramedLetters], asked: AskedModel, read: _Reader
) -> list[Scored]:
    if isinstance(chunk[0], FramedLetters):
        letters = [each for each in chunk if isinstance(each, FramedLetters)]
        return _score_letters(letters, asked, read)
    answers = [each for each in chunk if isinstance(each, FramedQuestion)]
    return _score_answers(answers, asked, read)


@dataclasses.dataclass(frozen=True)
class _Prompts:
    """The prompts of a batch.

    Attributes:
      inputs: int32 `[batch_size, length]`; rows of padding fill the batch up.
      prefix: what was read of the tokens in front of all of them; None where there are none.
    """

    inputs: np.ndarray
    prefix: Any


class _Reader:
    """Makes inputs of prompts; the demonstrations that all begin with are read once."""

    def __init__(self, asked: AskedModel) -> None:
        self._asked = asked
        self._key: tuple[bytes, int] | None = None
        self._prefix: Any = None

    def __call__(self, prompts: Sequence[list[int]], room: int) -> _Prompts:
        """Prompts that `room` tokens of answers may follow."""
        asked = self._asked
        shared = _shared_length(prompts) if asked.model.reads_on else 0
        rest = [prompt[shared:] for prompt in prompts]
        length = bucket(max(map(len, rest)), SHORTEST, asked.encoder_length)
        filled = [*rest, *[[]] * (asked.batch_size - len(rest))]
        inputs = pad_rows(filled, length, asked.model.padding)
        if not shared:
            return _Prompts(inputs, None)
        begin = np.array([prompts[0][:shared]], np.int32)
        key = begin.tobytes(), length + room
        if key != self._key:
            self._prefix = read_prefix(asked.model, asked.params, begin, length + room)
            self._key = key
        return _Prompts(inputs, self._prefix)


def _shared_length(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, rounded down to a length of `bucket`; 0 if few.

    Something remains of each prompt.
    """
    first, last = min(prompts), max(prompts)  # In the order of ids; all others lie between.
    same = next(
        (n for n, pair in enumerate(zip(first, last, strict=False)) if len(set(pair)) > 1),
        min(len(first), len(last)),
    )
    same = min(same, min(map(len, prompts)) - 1)
    if same < SHORTEST:
        return 0
    sizes = itertools.accumulate(itertools.count(), _next_size, initial=SHORTEST)
    return max(itertools.takewhile(lambda size: size <= same, sizes))


def _score_answers(
    chunk: Sequence[FramedQuestion], asked: AskedModel, read: _Reader
) -> list[Scored]:
    size = asked.batch_size
    width = max(len(question.answers) for question in chunk)
    longest = max(len(ids) for question in chunk for ids in question.answers)
    length = bucket(longest, SHORTEST // 4, asked.decoder_length)
    targets = np.zeros((size, width, length), np.int32)
    weights = np.zeros((size, width, length), np.float32)
    for row, question in enumerate(chunk):
        marks = question.weights(asked.frame)
        for column, (ids, mark) in enumerate(zip(question.answers, marks, strict=True)):
            targets[row, column, : len(ids)] = ids
            weights[row, column, : len(ids)] = mark
    prompts = read([question.prompt for question in chunk], length)
    sums = to_host(
        answer_log_likelihoods(
            asked.model, asked.params, prompts.inputs, targets, weights, prompts.prefix
        )
    )
    tokens = weights.sum(-1).astype(np.int32)
    counts = [len(question.answers) for question in chunk]
    return [
        (row[:count], number[:count])
        for row, number, count in zip(sums, tokens, counts, strict=False)
    ]


def _score_letters(
    chunk: Sequence[FramedLetters], asked: AskedModel, read: _Reader
) -> list[Scored]:
    width = max(len(question.letters) for question in chunk)
    letters = np.zeros((asked.batch_size, width), np.int32)
    for row, question in enumerate(chunk):
        letters[row, : len(question.letters)] = question.letters
    begin = np.array(chunk[0].prefix, np.int32)
    prompts = read([question.prompt for question in chunk], len(begin) + 1)
    found = to_host(
        next_token_log_likelihoods(
            asked.model, asked.params, prompts.inputs, begin, letters, prompts.prefix
        )
    )
    counts = [len(question.letters) for question in chunk]
    return [
        (row[:count], np.ones(count, np.int32)) for row, count in zip(found, counts, strict=False)
    ]
