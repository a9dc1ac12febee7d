"""`OpenBAVocabulary`: `openba_jax.data.vocabulary.Vocabulary` for seqio, with the same ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from openba_jax.data.vocabulary import Vocabulary
from openba_jax.seqio.settings import data_files


class OpenBAVocabulary(seqio.Vocabulary):
    """A sentencepiece model with OpenBA's special tokens.

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
          UserError: the file is not named, missing or no sentencepiece model.
        """
        if self._loaded is None:
            settings = data_files()
            path = self._path or settings.require_vocabulary()
            newline = settings.newline if self._newline is None else self._newline
            self._loaded = Vocabulary(path, newline=newline)
        return self._loaded

    @property
    def bos_id(self) -> int:
        """The decoder's start, 0."""
        return Vocabulary.pad_id

    @property
    def eos_id(self) -> int:
        """`</s>`."""
        return Vocabulary.eos_id

    @property
    def unk_id(self) -> int:
        """`<unk>`."""
        return Vocabulary.unk_id

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
