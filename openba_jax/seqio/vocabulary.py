"""`OpenBAVocabulary`: a vocabulary of `data.vocabularies` for seqio, with the same ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.errors import UserError
from openba_jax.objectives.special_ids import OpenBAIds
from openba_jax.seqio.settings import data_files


class OpenBAVocabulary(seqio.Vocabulary):
    """A tokenizer whose padding and end have the ids 0 and 1, as OpenBA's and T5's.

    T5X compares the vocabularies of model and task: two are equal if they have the same pieces. The
    file is read when it is first needed, and again after copying or pickling.
    """

    def __init__(self, path: str | None = None, newline: bool | None = None) -> None:
        """Names the model file.

        Args:
          path: the `.model` file; by default that of `openba_jax.seqio.settings`.
          newline: the newline is a token of its own; by default as these settings say.
        """
        super().__init__(extra_ids=0)
        self._path = path
        self._newline = newline
        self._loaded: Vocabulary | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary behind.

        Raises:
          UserError: the file is not named, missing or no tokenizer, or has other ids for padding
            and end.
        """
        if self._loaded is None:
            settings = data_files()
            path = self._path or settings.require_vocabulary()
            newline = settings.newline if self._newline is None else self._newline
            loaded = open_vocabulary(path, newline=newline)
            if (loaded.pad_id, loaded.eos_id) != (OpenBAIds.pad_id, OpenBAIds.eos_id):
                raise UserError(
                    f"{loaded} has padding and end at {(loaded.pad_id, loaded.eos_id)}, and T5X "
                    "needs them at (0, 1); train with the native runner."
                )
            self._loaded = loaded
        return self._loaded

    @property
    def bos_id(self) -> int:
        """The decoder's start, 0."""
        return OpenBAIds.pad_id

    @property
    def eos_id(self) -> int:
        """`</s>`."""
        return OpenBAIds.eos_id

    @property
    def unk_id(self) -> int:
        """`<unk>`."""
        return 2

    @property
    def _base_vocab_size(self) -> int:
        return self.vocabulary.token_count

    def _encode(self, s: str) -> Sequence[int]:
        return self.vocabulary.encode(s, parse_special=True)

    def _decode(self, ids: Iterable[int]) -> str:
        return self.vocabulary.decode(ids, skip_special_tokens=True)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: Any) -> np.ndarray:
            text = np.asarray(text, object).item()  # Eagerly it comes as an array.
            return np.array(self._encode(text.decode("utf-8")), np.int32)

        ids = tf.numpy_function(encode, [s], tf.int32)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(rows: np.ndarray) -> np.ndarray:
            texts = [self._decode(row).encode("utf-8") for row in rows.reshape(-1, rows.shape[-1])]
            return np.array(texts, object).reshape(rows.shape[:-1])

        texts = tf.numpy_function(decode, [ids], tf.string)
        texts.set_shape(ids.shape[:-1])
        return texts

    def __eq__(self, other: object) -> bool:
        """Whether both give the same ids."""
        if not isinstance(other, OpenBAVocabulary):
            return False
        if (self._path, self._newline) == (other._path, other._newline):
            return True
        mine, theirs = self.vocabulary, other.vocabulary
        return (mine.fingerprint, mine.newline) == (theirs.fingerprint, theirs.newline)

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the loaded model out."""
        return {**self.__dict__, "_loaded": None}

    def __str__(self) -> str:
        """Class and arguments."""
        return f"OpenBAVocabulary(path={self._path}, newline={self._newline})"
