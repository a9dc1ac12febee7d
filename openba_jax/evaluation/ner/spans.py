"""Entities in labelled words, and how many of them are right."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence

from openba_jax.data.ner.prompts import OUTSIDE

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_LEAST = 1e-10
"""Keeps divisions by nothing from failing, as in the reference."""

Entity = tuple[str, str]
"""Text and type, as `normalised`."""


def entities(words: Sequence[str], labels: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, each once.

    A label `B-` or `O` ends what was begun before. Any other but `O` goes on with it or begins, and
    the type is that of the last word.
    """
    found: list[Entity] = []
    begun: list[str] = []
    kind = ""

    def end() -> None:
        if begun:
            entity = (normalised(" ".join(begun)), normalised(kind))
            if entity not in found:
                found.append(entity)
            begun.clear()

    for word, label in zip(words, labels, strict=True):
        if label.startswith(("B", OUTSIDE)):
            end()
        if label != OUTSIDE:
            begun.append(word)
            kind = label[2:]
    end()
    return found


def normalised(text: str) -> str:
    """A text in small letters, without punctuation, articles and needless blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def precision_recall_f1(
    sentences: Iterable[tuple[Sequence[Entity], Sequence[Entity]]],
) -> tuple[float, float, float]:
    """Precision, recall and F1 over the entities of all sentences.

    Args:
      sentences: for each the right entities, and those that were found.
    """
    right = gold = predicted = 0
    for expected, found in sentences:
        right += sum(entity in expected for entity in found)
        gold += len(expected)
        predicted += len(found)
    precision = right / (predicted + _LEAST)
    recall = right / (gold + _LEAST)
    return precision, recall, 2 * precision * recall / (precision + recall + _LEAST)
