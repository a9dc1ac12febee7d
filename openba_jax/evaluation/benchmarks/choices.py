"""Multiple-choice questions: a model scores the options, and the one with the highest is its."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from absl import logging

from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks.base import (
    Advance,
    Benchmark,
    Record,
    Subjects,
    ignore_progress,
)
from openba_jax.evaluation.choosing import FramedLetters, FramedQuestion, score_questions
from openba_jax.evaluation.question import Question
from openba_jax.evaluation.score import Score
from openba_jax.inference.prompts import PromptFrame, UnusablePromptError

__all__ = ["Choices", "FramedQuestion", "Question", "mean_log_likelihood"]


Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(log-likelihoods float `[options]`, scored tokens int `[options]`) -> the scores of the options,
float `[options]`; the option with the highest is chosen."""


def mean_log_likelihood(sums: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The `Metric` that makes the option of the lowest perplexity the best."""
    return sums / np.maximum(tokens, 1)


class ChoiceBenchmark(Benchmark):
    """What benchmarks of choices share."""

    unit: ClassVar[str] = "accuracy"

    @abc.abstractmethod
    def framed(
        self, question: Question, asked: AskedModel, record: Record
    ) -> FramedQuestion | FramedLetters:
        """The question as ids.

        Args:
          question: the question.
          asked: the model.
          record: of the question; what the model reads may be noted there.

        Raises:
          UnusablePromptError: the model cannot be asked the question; it counts as skipped.
        """

    @abc.abstractmethod
    def scores(self, sums: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The scores of the options of a question, see `Metric`."""

    @property
    def normalizes(self) -> bool:
        """Whether sums by characters are compared, too, as lm-evaluation-harness does."""
        return False

    def answers(
        self, items: Sequence[Question], asked: AskedModel, advance: Advance = ignore_progress
    ) -> list[Record]:
        """Asks questions, see `Benchmark.answers`; one that is skipped is named in a warning."""
        records = [_record(question) for question in items]
        framed: dict[int, FramedQuestion | FramedLetters] = {}
        for number, question in enumerate(items):
            try:
                framed[number] = self.framed(question, asked, records[number])
            except UnusablePromptError as error:
                logging.warning("%s It is skipped and counts as wrong.", error)
                records[number]["skipped"] = str(error)
        advance(len(items) - len(framed))
        places = [items[number].place for number in framed]
        found = score_questions(list(framed.values()), places, asked, advance)
        for number, (sums, tokens) in zip(framed, found, strict=True):
            scores = self.scores(sums, tokens)
            records[number].update(scores=scores.tolist(), choice=int(scores.argmax()))
            if self.normalizes:
                # The harness counts the characters of an option; one of none has no likelihood.
                characters = np.array([len(option) for option in items[number].options])
                records[number]["choice_by_length"] = int((sums / characters).argmax())
        return records

    def result(self, records: Sequence[Record]) -> Score:
        """Right answers among all questions."""
        return Score.of(records)


@dataclasses.dataclass(frozen=True)
class Choices(ChoiceBenchmark):
    """A way to ask.

    Attributes:
      name: in the registry.
      loader: reads the questions of a folder. It raises a `UserError` that names the file where
        there is none, or where one is malformed.
      prompt: frames a question. It raises an `UnusablePromptError` where the model cannot be asked
        the question; this is then counted as skipped.
      metric: scores the options.
    """

    name: str
    loader: Callable[[Path], Subjects]
    prompt: Callable[[Question, PromptFrame], FramedQuestion]
    metric: Metric

    def load(self, source: Path) -> Subjects:
        """Reads the questions, see `Benchmark.load`."""
        return self.loader(source)

    def framed(self, question: Question, asked: AskedModel, record: Record) -> FramedQuestion:
        """The question as ids."""
        return self.prompt(question, asked.frame)

    def scores(self, sums: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The scores of the options."""
        return self.metric(sums, tokens)


def _record(question: Question) -> Record:
    """What is known before a question is asked."""
    return {
        "place": question.place,
        "subject": question.subject,
        "question": question.text,
        "options": list(question.options),
        "gold": question.answer,
        "choice": None,
        "scores": None,
        "skipped": None,
    }
