"""Where the special tokens of an OpenBA vocabulary lie."""

from __future__ import annotations

from openba_jax.models.padding import padded_vocab_size

SENTINELS = 100
"""How many `<extra_id_k>` there are."""


class SpecialIds:
    """The ids that follow from the number of sentencepiece pieces, P.

    `<pad>` 0 (also the decoder's start), `</s>` 1, `<unk>` 2; `<extra_id_99>` .. `<extra_id_0>` are
    P .. P+99, then `<R>`, `<S>`, `<X>`, and for V2's training data a newline token.

    Attributes:
      piece_count: P.
      newline: whether `"\\n"` is a token of its own, P+103.
    """

    pad_id = 0
    eos_id = 1
    unk_id = 2

    def __init__(self, piece_count: int, newline: bool = False) -> None:
        """Takes P and the newline switch."""
        self.piece_count = piece_count
        self.newline = newline

    def sentinel(self, k: int) -> int:
        """The id of `<extra_id_k>`; the first span of a text gets `<extra_id_0>`, the largest id.

        Raises:
          ValueError: `k` is not between 0 and 99.
        """
        if not 0 <= k < SENTINELS:
            raise ValueError(f"<extra_id_{k}> does not exist; k runs from 0 to {SENTINELS - 1}.")
        return self.piece_count + SENTINELS - 1 - k

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
        tokens = {"<pad>": self.pad_id, "</s>": self.eos_id, "<unk>": self.unk_id}
        tokens |= {f"<extra_id_{k}>": self.sentinel(k) for k in range(SENTINELS)}
        tokens |= {"<R>": self.r_id, "<S>": self.s_id, "<X>": self.x_id}
        if self.newline:
            tokens["\n"] = self.token_count - 1
        return tokens
