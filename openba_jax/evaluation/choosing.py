"""Scores of the options of framed questions: sorted by length, in batches of few shapes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from openba_jax.errors import UserError
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.scoring import answer_log_likelihoods, next_token_log_likelihoods
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
    order = sorted(range(len(questions)), key=lambda n: -len(questions[n].prompt))
    found: dict[int, Scored] = {}
    for start in range(0, len(order), asked.batch_size):
        numbers = order[start : start + asked.batch_size]
        chunk = [questions[number] for number in numbers]
        for number, scored in zip(numbers, _score_batch(chunk, asked), strict=True):
            if not np.isfinite(scored[0]).all():
                raise UserError(
                    f"{places[number]}: the score of an answer is not finite, and no figure would "
                    "mean anything; the compute type is too narrow for the parameters, or these "
                    "are damaged."
                )
            found[number] = scored
        advance(len(chunk))
    return [found[number] for number in range(len(questions))]


def _score_batch(
    chunk: Sequence[FramedQuestion | FramedLetters], asked: AskedModel
) -> list[Scored]:
    if isinstance(chunk[0], FramedLetters):
        return _score_letters([each for each in chunk if isinstance(each, FramedLetters)], asked)
    return _score_answers([each for each in chunk if isinstance(each, FramedQuestion)], asked)


def _inputs(prompts: Sequence[Sequence[int]], asked: AskedModel) -> np.ndarray:
    """Prompts as int32 `[batch_size, length]`; rows of padding fill the batch up."""
    length = bucket(max(map(len, prompts)), SHORTEST, asked.encoder_length)
    filled = [*prompts, *[[]] * (asked.batch_size - len(prompts))]
    return pad_rows(filled, length, asked.model.padding)


def _score_answers(chunk: Sequence[FramedQuestion], asked: AskedModel) -> list[Scored]:
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
    inputs = _inputs([question.prompt for question in chunk], asked)
    sums = to_host(answer_log_likelihoods(asked.model, asked.params, inputs, targets, weights))
    tokens = weights.sum(-1).astype(np.int32)
    counts = [len(question.answers) for question in chunk]
    return [
        (row[:count], number[:count])
        for row, number, count in zip(sums, tokens, counts, strict=False)
    ]


def _score_letters(chunk: Sequence[FramedLetters], asked: AskedModel) -> list[Scored]:
    inputs = _inputs([question.prompt for question in chunk], asked)
    width = max(len(question.letters) for question in chunk)
    letters = np.zeros((asked.batch_size, width), np.int32)
    for row, question in enumerate(chunk):
        letters[row, : len(question.letters)] = question.letters
    prefix = np.array(chunk[0].prefix, np.int32)
    found = to_host(next_token_log_likelihoods(asked.model, asked.params, inputs, prefix, letters))
    counts = [len(question.letters) for question in chunk]
    return [
        (row[:count], np.ones(count, np.int32)) for row, count in zip(found, counts, strict=False)
    ]
