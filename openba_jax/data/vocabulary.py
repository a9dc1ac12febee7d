"""`Vocabulary`: a sentencepiece model and the special tokens around it (reference §2).

seqio's counterpart with the same ids is `openba_jax.seqio.vocabulary`; this one needs sentencepiece
alone.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from openba_jax.errors import UserError
from openba_jax.files import write_atomically
from openba_jax.objectives.special_ids import SpecialIds

TRAINING_THREADS = 8
"""Fixed, whatever the machine has: the number changes the pieces in their last digits."""

TRAINING_SENTENCES = 4_000_000
"""Sentences that the trainer looks at; from longer corpora it draws, by a fixed seed."""

_SENTENCE_CHARACTERS = 1000  # The trainer skips sentences of more than 4192 bytes.


class Vocabulary(SpecialIds):
    """Text to ids and back, as the original's Megatron tokenizer does it (§2.3).

    Attributes:
      path: the sentencepiece model file.
      fingerprint: sha256 of that file; stores and models made with it carry it.
    """

    def __init__(self, path: str | Path, newline: bool = False) -> None:
        r"""Reads a sentencepiece model.

        Args:
          path: the `.model` file; its ids must be `<pad>` 0, `</s>` 1, `<unk>` 2.
          newline: `"\n"` is a token of its own, as in V2's training data; else it becomes a space.

        Raises:
          UserError: there is no such file, or it is no such model.
        """
        self.path = Path(path)
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
        super().__init__(self._pieces.GetPieceSize(), newline)
        ids = (self._pieces.pad_id(), self._pieces.eos_id(), self._pieces.unk_id())
        if ids != (self.pad_id, self.eos_id, self.unk_id):
            raise UserError(
                f"vocabulary {path} has pad, eos and unk at {ids}; OpenBA needs them at (0, 1, 2)."
            )
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._ids_of_special = self.special_tokens()
        self._special_of_ids = {i: token for token, i in self._ids_of_special.items()}
        # No special token is the beginning of another, so the order of alternatives is free.
        self._special = re.compile("|".join(map(re.escape, self._ids_of_special)))

    def check_rows(self, rows: int) -> None:
        """Raises a `UserError` where an embedding of `rows` rows lacks some of the ids."""
        if self.token_count > rows:
            raise UserError(
                f"{self.path} has {self.piece_count} pieces and needs {self.token_count} ids with "
                f"the special ones, but the embedding has {rows} rows; give the tokenizer that "
                "the model was trained with."
            )

    def __repr__(self) -> str:
        """Path and sizes."""
        return f"Vocabulary({str(self.path)!r}, pieces={self.piece_count}, size={self.size})"

    def encode(self, text: str) -> list[int]:
        """The ids of a text; special token strings in it become their ids, no eos is added."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts at once, in sentencepiece's threads."""
        return [ids.tolist() for ids in self.encode_arrays(texts)]

    def encode_arrays(self, texts: Sequence[str], threads: int = -1) -> list[np.ndarray]:
        """`encode_all` as int32 arrays, in so many threads; -1 for as many as there are cores."""
        plain: list[str] = []  # The texts between special tokens, of all texts one after another.
        found: list[list[str]] = []
        for text in texts:
            # All but the newline begin with "<", and most texts have none.
            tokens = self._special.findall(text) if self.newline or "<" in text else []
            plain.extend(self._special.split(text) if tokens else (text,))
            found.append(tokens)
        encoded = iter(self._pieces.EncodeAsNumpy(plain, num_threads=threads) if plain else [])
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


def train_vocabulary(
    texts: Iterable[str],
    size: int,
    output: str | Path,
    *,
    character_coverage: float = 0.9995,
) -> Vocabulary:
    """Trains a unigram model with byte fallback and writes it; same texts, same file.

    Args:
      texts: documents; they are cut at newlines, and longer lines near a space.
      size: number of pieces, the 3 control and 256 byte pieces included.
      output: the `.model` file.
      character_coverage: share of the characters that get a piece; the rest falls back to bytes.

    Raises:
      UserError: the texts are too small for the size, the size is too small for the characters, or
        `output` is there already and holds something else.
    """
    model = io.BytesIO()
    failures: list[BaseException] = []  # The trainer is C++ and makes a RuntimeError of each.

    def sentences() -> Iterator[str]:
        try:
            yield from _sentences(texts)
        except BaseException as error:
            failures.append(error)
            raise

    sentencepiece.set_random_generator_seed(0)
    sentencepiece.set_min_log_level(2)
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=sentences(),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            character_coverage=character_coverage,
            byte_fallback=True,
            pad_id=SpecialIds.pad_id,
            eos_id=SpecialIds.eos_id,
            unk_id=SpecialIds.unk_id,
            bos_id=-1,
            pad_piece="<pad>",
            eos_piece="</s>",
            unk_piece="<unk>",
            input_sentence_size=TRAINING_SENTENCES,
            shuffle_input_sentence=True,
            num_threads=TRAINING_THREADS,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        if failures:
            raise failures[0] from None
        raise UserError(f"no vocabulary of {size} pieces: {_reason(error)}") from error
    output = Path(output)
    if output.exists() and output.read_bytes() != model.getvalue():
        raise UserError(f"{output} is there already and differs; remove it or choose another.")
    write_atomically(output, model.getvalue())
    return Vocabulary(output)


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Lines of at most `_SENTENCE_CHARACTERS` characters."""
    for text in texts:
        for line in text.splitlines():
            while len(line) > _SENTENCE_CHARACTERS:
                end = line.rfind(" ", 1, _SENTENCE_CHARACTERS)
                end = end if end > 0 else _SENTENCE_CHARACTERS
                yield line[:end]
                line = line[end:]
            if line:
                yield line


def _reason(error: Exception) -> str:
    """What the trainer's complaint means."""
    text = str(error)
    if most := re.search(r"set it to a value <= (\d+)", text):
        return f"the texts give at most {most[1]}; give more text or a smaller size."
    if least := re.search(r"smaller than required_chars\D*(\d+) vs (\d+)", text):
        return f"the characters of the texts alone need {least[2]}; give a larger size."
    if not text or "sentences_.empty()" in text:
        return "there is no text."
    return f"sentencepiece says {text.splitlines()[0]}"
