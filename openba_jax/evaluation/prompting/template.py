"""A template of prompts: what a model reads of a question and of the demonstrations before it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Literal

from openba_jax.evaluation.question import Question
from openba_jax.evaluation.score import LETTERS

Scoring = Literal["perplexity", "letters", "likelihood"]
"""How the options are scored: by the mean log-likelihood of their tokens, by the logits of their
letters at one position, or by the sum of log-likelihoods as lm-evaluation-harness does."""

MARK = "\ue000"
"""Stands for a sentinel until it is numbered; a character of Unicode's private use area."""

_PLACE = re.compile(
    r"\{(question|stripped_question|options|passage|stripped_passage|subject|answer|letter|sentinel)\}"
)


@dataclasses.dataclass(frozen=True)
class Template:
    """The strings of a prompt; blanks in them count.

    With k demonstrations the encoder reads introduction, k times query and answer, tail, query;
    without one it reads the query alone.

    Attributes:
      query: with `{question}`, and perhaps `{options}`, `{passage}`, `{subject}`, `{sentinel}`;
        `{stripped_question}` and `{stripped_passage}` have no blanks at their ends, the latter
        none in front.
      scoring: how options are scored.
      option: how one is shown, with `{letter}` and `{answer}`.
      separator: between options.
      answer: what follows the query of a demonstration, with `{answer}` or `{letter}`.
      intro: in front of demonstrations.
      tail: behind them.
      decoder: what the decoder reads in front of the letter.
      shots: demonstrations at most.
      names_letters: the answers to choose from are the letters, not the options.
      blank: a blank stands before the last sentinel.
    """

    query: str
    scoring: Scoring
    option: str = ""
    separator: str = " "
    answer: str = ""
    intro: str = ""
    tail: str = ""
    decoder: str = ""
    shots: int = 0
    names_letters: bool = False
    blank: bool = True

    @property
    def has_sentinels(self) -> bool:
        """Whether every demonstration has a sentinel of its own."""
        return "{sentinel}" in self.query

    @property
    def demo(self) -> str:
        """Query and answer of a demonstration."""
        return self.query + self.answer

    def encoder_text(self, question: Question, shots: int, subject: str) -> str:
        """What the encoder reads, without its frame; sentinels are `MARK`.

        Args:
          question: with at least so many demonstrations.
          shots: demonstrations shown.
          subject: what the subject is called in prompts.
        """
        demos = [self._fill(self.demo, demo, subject) for demo in question.demos[:shots]]
        intro, tail = (self.intro, self.tail) if shots else ("", "")
        return intro + "".join(demos) + tail + self._fill(self.query, question, subject)

    def decoder_text(self, question: Question, option: int, shots: int) -> str:
        """What the decoder is to say for an option, without its frame; sentinels are `MARK`.

        Args:
          question: the question.
          option: index.
          shots: demonstrations shown.
        """
        if self.names_letters:
            return LETTERS[option]
        text = question.options[option]
        if not self.has_sentinels:
            return text
        shown = [f"{MARK} {demo.answer_text}" for demo in question.demos[:shots]]
        return "".join([*shown, f"{MARK} {text}"])

    def _fill(self, text: str, question: Question, subject: str) -> str:
        values: dict[str, Callable[[], str]] = {
            "question": lambda: question.text,
            "options": lambda: self._options(question),
            "stripped_question": question.text.strip,
            "passage": lambda: question.passage,
            "stripped_passage": question.passage.lstrip,
            "subject": lambda: subject,
            "answer": lambda: question.answer_text,
            "letter": lambda: LETTERS[question.answer],
            "sentinel": lambda: MARK,
        }
        return _PLACE.sub(lambda match: values[match[1]](), text)

    def _options(self, question: Question) -> str:
        shown = []
        for letter, text in zip(LETTERS, question.options, strict=False):
            values = {"letter": letter, "answer": text}
            shown.append(_PLACE.sub(lambda match, v=values: v[match[1]], self.option))  # type: ignore[misc]
        return self.separator.join(shown)


Templates = Mapping[str, Template]
"""By name."""


def numbered(text: str) -> str:
    """A text with its marks as `<extra_id_0>`, `<extra_id_1>` and so on, from left to right."""
    first, *others = text.split(MARK)
    return first + "".join(f"<extra_id_{k}>{part}" for k, part in enumerate(others))
