"""Multiple-choice questions: a model scores the options, and the one with the highest is its."""

from __future__ import annotations

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
from openba_jax.evaluation.choosing import FramedQuestion, score_options
from openba_jax.evaluation.score import Score
from openba_jax.inference.prompts import PromptFrame, UnusablePromptError

__all__ = ["Choices", "FramedQuestion", "Question", "mean_log_likelihood"]


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
      text: the question.
      options: the answers to choose from.
      answer: index of the right one.
      place: where it stands, for messages.
      demos: answered questions that may be shown before it.
      subject: what it is about, as its file is called.
    """

    text: str
    options: tuple[str, ...]
    answer: int
    place: str = "a question"
    demos: tuple[Question, ...] = ()
    subject: str = ""


Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(log-likelihoods float `[options]`, scored tokens int `[options]`) -> the scores of the options,
float `[options]`; the option with the highest is chosen."""


def mean_log_likelihood(sums: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The `Metric` that makes the option of the lowest perplexity the best."""
    return sums / np.maximum(tokens, 1)


@dataclasses.dataclass(frozen=True)
class Choices(Benchmark):
    """A way to ask.

    Attributes:
      name: in the registry.
      loader: reads the questions of a folder. It raises a `UserError` that names the file where
        there is none, or where one is malformed.
      prompt: frames a question. It raises an `UnusablePromptError` where the model cannot be asked
        the question; this is then counted as skipped.
      metric: scores the options.
    """

    unit: ClassVar[str] = "accuracy"

    name: str
    loader: Callable[[Path], Subjects]
    prompt: Callable[[Question, PromptFrame], FramedQuestion]
    metric: Metric

    def load(self, source: Path) -> Subjects:
        """Reads the questions, see `Benchmark.load`."""
        return self.loader(source)

    def answers(
        self, items: Sequence[Question], asked: AskedModel, advance: Advance = ignore_progress
    ) -> list[Record]:
        """Asks questions, see `Benchmark.answers`; one that is skipped is named in a warning."""
        records = [_record(question) for question in items]
        framed: dict[int, FramedQuestion] = {}
        for number, question in enumerate(items):
            try:
                framed[number] = self.prompt(question, asked.frame)
            except UnusablePromptError as error:
                logging.warning("%s It is skipped and counts as wrong.", error)
                records[number]["skipped"] = str(error)
        advance(len(items) - len(framed))
        places = [items[number].place for number in framed]
        found = score_options(list(framed.values()), places, asked, advance)
        for number, sums in zip(framed, found, strict=True):
            tokens = np.array(framed[number].scored_tokens(asked.frame))
            scores = self.metric(sums, tokens)
            records[number].update(scores=scores.tolist(), choice=int(scores.argmax()))
        return records

    def result(self, records: Sequence[Record]) -> Score:
        """Right answers among all questions."""
        return Score.of(records)


def _record(question: Question) -> Record:
    """What is known before a question is asked."""
    return {
        "place": question.place,
        "question": question.text,
        "options": list(question.options),
        "gold": question.answer,
        "choice": None,
        "scores": None,
        "skipped": None,
    }
