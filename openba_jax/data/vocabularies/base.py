"""`Vocabulary`: what everybody who has text asks of a tokenizer."""

from __future__ import annotations

import abc
import functools
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from openba_jax.data.vocabularies.settings import TokenizerSettings
from openba_jax.errors import UserError
from openba_jax.objectives.special_ids import SpecialIds


class Vocabulary(SpecialIds, abc.ABC):
    """Text to ids and back.

    The strings of special tokens (`special_tokens`) that stand in a text are text by default: they
    are encoded like any other characters and come back as they were. With `parse_special` they
    become the tokens that they name; training data are prepared in this way.

    Attributes:
      kind: its name in `KINDS` of the registry.
      path: the tokenizer's file.
      settings: what this file does not say.
      fingerprint: sha256 of the file; stores and models made with it carry it.
      piece_count: pieces of text, with those that stand for bytes; their ids come first.
      pad_id: what rows are filled up with: the token of padding; where there is none, the unknown
        one, or the end.
      eos_id: the end of a text.
      bos_id: the beginning of a text, or None.
      unk_id: what is no piece, or None where every text is made of bytes.
      adds_bos: whether texts begin with `bos_id`. `encode` does not put it there.
      newline: whether the newline is a token of its own among the special ones.
    """

    kind: ClassVar[str]
    path: Path
    settings: TokenizerSettings
    fingerprint: str
    piece_count: int
    unk_id: int | None = None
    adds_bos: bool = False
    newline: bool = False

    @property
    @abc.abstractmethod
    def token_count(self) -> int:
        """Ids in use: pieces and special tokens."""

    @property
    def size(self) -> int:
        """The rows that an embedding needs."""
        return self.token_count

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """What ends an answer: `eos_id` first, then the others that the settings name."""
        ids = self.special_tokens()
        others = [ids[token] for token in self.settings.stop if token in ids]
        return tuple(dict.fromkeys([self.eos_id, *others]))

    @functools.cached_property
    def sentinels(self) -> np.ndarray:
        """The ids of the sentinels, the first span's first: int32 `[count]`.

        They are those that the settings name, or `<extra_id_0>`, `<extra_id_1>` and so on.

        Raises:
          UserError: The vocabulary has none.
        """
        ids, names = self.special_tokens(), self.settings.sentinels
        if not names:
            numbered = (f"<extra_id_{k}>" for k in itertools.count())
            names = tuple(itertools.takewhile(ids.__contains__, numbered))
        if not names:
            raise self._no_sentinels()
        return np.array([ids[name] for name in names], np.int32)

    @property
    def r_id(self) -> int:
        """The id of the prefix of regular denoising; a `UserError` if there is none."""
        return self._prefix("R")

    @property
    def s_id(self) -> int:
        """The id of the prefix of sequential denoising and instructions; as `r_id`."""
        return self._prefix("S")

    @property
    def x_id(self) -> int:
        """The id of the prefix of extreme denoising; as `r_id`."""
        return self._prefix("X")

    def _prefix(self, name: str) -> int:
        if name not in self.settings.prefixes:
            raise self._no_prefix(name)
        return self.special_tokens()[self.settings.prefixes[name]]

    def _check_settings(self) -> None:
        """Checks, at the end of opening, that the tokens that settings name are there.

        Raises:
          UserError: One is not.
        """
        ids = self.special_tokens()
        for name in self.settings.named():
            if name not in ids:
                raise UserError(
                    f"the settings beside {self.path} name the token {name!r}, which this "
                    "tokenizer does not have; mend them."
                )

    @abc.abstractmethod
    def special_tokens(self) -> dict[str, int]:
        """The strings that stand for one id wherever they occur in a text, by `parse_special`."""

    @abc.abstractmethod
    def special_in(self, text: str) -> list[str]:
        """The special tokens, newlines aside, that a text spells out, in order."""

    def encode(self, text: str, parse_special: bool = False) -> list[int]:
        """The ids of a text; no bos and no eos is added.

        Args:
          text: any text.
          parse_special: strings such as `</s>` become the tokens that they name; else they are text
            like any other.

        Raises:
          UserError: The text holds half of a surrogate pair.
        """
        return self.encode_all([text], parse_special)[0]

    def encode_all(self, texts: Sequence[str], parse_special: bool = False) -> list[list[int]]:
        """`encode` for many texts at once, in the threads of the tokenizer."""
        return [ids.tolist() for ids in self.encode_arrays(texts, parse_special)]

    @abc.abstractmethod
    def encode_arrays(
        self, texts: Sequence[str], parse_special: bool = False, threads: int = -1
    ) -> list[np.ndarray]:
        """`encode_all` as int32 arrays, in so many threads; -1 for as many as there are cores."""

    @abc.abstractmethod
    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of ids.

        Args:
          ids: any ids; those that no token has (padding rows of the embedding) count as `unk_id`,
            or as U+FFFD.
          skip_special_tokens: leave special tokens out.
        """

    @abc.abstractmethod
    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The strings of pieces as the tokenizer writes them, `▁` or `Ġ` for a space."""

    @property
    @abc.abstractmethod
    def separators(self) -> str:
        """The characters, of space and newline, at which a text falls into parts.

        Between two words they can be left out, and the words be encoded apart.
        """

    def check_rows(self, rows: int) -> None:
        """Checks that an embedding has a row for every id.

        Raises:
          UserError: The embedding has fewer rows than there are ids.
        """
        if self.token_count > rows:
            raise UserError(
                f"{self.path} has {self.piece_count} pieces and needs {self.token_count} ids with "
                f"the special ones, but the embedding has {rows} rows; give the tokenizer that "
                "the model was trained with."
            )

    def __str__(self) -> str:
        """The file, for messages."""
        return f"the vocabulary {self.path}"

    def __repr__(self) -> str:
        """Path and sizes."""
        name = type(self).__name__
        return f"{name}({str(self.path)!r}, pieces={self.piece_count}, size={self.size})"
