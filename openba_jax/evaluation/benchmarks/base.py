"""What a benchmark is: questions, how they are put, and how an answer is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from openba_jax.inference.prompts import PromptFrame

TOTAL = "total"
"""What the figures over all subjects stand under; no subject has this name."""


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
      text: the question.
      options: the answers to choose from.
      answer: index of the right one.
      place: where it stands, for messages.
    """

    text: str
    options: tuple[str, ...]
    answer: int
    place: str = "a question"


class FramedQuestion(NamedTuple):
    """A question as the model reads it.

    Attributes:
      prompt: encoder ids.
      answers: decoder ids of the answers to choose from.
    """

    prompt: list[int]
    answers: list[list[int]]


Subjects = Mapping[str, Sequence[Question]]
"""Name of a subject -> its questions."""

Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(log-likelihoods float `[..., answers]`, scored tokens int `[..., answers]`) -> the scores of the
answers, float `[..., answers]`; the answer with the highest is chosen."""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A way to ask.

    Attributes:
      name: in the registry.
      load: reads the questions of a folder. It raises a `UserError` that names the file where there
        is none, or where one is malformed.
      prompt: frames a question. It raises an `UnusablePromptError` where the model cannot be asked
        the question; this is then counted as skipped.
      metric: scores the answers.
    """

    name: str
    load: Callable[[Path], Subjects]
    prompt: Callable[[Question, PromptFrame], FramedQuestion]
    metric: Metric


def mean_log_likelihood(sums: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The `Metric` that makes the answer of the lowest perplexity the best."""
    return sums / np.maximum(tokens, 1)
