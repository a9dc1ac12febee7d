"""What objectives ask of a vocabulary, and where the special tokens of OpenBA's lie."""

from __future__ import annotations

import functools

import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.padding import padded_vocab_size

SENTINELS = 100
"""How many `<extra_id_k>` there are."""


class SpecialIds:
    """The ids that objectives put around and between the tokens of a text.

    A vocabulary without sentinels or prefixes keeps what stands here: whoever asks for them is
    refused.

    Attributes:
      pad_id: what rows are filled up with.
      eos_id: the end of a text.
      bos_id: the beginning of a text, or None.
      adds_bos: whether texts begin with `bos_id`.
      size: ids are below it.
    """

    pad_id: int
    eos_id: int
    bos_id: int | None = None
    adds_bos: bool = False

    @property
    def size(self) -> int:
        """The rows that an embedding needs."""
        raise NotImplementedError

    @property
    def sentinels(self) -> np.ndarray:
        """The ids of the sentinels, the first span's first: int32 `[count]`.

        Raises:
          UserError: The vocabulary has none.
        """
        raise self._no_sentinels()

    @property
    def r_id(self) -> int:
        """The id of `<R>`, the prefix of regular denoising; a `UserError` if there is none."""
        raise self._no_prefix("R")

    @property
    def s_id(self) -> int:
        """The id of `<S>`, of sequential denoising and instructions; as `r_id`."""
        raise self._no_prefix("S")

    @property
    def x_id(self) -> int:
        """The id of `<X>`, the prefix of extreme denoising; as `r_id`."""
        raise self._no_prefix("X")

    def sentinel(self, k: int) -> int:
        """The id of `<extra_id_k>`, which stands for the span number `k` of a text.

        Raises:
          UserError: The vocabulary has no sentinels.
          ValueError: It has fewer than `k + 1`.
        """
        ids = self.sentinels
        if not 0 <= k < len(ids):
            raise ValueError(f"<extra_id_{k}> does not exist; k runs from 0 to {len(ids) - 1}.")
        return int(ids[k])

    def _no_sentinels(self) -> UserError:
        return UserError(
            f"{self} has no sentinels, which denoising puts for spans; name tokens for them as "
            '"sentinels" in the settings beside the tokenizer, or choose another objective.'
        )

    def _no_prefix(self, name: str) -> UserError:
        return UserError(
            f"{self} has no token for the prefix <{name}>; name one under "
            '"prefixes" in the settings beside the tokenizer, or choose an objective without it.'
        )


class OpenBAIds(SpecialIds):
    """The ids that follow from the number of sentencepiece pieces, P.

    `<pad>` 0 (also the decoder's start), `</s>` 1, `<unk>` 2; `<extra_id_99>` .. `<extra_id_0>` are
    P .. P+99, then `<R>`, `<S>`, `<X>`, and for V2's training data a newline token.

    Attributes:
      piece_count: P.
      newline: whether `"\\n"` is a token of its own, P+103.
    """

    pad_id = 0
    eos_id = 1
    unk_id: int | None = 2

    def __init__(self, piece_count: int, newline: bool = False) -> None:
        """Takes P and the newline switch."""
        self.piece_count = piece_count
        self.newline = newline

    @functools.cached_property
    def sentinels(self) -> np.ndarray:
        """The ids of `<extra_id_0>`, the largest, to `<extra_id_99>`: int32 `[100]`."""
        return np.arange(SENTINELS - 1, -1, -1, dtype=np.int32) + np.int32(self.piece_count)

    @property
    def r_id(self) -> int:
        """The id of `<R>`, the prefix of regular denoising."""
        return self.piece_count + SENTINELS

    @property
    def s_id(self) -> int:
        """The id of `<S>`, the prefix of sequential denoising and of instructions."""
        return self.piece_count + SENTINELS + 1

    @property
    def x_id(self) -> int:
        """The id of `<X>`, the prefix of extreme denoising."""
        return self.piece_count + SENTINELS + 2

    @property
    def token_count(self) -> int:
        """Ids in use: pieces, sentinels, prefixes and, if it is one, the newline."""
        return self.piece_count + SENTINELS + 3 + int(self.newline)

    @property
    def size(self) -> int:
        """`token_count` padded: the rows that an embedding needs."""
        return padded_vocab_size(self.token_count)

    def special_tokens(self) -> dict[str, int]:
        """The strings that stand for one id wherever they occur in a text."""
        tokens = {"<pad>": 0, "</s>": 1, "<unk>": 2}
        tokens |= {f"<extra_id_{k}>": i for k, i in enumerate(self.sentinels.tolist())}
        tokens |= {"<R>": self.r_id, "<S>": self.s_id, "<X>": self.x_id}
        if self.newline:
            tokens["\n"] = self.token_count - 1
        return tokens
