"""`TokenRows`: token sequences of different lengths as one array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["text", "instructions"]
"""Pairs of a token store: groups of text, which have no target, or instructions."""

STREAM_NAMES: Mapping[Kind, str] = {"text": "spans", "instructions": "instructions"}
"""What the random order of each kind is seeded with.

Text keeps the name that the kind had before, so that a run that resumes meets the same examples.
"""

Side = Literal["source", "target"]
"""Which sequence of an example; groups of text are sources without a target."""


class TokenRows(NamedTuple):
    """Sequences of ids.

    Attributes:
      ids: int32 `[n, width]`; what lies behind a row's length is 0.
      lengths: int64 `[n]`.
    """

    ids: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int] | np.ndarray]) -> TokenRows:
        """Puts sequences side by side."""
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        ids = np.zeros((len(sequences), max(map(len, sequences), default=0)), np.int32)
        for row, sequence in zip(ids, sequences, strict=True):
            row[: len(sequence)] = sequence
        return cls(ids, lengths)

    def cut(self, length: int) -> TokenRows:
        """The first `length` ids of each row."""
        if self.ids.shape[1] <= length:
            return self
        return TokenRows(self.ids[:, :length], np.minimum(self.lengths, length))

    def valid(self) -> np.ndarray:
        """Where there is a token: bool `[n, width]`."""
        return np.arange(self.ids.shape[1]) < self.lengths[:, None]
