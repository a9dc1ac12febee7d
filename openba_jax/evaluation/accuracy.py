"""The accuracy of a model on a benchmark: the same path for openba-eval and the pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from absl import logging

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks.base import (
    TOTAL,
    Benchmark,
    FramedQuestion,
    Question,
    Subjects,
)
from openba_jax.evaluation.scoring import answer_log_likelihoods
from openba_jax.inference.padding import fitting_length, pad_rows
from openba_jax.inference.prompts import PromptFrame, UnusablePromptError
from openba_jax.models.base import Model, Params
from openba_jax.parallel.sharding import to_host


@dataclasses.dataclass(frozen=True)
class Score:
    """Right answers among all questions, and what guessing would give.

    A question that the model cannot be asked, being too long for instance, counts as answered
    wrongly: the denominator is the same for all models.

    Attributes:
      right: questions answered rightly.
      count: questions, those skipped included.
      chance: expected accuracy of a guess.
      skipped: questions that could not be asked.
    """

    right: int
    count: int
    chance: float
    skipped: int = 0

    @property
    def accuracy(self) -> float:
        """Share of right answers among all questions."""
        return self.right / self.count

    def __str__(self) -> str:
        """For a terminal."""
        if self.skipped == self.count:
            return f"none of {self.count} questions could be asked"
        skipped = f", {self.skipped} of them skipped and counted as wrong" if self.skipped else ""
        return f"{self.accuracy:.1%} of {self.count}{skipped}, chance {self.chance:.1%}"


def measure_accuracy(
    benchmark: Benchmark,
    subjects: Subjects,
    model: Model,
    params: Params,
    frame: PromptFrame,
    *,
    batch_size: int = 64,
) -> dict[str, Score]:
    """Asks all questions.

    A question that cannot be asked is named in a warning and counted as skipped.

    Args:
      benchmark: how to ask.
      subjects: the questions that it loaded.
      model: the model.
      params: its parameters.
      frame: makes ids; it has both lengths.
      batch_size: questions at once; what the mesh divides.

    Returns:
      The score of each subject, and under `TOTAL` that of all questions together.

    Raises:
      UserError: no question can be asked, or the score of an answer is not finite.
    """
    chosen = {name: [-1] * len(questions) for name, questions in subjects.items()}
    asked: list[tuple[str, int]] = []
    framed: list[FramedQuestion] = []
    for name, questions in subjects.items():
        for number, question in enumerate(questions):
            try:
                framed.append(benchmark.prompt(question, frame))
            except UnusablePromptError as error:
                logging.warning("%s It is skipped and counts as wrong.", error)
            else:
                asked.append((name, number))
    if not asked:
        count = sum(map(len, subjects.values()))
        raise UserError(
            f"none of the {count} questions of {benchmark.name} can be asked; see the warnings, "
            "and give larger TASK_FEATURE_LENGTHS if they are too long."
        )
    places = [subjects[name][number].place for name, number in asked]
    choices = choose_answers(benchmark, framed, places, model, params, frame, batch_size)
    for (name, number), choice in zip(asked, choices, strict=True):
        chosen[name][number] = choice
    scores = {name: _score(questions, chosen[name]) for name, questions in subjects.items()}
    every = [question for questions in subjects.values() for question in questions]
    scores[TOTAL] = _score(every, [choice for choices in chosen.values() for choice in choices])
    return scores


def choose_answers(
    benchmark: Benchmark,
    questions: Sequence[FramedQuestion],
    places: Sequence[str],
    model: Model,
    params: Params,
    frame: PromptFrame,
    batch_size: int = 64,
) -> list[int]:
    """The index of the best answer to each question.

    Args:
      benchmark: its metric decides.
      questions: framed.
      places: where the questions stand, for messages.
      model: the model.
      params: its parameters.
      frame: that of the questions, which tells what tokens count.
      batch_size: questions at once.

    Raises:
      UserError: the score of an answer is not finite.
    """
    width = max(len(answers) for _, answers in questions)
    every = [ids for _, answers in questions for ids in answers]
    encoder_length = fitting_length([ids for ids, _ in questions], frame.encoder_length)
    decoder_length = fitting_length(every, frame.decoder_length or max(map(len, every)))
    choices: list[int] = []
    for start in range(0, len(questions), batch_size):
        chunk = list(questions[start : start + batch_size])
        # The last batch is filled up, so that one shape is compiled.
        filled = chunk + [FramedQuestion([], [])] * (batch_size - len(chunk))
        inputs = pad_rows([ids for ids, _ in filled], encoder_length, model.padding)
        targets = [ids for _, answers in filled for ids in answers + [[]] * (width - len(answers))]
        rows = pad_rows(targets, decoder_length, model.padding)
        rows = rows.reshape(batch_size, width, decoder_length)
        unscored = (*frame.unscored_ids, model.padding)
        weights = np.isin(rows, unscored, invert=True).astype(np.float32)
        rows = np.maximum(rows, 0)
        sums = to_host(answer_log_likelihoods(model, params, inputs, rows, weights))
        scores = benchmark.metric(sums, weights.sum(-1).astype(np.int32))
        for row, place, (_, answers) in zip(scores, places[start:], chunk, strict=False):
            if not np.isfinite(row[: len(answers)]).all():
                raise UserError(
                    f"{place}: the score of an answer is not finite, and no figure would mean "
                    "anything; the compute type is too narrow for the parameters, or these are "
                    "damaged."
                )
            choices.append(int(row[: len(answers)].argmax()))
    return choices


def _score(questions: Sequence[Question], choices: Sequence[int]) -> Score:
    """The score of some questions; the choice of a skipped one is -1."""
    right = sum(q.answer == c for q, c in zip(questions, choices, strict=True))
    chance = float(np.mean([1 / len(question.options) for question in questions]))
    return Score(right, len(questions), chance, sum(c < 0 for c in choices))
