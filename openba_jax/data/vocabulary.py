"""`Vocabulary`: a sentencepiece model and the special tokens around it.

A sentencepiece model does not say whether the newline is a token of its own. A small file beside
it does, `tokenizer_settings.json` for `tokenizer.model`: `{"newline": true}`. Without the file the
newline is none. `save_tokenizer` keeps the two together.

seqio's counterpart with the same ids is `openba_jax.seqio.vocabulary`; this one needs sentencepiece
alone.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from openba_jax.errors import UserError
from openba_jax.files import reject_lfs_pointer, write_atomically
from openba_jax.objectives.special_ids import SpecialIds

TOKENIZER_FILE = "tokenizer.model"
"""The sentencepiece model of a model folder."""


_SPACE = "▁"
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_NEWLINE = re.compile("\n")
# No special token is the beginning of another, so the order of alternatives is free.
_NAMES = re.compile("|".join(map(re.escape, SpecialIds(0).special_tokens())))


class Vocabulary(SpecialIds):
    """Text to ids and back.

    The strings of special tokens (`</s>`, `<pad>`, `<unk>`, `<extra_id_0>` to `<extra_id_99>`,
    `<R>`, `<S>`, `<X>`) that stand in a text are text by default: they are encoded like any other
    characters and come back as they were. With `parse_special` they become the tokens that they
    name, as the original's tokenizer has it; training data are prepared in this way. A newline that
    is a token of its own is one in both.

    Attributes:
      path: the sentencepiece model file.
      fingerprint: sha256 of that file; stores and models made with it carry it.
    """

    def __init__(self, path: str | Path, newline: bool | None = None) -> None:
        r"""Reads a sentencepiece model.

        Args:
          path: the `.model` file; its ids must be `<pad>` 0, `</s>` 1, `<unk>` 2.
          newline: `"\n"` is a token of its own, as in V2's training data; else sentencepiece
            encodes it, most models as a space. None: as the settings file beside the model says.

        Raises:
          UserError: The file cannot be read, is a pointer of Git LFS, or is no sentencepiece model.
          UserError: The model has other ids for `<pad>`, `</s>` and `<unk>`.
          UserError: The settings file beside the model cannot be understood.
        """
        self.path = Path(path)
        reject_lfs_pointer(self.path)
        try:
            model = self.path.read_bytes()
        except OSError as error:
            raise UserError(
                f"vocabulary {path} cannot be read ({error.strerror}); give a sentencepiece .model "
                "file, for instance one made by `openba-prepare vocabulary`."
            ) from error
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"vocabulary {path} is not a sentencepiece model.") from error
        if newline is None:
            newline = _read_newline(settings_path(self.path))
        super().__init__(self._pieces.GetPieceSize(), newline)
        ids = (self._pieces.pad_id(), self._pieces.eos_id(), self._pieces.unk_id())
        if ids != (self.pad_id, self.eos_id, self.unk_id):
            raise UserError(
                f"vocabulary {path} has pad, eos and unk at {ids}; OpenBA needs them at (0, 1, 2)."
            )
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._ids_of_special = self.special_tokens()
        self._special_of_ids = {i: token for token, i in self._ids_of_special.items()}
        self._special = re.compile(f"{_NAMES.pattern}|\n") if newline else _NAMES

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

    def __repr__(self) -> str:
        """Path and sizes."""
        return f"Vocabulary({str(self.path)!r}, pieces={self.piece_count}, size={self.size})"

    def encode(self, text: str, parse_special: bool = False) -> list[int]:
        """The ids of a text; no eos is added.

        Args:
          text: any text.
          parse_special: strings such as `<extra_id_0>` become the tokens that they name; else they
            are text like any other.

        Raises:
          UserError: The text holds half of a surrogate pair.
        """
        return self.encode_all([text], parse_special)[0]

    def encode_all(self, texts: Sequence[str], parse_special: bool = False) -> list[list[int]]:
        """`encode` for many texts at once, in sentencepiece's threads."""
        return [ids.tolist() for ids in self.encode_arrays(texts, parse_special)]

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
        encoded = iter(self._encode_plain(plain, threads))
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

    def special_in(self, text: str) -> list[str]:
        """The special tokens, newlines aside, that a text spells out, in order."""
        return _NAMES.findall(text) if "<" in text else []

    def _splits(self, text: str, parse_special: bool) -> re.Pattern[str] | None:
        """What tells the special tokens of a text from the rest; None if there are none."""
        if parse_special and "<" in text:
            return self._special
        return _NEWLINE if self.newline and "\n" in text else None

    def _encode_plain(self, texts: Sequence[str], threads: int) -> Sequence[np.ndarray]:
        if not texts:
            return []
        try:
            encoded: list[np.ndarray] = self._pieces.EncodeAsNumpy(texts, num_threads=threads)
        except TypeError as error:  # What sentencepiece makes of half a surrogate pair.
            broken = next((text for text in texts if _HALF_PAIR.search(text)), None)
            if broken is None:
                raise
            raise UserError(
                f"the text {broken[:60]!r} has half of a surrogate pair, which is no character; "
                "mend or remove it."
            ) from error
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
          skip_special_tokens: leave special tokens out; otherwise they stand between spaces.
        """
        text: list[str] = []
        run: list[int] = []
        for i in map(int, ids):
            if not 0 <= i < self.piece_count and i not in self._special_of_ids:
                i = self.unk_id
            if i not in self._special_of_ids:
                run.append(i)
            elif not skip_special_tokens:
                text += [self._pieces.DecodeIds(run), " ", self._special_of_ids[i], " "]
                run = []
        return "".join([*text, self._pieces.DecodeIds(run)])

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The strings of pieces, `▁` for a space, `<0x0A>` for a byte."""
        return self._pieces.IdToPiece(list(ids))


def settings_path(model: str | Path) -> Path:
    """The settings file beside a model: `tokenizer_settings.json` for `tokenizer.model`."""
    model = Path(model)
    return model.with_name(f"{model.stem}_settings.json")


def save_tokenizer(
    folder: str | Path, vocabulary: Vocabulary | str | Path, name: str = TOKENIZER_FILE
) -> Path:
    """Writes a sentencepiece model and, if the newline is a token of its own, its settings.

    Args:
      folder: is made where it is missing.
      vocabulary: or the path of a model, whose settings are those of the file beside it.
      name: of the model's file.

    Returns:
      The path of the model's file.

    Raises:
      UserError: The model cannot be read.
    """
    if not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary(vocabulary)
    path = Path(folder) / name
    model = vocabulary.path.read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_settings(path, vocabulary.newline)
    write_atomically(path, model)
    return path


def write_settings(model: str | Path, newline: bool) -> None:
    """Writes the settings of a model; where there is nothing to say, there is no file."""
    path = settings_path(model)
    if newline:
        write_atomically(path, json.dumps({"newline": True}) + "\n")
    else:
        path.unlink(missing_ok=True)


def _read_newline(path: Path) -> bool:
    """Whether a settings file, if there is one, says that the newline is a token."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("newline", False), bool):
        raise UserError(f'{path} holds no settings; it should be {{"newline": true}} or be gone.')
    if unknown := sorted(settings.keys() - {"newline"}):
        raise UserError(f"{path} has settings that are not known: {', '.join(unknown)}.")
    return bool(settings.get("newline", False))
