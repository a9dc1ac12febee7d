"""What people read while a run works and when it ends: in English, or in Chinese where they ask.

Programs read English everywhere: JSON, logs, gin files, and errors, which people search for.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from openba_jax.errors import UserError
from openba_jax.language.chinese import CHINESE

FLAG = "OPENBA_LANGUAGE"
"""The environment variable that decides; otherwise those of the locale do."""

_LOCALE = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
_CATALOGUES: dict[str, Mapping[str, str]] = {"en": {}, "zh": CHINESE}


@dataclasses.dataclass(frozen=True)
class Phrase:
    """A sentence or a word with what is filled in; as a string it is English.

    Attributes:
      english: the text with `{names}`, which the catalogues know.
      values: what is filled in, by name.
    """

    english: str
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        """In English."""
        return self.english.format(**self._filled(str))

    def told(self) -> str:
        """In the language of the reader; what a catalogue lacks is English."""
        text = _CATALOGUES[language()].get(self.english, self.english)
        return text.format(**self._filled(lambda phrase: phrase.told()))

    def _filled(self, show: Any) -> dict[str, Any]:
        return {
            name: show(value) if isinstance(value, Phrase) else value
            for name, value in self.values.items()
        }


def phrase(english: str, **values: Any) -> Phrase:
    """A `Phrase`; values may be phrases themselves."""
    return Phrase(english, values)


def told(english: str, **values: Any) -> str:
    """A text in the language of the reader."""
    return Phrase(english, values).told()


def language() -> str:
    """The language of the reader: `en`, or `zh` where `OPENBA_LANGUAGE` or the locale says so.

    Raises:
      UserError: `OPENBA_LANGUAGE` names a language that there is no catalogue of.
    """
    if named := os.environ.get(FLAG):
        if named not in _CATALOGUES:
            raise UserError(f"{FLAG} is {named!r}; known are {' and '.join(_CATALOGUES)}.")
        return named
    locale = next((value for name in _LOCALE if (value := os.environ.get(name))), "")
    return "zh" if locale.lower().startswith("zh") else "en"
