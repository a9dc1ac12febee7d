"""What a fact is, and what a relation says about its facts: wordings and wrong answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

LANGUAGES = ("en", "zh")

Text = Mapping[str, str]  # language -> the same thing said in that language
Wordings = Mapping[str, tuple[str, ...]]  # language -> templates with the slots {s} and {o}

_NEAR = (-10, -3, -2, -1, 1, 2, 3, 10)


@dataclasses.dataclass(frozen=True)
class Fact:
    """One true triple, e.g. capitals(France, Paris); a subject has one object in a relation."""

    relation: str
    subject: Text
    object: Text


@dataclasses.dataclass(frozen=True)
class Relation:
    """Facts of one kind and how to speak of them.

    Attributes:
      name: unique; the question files are called `<name>_<language>.json`.
      topic: relations of one topic share documents.
      title: the subject as a person would call it.
      facts: the facts, the best known first, as `first` cuts from the end.
      statements: sentences with `{s}` (subject) and `{o}` (object).
      questions: questions with `{s}` alone; the object is the answer.
      near: wrong answers are numbers near the right one, not objects of other facts.
      spare: answers beside the objects of the facts, for relations with fewer than four objects.
    """

    name: str
    topic: str
    title: Text
    facts: tuple[Fact, ...]
    statements: Wordings
    questions: Wordings
    near: bool = False
    spare: tuple[Text, ...] = ()

    def first(self, count: int) -> Relation:
        """The relation with its first `count` facts; the other objects become spare answers."""
        cut = tuple(fact.object for fact in self.facts[count:])
        return dataclasses.replace(self, facts=self.facts[:count], spare=cut + self.spare)

    def wrong_answers(self, fact: Fact, lang: str) -> list[str]:
        """Distinct wrong answers, at least three.

        Spare answers come in only when the facts have too few: an answer that is the object of no
        fact in the corpus would be ruled out by anyone who never met it.
        """
        right = fact.object[lang]
        if self.near:
            return [str(int(right) + step) for step in _NEAR if int(right) + step > 0]
        wrong = _distinct((other.object[lang] for other in self.facts), right)
        if len(wrong) < 3:
            wrong = _distinct([*wrong, *(text[lang] for text in self.spare)], right)
        return wrong


def text(en: str, zh: str | None = None) -> Text:
    """The same in both languages; numbers and symbols need to be given once."""
    return {"en": en, "zh": en if zh is None else zh}


def table(block: str) -> list[list[str]]:
    """Rows of cells from lines of the form `cell | cell | ...`."""
    return [[cell.strip() for cell in line.split("|")] for line in block.strip().splitlines()]


def facts(
    relation: str, rows: Iterable[Sequence[str]], subject: Sequence[int], object: Sequence[int]
) -> tuple[Fact, ...]:
    """Facts from a table: columns of subject and object as (en, zh), or one for both.

    A row with the cell `-` for the object says nothing in this relation.
    """
    return tuple(
        Fact(relation, text(*(row[i] for i in subject)), text(*(row[i] for i in object)))
        for row in rows
        if row[object[0]] != "-"
    )


def _distinct(answers: Iterable[str], right: str) -> list[str]:
    return [answer for answer in dict.fromkeys(answers) if answer != right]
