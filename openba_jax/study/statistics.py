"""Means and intervals over seeds: what a difference is worth, and when it is worth nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from openba_jax.evaluation.score import Z

# fmt: off
_T = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157,
    2.228139, 2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922,
    2.093024, 2.085963, 2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831,
    2.048407, 2.045230, 2.042272,
)
# fmt: on
"""Student's t at 97.5%, for 1, 2, ... degrees of freedom."""


def student_t(degrees: int) -> float:
    """The 97.5% quantile of Student's t.

    Beyond the table by the expansion of Fisher and Cornish (1960) around the normal quantile, which
    is right to 6 digits there.

    Args:
      degrees: of freedom, at least 1.
    """
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = Z
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


class Mean(NamedTuple):
    """A mean and its 95% interval.

    Attributes:
      value: the mean.
      low: of the interval; None from a single value, of which no interval can be told.
      high: likewise.
      seeds: how many values.
    """

    value: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def unmoved(self) -> bool:
        """Whether several seeds gave one value, so that no interval can be told from them."""
        return self.seeds > 1 and self.low == self.high

    def excludes(self, value: float) -> bool:
        """Whether there is an interval, which seeds have made, and it does not hold a value."""
        if self.unmoved:
            return False
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def mean(values: Sequence[float]) -> Mean:
    """The mean of independent values, with the interval of Student's t."""
    middle, count = statistics.fmean(values), len(values)
    if count < 2:
        return Mean(middle, None, None, count)
    half = student_t(count - 1) * statistics.stdev(values) / math.sqrt(count)
    return Mean(middle, middle - half, middle + half, count)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Mean | None:
    """The mean difference to a baseline, seed by seed; None where no seed has both.

    What a seed does to both, such as easy batches, falls out of the difference.
    """
    both = sorted(set(values) & set(baseline))
    return mean([values[seed] - baseline[seed] for seed in both]) if both else None


class Ratio(NamedTuple):
    """Tokens until a loss is reached, as a share of the baseline's.

    Attributes:
      mean: the geometric mean and its interval; None unless all seeds reached the loss.
      at_least: where some did not, the geometric mean if those had reached it with their last
        token; None where all did.
      reached: seeds that did.
      seeds: how many.
    """

    mean: Mean | None
    at_least: float | None
    reached: int
    seeds: int


def ratio(shares: Sequence[float | None], bounds: Sequence[float]) -> Ratio | None:
    """Sums up shares of tokens.

    The mean is one of logarithms, since twice as many tokens and half as many are equally far from
    as many.

    Args:
      shares: for each seed tokens over the baseline's; None: not reached.
      bounds: for each seed all of its tokens over the baseline's.

    Returns:
      None without seeds.
    """
    if not shares:
        return None
    reached = [share for share in shares if share is not None]
    if len(reached) < len(shares):
        least = [
            math.log(_positive(bound if share is None else share))
            for share, bound in zip(shares, bounds, strict=True)
        ]
        return Ratio(None, math.exp(statistics.fmean(least)), len(reached), len(shares))
    logs = mean([math.log(_positive(share)) for share in reached])
    low = None if logs.low is None else math.exp(logs.low)
    high = None if logs.high is None else math.exp(logs.high)
    geometric = Mean(math.exp(logs.value), low, high, logs.seeds)
    return Ratio(geometric, None, len(reached), len(shares))


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share of independent questions, by Wilson (1927)."""
    spread = Z * Z / count
    half = Z * math.sqrt((share * (1 - share) + spread / 4) / count)
    middle = share + spread / 2
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def _positive(share: float) -> float:
    """A curve that begins below the loss has needed no token: a thousandth stands for none."""
    return max(share, 1e-3)
