"""A question with options to choose from, wherever it was read."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
      text: the question.
      options: the answers to choose from.
      answer: index of the right one.
      place: where it stands, for messages.
      demos: answered questions that may be shown before it.
      passage: a text that it is about, or "".
      subject: name of its subject.
    """

    text: str
    options: tuple[str, ...]
    answer: int
    place: str = "a question"
    demos: tuple[Question, ...] = dataclasses.field(default=(), repr=False)
    passage: str = ""
    subject: str = dataclasses.field(default="", compare=False)

    @property
    def answer_text(self) -> str:
        """The right option."""
        return self.options[self.answer]
