"""Rows of published data sets as questions, by the names of their columns.

Known are the columns of MMLU, CMMLU, C-Eval, ARC, PIQA, SciQ, LogiQA and BoolQ as Hugging Face,
TFDS and the authors publish them, and those of OpenBA's own files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from openba_jax.errors import UserError
from openba_jax.evaluation.question import Question
from openba_jax.evaluation.score import LETTERS

_TEXTS = ("question", "Question", "goal", "query")
_PASSAGES = ("support", "context", "passage")
_ANSWERS = ("ans", "answer", "Answer", "answerKey", "AnswerKey", "label", "correct_option")


def question_of(fields: Mapping[str, Any], place: str) -> Question:
    """The question in a row.

    Args:
      fields: the columns of the row.
      place: where it stands.

    Raises:
      UserError: question, options or answer are missing, or the answer names none of the options.
    """
    asked = _first(fields, _TEXTS)
    text = asked.get("stem") if isinstance(asked, Mapping) else asked
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{place} has no question; a column {' or '.join(_TEXTS)} holds it.")
    passage = _first(fields, _PASSAGES) or ""
    if "correct_answer" in fields:
        options = [fields.get(f"distractor{n}") for n in (1, 2, 3)] + [fields["correct_answer"]]
        return _checked(text, options, list(LETTERS), len(options) - 1, place, passage)
    answer = _first(fields, _ANSWERS)
    options, labels = _options(fields, asked)
    return _checked(text, options, labels, answer, place, passage)


def _options(fields: Mapping[str, Any], asked: Any) -> tuple[list[Any], list[str]]:
    """The options of a row, and what its answer calls them."""
    letters = list(LETTERS)
    choices = fields.get("choices", fields.get("options"))
    if isinstance(asked, Mapping) and "choices" in asked:
        choices = asked["choices"]
    if isinstance(choices, Mapping):
        texts, names = choices.get("text"), choices.get("label")
        if not isinstance(texts, list | tuple) or not isinstance(names, list | tuple):
            return [], letters
        return list(texts), [str(name) for name in names]
    if isinstance(choices, Sequence) and not isinstance(choices, str):
        if choices and all(isinstance(choice, Mapping) for choice in choices):
            labels = [str(choice.get("label")) for choice in choices]
            return [choice.get("text") for choice in choices], labels
        return list(choices), letters
    if "sol1" in fields:
        return [fields["sol1"], fields.get("sol2")], letters
    if "A" in fields:
        return _without_gap([fields.get(letter) for letter in LETTERS]), letters
    if numbered := [int(name[3:]) for name in fields if re.fullmatch(r"res\d+", name)]:
        names = [f"res{number}" for number in range(1, max(numbered) + 1)]
        return _without_gap([fields.get(name) for name in names]), letters
    if "passage" in fields:
        return ["no", "yes"], letters
    return [], letters


def _without_gap(options: list[Any]) -> list[Any]:
    """Options without those that lack at the end; one that lacks before keeps its letter."""
    while options and options[-1] is None:
        options.pop()
    return options


def _checked(
    text: str, options: Sequence[Any], labels: Sequence[str], answer: Any, place: str, passage: Any
) -> Question:
    if not 2 <= len(options) <= len(LETTERS):
        raise UserError(f"{place} has {len(options)} options; 2 to {len(LETTERS)} are expected.")
    for letter, option in zip(LETTERS, options, strict=False):
        if isinstance(option, bool) or not isinstance(option, str | int | float):
            raise UserError(f"{place}: option {letter} is {option!r:.60}; it must be text.")
    names = list(labels[: len(options)])
    index = _index(answer, names)
    if index is None or not 0 <= index < len(options):
        shown = "missing" if answer in (None, "") else f"{answer!r:.60}"
        raise UserError(
            f"{place}: the answer is {shown}; it must be one of {', '.join(names)}, as there are "
            f"{len(options)} options."
        )
    return Question(text, tuple(map(str, options)), index, place, passage=str(passage))


def _index(answer: Any, names: Sequence[str]) -> int | None:
    """The number of the option that an answer names, or None."""
    if isinstance(answer, bool | int):
        return int(answer)
    if not isinstance(answer, str):
        return None
    answer = answer.strip()
    for name in (answer, answer.upper()):
        if name in names:
            return names.index(name)
    return int(answer) if answer.isdecimal() else None


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)
