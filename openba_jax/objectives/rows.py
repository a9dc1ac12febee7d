"""`Rows`: token sequences of different lengths as one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["spans", "instructions"]
"""Pairs of a token store: groups of text, which have no target, or instructions."""

Side = Literal["source", "target"]
"""Which sequence of an example; groups of text are sources without a target."""


class Rows(NamedTuple):
    """Sequences of ids.

    Attributes:
      ids: int32 `[n, width]`; what lies behind a row's length is 0.
      lengths: int64 `[n]`.
    """

    ids: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int] | np.ndarray]) -> Rows:
        """Puts sequences side by side."""
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        ids = np.zeros((len(sequences), int(lengths.max(initial=0))), np.int32)
        for row, sequence in zip(ids, sequences, strict=True):
            row[: len(sequence)] = sequence
        return cls(ids, lengths)

    def cut(self, length: int) -> Rows:
        """The first `length` ids of each row."""
        if self.ids.shape[1] <= length:
            return self
        return Rows(self.ids[:, :length], np.minimum(self.lengths, length))

    def valid(self) -> np.ndarray:
        """Where there is a token: bool `[n, width]`."""
        return np.arange(self.ids.shape[1]) < self.lengths[:, None]
