"""`SentencePieceVocabulary`: a sentencepiece model and the special tokens around it."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.sentencepiece_proto import with_controls
from openba_jax.data.vocabularies.settings import TokenizerSettings
from openba_jax.errors import UserError
from openba_jax.files import reject_lfs_pointer

_SPACE = "▁"
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_NEWLINE = re.compile("\n")


class SentencePieceVocabulary(Vocabulary):
    """What vocabularies of sentencepiece models share.

    A class below says which special tokens there are, and where.
    """

    special_gap = ""
    """What stands on both sides of a special token in a decoded text."""

    _later: sentencepiece.SentencePieceProcessor
    """Encodes and decodes what follows a special token, as `_pieces` does the beginning."""

    def __init__(self, path: str | Path, settings: TokenizerSettings) -> None:
        """Reads a sentencepiece model.

        Args:
          path: the `.model` file.
          settings: what the file does not say.

        Raises:
          UserError: The file cannot be read, is a pointer of Git LFS, or is no sentencepiece model.
        """
        self.path = Path(path)
        self.settings = settings
        self._model = read_tokenizer(self.path)
        self.fingerprint = hashlib.sha256(self._model).hexdigest()
        self._pieces = self._later = load_pieces(self._model, self.path)
        self.piece_count = self._pieces.GetPieceSize()

    def _hide(self, names: Iterable[str]) -> None:
        """Lets pieces that are special tokens be found by `parse_special` alone.

        A trainer may have made them pieces that sentencepiece finds in every text.
        """
        ids = [self._pieces.PieceToId(name) for name in names]
        seen = [i for i in ids if not self._pieces.IsControl(i) and not self._pieces.IsUnknown(i)]
        if seen:
            self._model = with_controls(self._model, seen)
            self._pieces = self._later = load_pieces(self._model, self.path)

    def _find_special(self) -> None:
        """Makes ready to find special tokens; a class below calls it when it knows them."""
        self._ids_of_special = self.special_tokens()
        self._special_of_ids = {i: token for token, i in self._ids_of_special.items()}
        # Of two that begin alike the longer one is meant.
        names = sorted((name for name in self._ids_of_special if name != "\n"), key=len)
        self._names = re.compile("|".join(map(re.escape, reversed(names))))
        self._special = re.compile(f"{self._names.pattern}|\n") if self.newline else self._names
        self._beginnings = "".join(sorted({name[0] for name in names}))

    def encode_arrays(
        self, texts: Sequence[str], parse_special: bool = False, threads: int = -1
    ) -> list[np.ndarray]:
        """`encode_all` as int32 arrays, in so many threads; -1 for as many as there are cores."""
        plain: list[str] = []  # The texts between special tokens, of all texts one after another.
        found: list[list[str]] = []
        for text in texts:
            pattern = self._splits(text, parse_special)
            plain.extend(pattern.split(text) if pattern else (text,))
            found.append(pattern.findall(text) if pattern else [])
        encoded = iter(self._encode_parts(plain, [len(tokens) for tokens in found], threads))
        results = []
        for tokens in found:
            ids = next(encoded)
            if tokens:
                parts = [ids]
                for token in tokens:
                    parts += [np.array([self._ids_of_special[token]], np.int32), next(encoded)]
                ids = np.concatenate(parts)
            results.append(ids)
        return results

    def _encode_parts(
        self, texts: Sequence[str], followers: Sequence[int], threads: int
    ) -> Sequence[np.ndarray]:
        """Encodes the texts between special tokens.

        Args:
          texts: of each whole text the part at its beginning, then those behind special tokens.
          followers: of each whole text the number of the latter.
          threads: see `encode_arrays`.
        """
        if self._later is self._pieces:
            return self._encode_plain(self._pieces, texts, threads)
        firsts = set(itertools.accumulate((count + 1 for count in followers), initial=0))
        begin = [text for i, text in enumerate(texts) if i in firsts]
        later = [text for i, text in enumerate(texts) if i not in firsts]
        from_begin = iter(self._encode_plain(self._pieces, begin, threads))
        from_later = iter(self._encode_plain(self._later, later, threads))
        return [next(from_begin if i in firsts else from_later) for i in range(len(texts))]

    def special_in(self, text: str) -> list[str]:
        """The special tokens, newlines aside, that a text spells out, in order."""
        return self._names.findall(text) if self._may_name(text) else []

    def _may_name(self, text: str) -> bool:
        """Whether a text has the first character of a special token; quickly told."""
        return any(character in text for character in self._beginnings)

    def _splits(self, text: str, parse_special: bool) -> re.Pattern[str] | None:
        """What tells the special tokens of a text from the rest; None if there are none."""
        if parse_special and self._may_name(text):
            return self._special
        return _NEWLINE if self.newline and "\n" in text else None

    def _encode_plain(
        self,
        pieces: sentencepiece.SentencePieceProcessor,
        texts: Sequence[str],
        threads: int,
    ) -> Sequence[np.ndarray]:
        if not texts:
            return []
        try:
            encoded: list[np.ndarray] = pieces.EncodeAsNumpy(texts, num_threads=threads)
        except TypeError as error:  # What sentencepiece makes of half a surrogate pair.
            reject_half_pairs(texts, error)
            raise
        return encoded

    @functools.cached_property
    def separators(self) -> str:
        """The characters, of space and newline, at which a text falls into parts.

        Between two words they can be left out, and the words be encoded apart: sentencepiece puts
        the mark of a space before every text, and no piece reaches across one.
        """
        pieces = self._pieces.IdToPiece(list(range(self.piece_count)))
        if any(_SPACE in piece[1:] for piece in pieces):
            return ""
        apart = self._pieces.Normalize("a") + self._pieces.Normalize("b")
        candidates = " " if self.newline else " \n"
        return "".join(c for c in candidates if self._pieces.Normalize(f"a{c}b") == apart)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of ids.

        Args:
          ids: any ids; those that no token has (padding rows of the embedding) count as `<unk>`.
          skip_special_tokens: leave special tokens out; otherwise they stand between
            `special_gap`.
        """
        text: list[str] = []
        run: list[int] = []
        pieces = self._pieces
        for i in map(int, ids):
            if not 0 <= i < self.piece_count and i not in self._special_of_ids:
                i = self._pieces.unk_id()
            if i not in self._special_of_ids:
                run.append(i)
            elif not skip_special_tokens:
                token = f"{self.special_gap}{self._special_of_ids[i]}{self.special_gap}"
                text += [pieces.DecodeIds(run), token]
                run, pieces = [], self._later
        return "".join([*text, pieces.DecodeIds(run)])

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The strings of pieces, `▁` for a space, `<0x0A>` for a byte."""
        return self._pieces.IdToPiece(list(ids))


def read_tokenizer(path: Path) -> bytes:
    """The bytes of a tokenizer's file.

    Raises:
      UserError: The file cannot be read, or is a pointer of Git LFS.
    """
    reject_lfs_pointer(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"vocabulary {path} cannot be read ({error.strerror}); give a sentencepiece .model "
            "file, for instance one made by `openba-prepare vocabulary`, or a tokenizer.json."
        ) from error


def load_pieces(model: bytes, path: Path) -> sentencepiece.SentencePieceProcessor:
    """Loads a sentencepiece model.

    Raises:
      UserError: It is none.
    """
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(model)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"vocabulary {path} is not a sentencepiece model.") from error
    return pieces


def reject_half_pairs(texts: Sequence[str], error: Exception) -> None:
    """Checks that texts are valid Unicode, after a tokenizer has refused one.

    Raises:
      UserError: A text holds half of a surrogate pair.
    """
    broken = next((text for text in texts if _HALF_PAIR.search(text)), None)
    if broken is not None:
        raise UserError(
            f"the text {broken[:60]!r} has half of a surrogate pair, which is no character; "
            "mend or remove it."
        ) from error
