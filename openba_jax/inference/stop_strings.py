"""Strings that end an answer: where a growing text is cut, and what of it may be shown.

Stop strings are looked for in decoded text, not in ids, since a string can begin in the middle of
a token and end in the middle of another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from openba_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class StopStrings:
    """Strings of which the first occurrence ends an answer, and is no part of it.

    Attributes:
      strings: the strings; none ends nothing.
    """

    strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the strings.

        Raises:
          UserError: one of them is empty or no text.
        """
        for string in self.strings:
            if not isinstance(string, str) or not string:
                raise UserError(f"a stop string is {string!r}; it must be text that is not empty.")

    def find(self, text: str) -> int | None:
        """Where the first stop string begins in `text`, in characters; None if there is none.

        The first is the one that is complete first, so that a text read in steps ends at the same
        place as the whole; of several that are complete at once, it is the longest.
        """
        starts = ((text.find(string), len(string)) for string in self.strings)
        found = [(start + length, start) for start, length in starts if start >= 0]
        return min(found)[1] if found else None

    def cut(self, text: str) -> str:
        """`text` up to the first stop string."""
        return text[: self.find(text)]

    def safe_length(self, text: str) -> int:
        """How many characters of a growing text belong to the answer, whatever follows.

        The rest is a stop string or what stands behind it, or the beginning of a stop string that
        the next characters may complete. At the end of an answer `cut` says what it was.
        """
        place = self.find(text)
        if place is not None:
            return place
        longest = max((len(string) for string in self.strings), default=1)
        for start in range(max(0, len(text) - longest + 1), len(text)):
            if any(string.startswith(text[start:]) for string in self.strings):
                return start
        return len(text)


def stop_strings(strings: str | Iterable[str] | None) -> StopStrings:
    """Stop strings as a user gives them: one, several, or None.

    Raises:
      UserError: one of them is empty or no text.
    """
    if strings is None:
        return StopStrings()
    if isinstance(strings, str):
        strings = [strings]
    return StopStrings(tuple(dict.fromkeys(strings)))


def cut_answers(texts: Sequence[str], stop: StopStrings) -> list[str]:
    """Finished answers, each up to its first stop string."""
    return [stop.cut(text) for text in texts]
