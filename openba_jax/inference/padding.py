"""Rows of ids as arrays of few shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LENGTH_MULTIPLE = 128
"""Lengths of prompts, questions and answers are padded to multiples of this."""


def fitting_length(rows: Sequence[Sequence[int]], limit: int) -> int:
    """A length for all rows: the longest, rounded up so that few shapes are compiled, within limit.

    Args:
      rows: rows of ids, none longer than `limit`.
      limit: the largest length.
    """
    longest = max(map(len, rows), default=0)
    return min(limit, -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE)


def pad_rows(rows: Sequence[Sequence[int]], length: int, padding: int = 0) -> np.ndarray:
    """Rows of ids as int32 `[len(rows), length]`, padded on the right, cut at `length`."""
    padded = np.full((len(rows), length), padding, np.int32)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids[:length]
    return padded
