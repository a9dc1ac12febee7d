"""From a generated text to a label for each word of a sentence, as GNER does it.

Models leave words out, repeat or misspell them, and invent labels (docs/ner.md).
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Sequence

from openba_jax.data.ner.prompts import OUTSIDE, labels_of

_LABEL = re.compile(r"\(B-.*?\)|\(I-.*?\)|\(O\)")


def labelled_words(text: str) -> tuple[list[str], list[str]]:
    """The words of a generated text and their labels.

    A word is what stands between two labels, without blanks around it; where this is nothing, the
    label is left out.
    """
    words: list[str] = []
    labels: list[str] = []
    end = 0
    for match in _LABEL.finditer(text):
        word = text[end : match.start()].strip()
        if word:
            words.append(word)
            labels.append(match[0][1:-1].strip())
        end = match.end()
    return words, labels


def labels_for(
    words: Sequence[str],
    text: str,
    types: Sequence[str],
    spelled: Callable[[str], str] = str,
) -> list[str]:
    """A label for each word of a sentence.

    Args:
      words: of the sentence.
      text: what a model generated.
      types: of entities that there are; other labels become `O`.
      spelled: what becomes of a word in the model's vocabulary and back, since a model cannot write
        what its vocabulary lacks.
    """
    said, labels = labelled_words(text.strip())
    known = set(labels_of(types))
    labels = [label if label in known else OUTSIDE for label in labels]
    places = align([spelled(word.lower()) for word in words], [word.lower() for word in said])
    return [OUTSIDE if place is None else labels[place] for place in places]


def is_exact(words: Sequence[str], text: str, types: Sequence[str]) -> bool:
    """Whether a generated text has the words of a sentence and labels that there are."""
    said, labels = labelled_words(text.strip())
    return said == list(words) and set(labels) <= set(labels_of(types))


def align(words: Sequence[str], said: Sequence[str]) -> list[int | None]:
    """For each word the place of its like among the words that a model wrote, or None.

    Where these are a part of the sentence in its order, each is the like of the first word that it
    can be; else the longest common subsequence decides.
    """
    if list(words) == list(said):
        return list(range(len(words)))
    places: list[int | None] = [None] * len(words)
    after = 0
    for number, word in enumerate(words):
        if after < len(said) and word == said[after]:
            places[number] = after
            after += 1
    return places if after == len(said) else _longest_common(words, said)


def _longest_common(words: Sequence[str], said: Sequence[str]) -> list[int | None]:
    """The longest common subsequence as a longest increasing one of places.

    The places of a word among `said` are listed from the last to the first, so that no two of them
    increase. Which of several subsequences comes out is that of GNER: of those that end at one
    length, a later pair is preferred.
    """
    places_of: dict[str, list[int]] = {}
    for place in range(len(said) - 1, -1, -1):
        places_of.setdefault(said[place], []).append(place)
    # For each length the pairs (number of a word, place) that a subsequence of it ended with, and
    # which pair of the length before stood in front.
    ends: list[list[tuple[int, int, int]]] = []
    lowest: list[int] = []  # The last place of the newest of each length; it increases.
    for number, word in enumerate(words):
        for place in places_of.get(word, ()):
            length = bisect.bisect_left(lowest, place)
            front = len(ends[length - 1]) - 1 if length else -1
            if length == len(lowest):
                lowest.append(place)
                ends.append([])
            lowest[length] = place
            ends[length].append((number, place, front))
    found: list[int | None] = [None] * len(words)
    front = -1
    for pairs in reversed(ends):
        number, place, front = pairs[front]
        found[number] = place
    return found
