"""How many rows an embedding has; without JAX, for workers that prepare text."""

from __future__ import annotations

VOCABULARY_MULTIPLE = 128
"""The rows of the embedding are padded to a multiple of this."""


def padded_vocab_size(tokens: int) -> int:
    """`tokens` rounded up to a multiple of `VOCABULARY_MULTIPLE`."""
    return -(-tokens // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
