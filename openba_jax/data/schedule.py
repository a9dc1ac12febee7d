"""`Schedule`: which task and which of its examples stands at a position of the training stream.

Tasks take turns in fixed proportion, as evenly as whole numbers allow, so that every stretch of the
stream holds each task's share to within one or two examples. How many examples each task has had
before position n is a short formula: any position can be looked up without those before it, and a
change of rates (D-UL2) needs no more memory than the counts at that point.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from openba_jax.objectives import counter_random

_ONE = 1 << 24
"""Rates are rounded to this fraction; positions up to 2 ** 39 then stay within int64."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The stream from position `start` on. JSON of its fields is all the state there is.

    Attributes:
      rates: one per task; only their ratios count.
      start: first position at which the rates hold.
      counts: examples that each task has had before `start`.
      seed: shifts the turns.
    """

    rates: tuple[float, ...]
    start: int = 0
    counts: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Fills in counts of 0, and makes tuples of what JSON made lists.

        Raises:
          ValueError: The rates differ in number from the counts, are negative, or sum to 0.
        """
        object.__setattr__(self, "rates", tuple(map(float, self.rates)))
        object.__setattr__(self, "counts", tuple(self.counts) or (0,) * len(self.rates))
        if len(self.counts) != len(self.rates) or min(self.rates) < 0 or not sum(self.rates) > 0:
            raise ValueError(f"rates {self.rates} do not fit {len(self.counts)} tasks.")

    def counts_before(self, positions: np.ndarray) -> np.ndarray:
        """Examples of each task before positions: int64 `[n]` -> int64 `[tasks, n]`.

        Raises:
          ValueError: A position lies before `start`.
        """
        rest = np.asarray(positions, np.int64) - self.start
        if rest.size and rest.min() < 0:
            raise ValueError(f"the schedule starts at {self.start}, after the position asked for.")
        counts = []
        for before, (share, phase) in zip(self.counts, _turns(self.rates, self.seed), strict=True):
            # Of the positions that no earlier task takes, this one takes an even share.
            taken = (rest * share + phase) // _ONE if share < _ONE else rest
            counts.append(before + taken)
            rest = rest - taken
        return np.stack(counts)

    def tasks_at(self, positions: np.ndarray) -> np.ndarray:
        """The task at each position: int64 `[n]` -> int64 `[n]`."""
        positions = np.asarray(positions, np.int64)
        return (self.counts_before(positions + 1) > self.counts_before(positions)).argmax(axis=0)

    def change(self, position: int, rates: Sequence[float]) -> Schedule:
        """The same stream with other rates from `position` on."""
        counts = self.counts_before(np.array([position]))[:, 0]
        return Schedule(tuple(rates), position, tuple(map(int, counts)), self.seed)


@functools.lru_cache(maxsize=64)
def _turns(rates: tuple[float, ...], seed: int) -> tuple[tuple[int, int], ...]:
    """Each task's share of what earlier tasks leave, and its phase, in units of 1 / `_ONE`."""
    turns = []
    for task, rate in enumerate(rates):
        remaining = sum(rates[task:])
        share = round(rate / remaining * _ONE) if remaining > 0 else 0
        turns.append((share, int(counter_random.key(seed, "phase", task)) % _ONE))
    return tuple(turns)
