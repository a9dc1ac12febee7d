"""Least squares for a projection that reads less than it did.

With inputs X of the whole model and Z of the cut one, row by row for the same tokens, a projection
Y = X W is fitted anew as Z V, where V minimises |Z V - Y|^2 + r |V - V0|^2: V0 is what the cut left
of W, so that directions in which the text says nothing stay as they were (OBC's reconstruction,
Frantar and Alistarh 2022, arXiv:2208.11580, with a prior). With a bias, means are fitted, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass
class Moments:
    """Sums over tokens, float64.

    Attributes:
      count: of tokens.
      cut: Z'Z, `[cut, cut]`.
      cross: Z'X, `[cut, whole]`.
      whole: X'X, `[whole, whole]`.
      cut_sum: of Z, `[cut]`.
      whole_sum: of X, `[whole]`.
    """

    count: float
    cut: np.ndarray
    cross: np.ndarray
    whole: np.ndarray
    cut_sum: np.ndarray
    whole_sum: np.ndarray

    @classmethod
    def summed(cls, sums: Iterable[Sequence[Any]]) -> Moments:
        """The sums of several batches, each as float32 fields in their order."""
        parts: list[Any] = [
            np.sum(part, axis=0, dtype=np.float64) for part in zip(*sums, strict=True)
        ]
        return cls(*parts)

    def centred(self) -> Moments:
        """The same about the means."""
        z, x, n = self.cut_sum, self.whole_sum, max(self.count, 1.0)
        return Moments(
            self.count,
            self.cut - np.outer(z, z) / n,
            self.cross - np.outer(z, x) / n,
            self.whole - np.outer(x, x) / n,
            np.zeros_like(z),
            np.zeros_like(x),
        )


@dataclasses.dataclass(frozen=True)
class Fit:
    """A projection that was fitted.

    Attributes:
      kernel: `[cut, out]`.
      shift: what is added to the bias, `[out]`; zero without one.
      before: squared error of the outputs as the cut left them, over all tokens.
      after: the same after the fit.
      scale: sum of squares of the outputs themselves.
    """

    kernel: np.ndarray
    shift: np.ndarray
    before: float
    after: float
    scale: float


def fit(
    moments: Moments,
    target: np.ndarray,
    start: np.ndarray,
    *,
    ridge: float,
    has_bias: bool,
    only_bias: bool = False,
) -> Fit:
    """Fits a projection.

    Args:
      moments: of what it reads.
      target: `[whole, out]`, the kernel of the whole model, without the outputs that are cut.
      start: `[cut, out]`, what the cut left of it.
      ridge: r, as a share of the mean of the diagonal of Z'Z.
      has_bias: whether the projection has a bias.
      only_bias: leave the kernel as it is.
    """
    target, start = target.astype(np.float64), start.astype(np.float64)
    used = moments.centred() if has_bias else moments
    kernel = start
    if not only_bias:
        strength = max(ridge * float(np.trace(used.cut)) / len(used.cut), np.finfo(float).tiny)
        system = used.cut + strength * np.eye(len(used.cut))
        kernel = start + np.linalg.solve(system, used.cross @ target - used.cut @ start)
    shift = np.zeros(target.shape[1])
    if has_bias:
        n = max(moments.count, 1.0)
        shift = (moments.whole_sum @ target - moments.cut_sum @ kernel) / n

    def error(of: Moments, kernel: np.ndarray) -> float:
        quadratic = np.sum(kernel * (of.cut @ kernel)) - 2 * np.sum(kernel * (of.cross @ target))
        return float(quadratic + np.sum(target * (of.whole @ target)))

    scale = float(np.sum(target * (moments.whole @ target)))
    return Fit(kernel, shift, error(moments, start), error(used, kernel), scale)
