"""D-UL2: the rule by which the rates of the denoisers follow their losses.

After pruning, some denoisers are farther from the losses of the model before than others; at every
evaluation the rule gives those more of the training. It is a pure function: the rates are all the
state there is, so a checkpoint of the rates is enough to go on exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from openba_jax.errors import UserError

INITIAL_RATES = (0.02, 0.02, 0.8, 0.1, 0.02, 0.02, 0.02)
"""Where the published code starts, in the order of `ul2.DENOISERS`."""

TARGET_LOSSES = (1.154, 1.594, 2.106, 1.298, 1.723, 2.151, 2.151)
"""The published target losses, in the order of `ul2.DENOISERS`: those of the 15B model."""


@dataclasses.dataclass(frozen=True)
class RateRule:
    """`(rates, losses, targets) -> rates`: `p exp(learning_rate (loss - target))`, smoothed.

    Attributes:
      clamp: a denoiser that is better than its target counts as if it had just reached it, as the
        paper's algorithm says; the published code lets it lose rate for that.
      shared_noise: the S-denoiser draws its noise with the number that chose it, as in the
        published code, so that at most rates it never uses its whole range.
      learning_rate: 1 in the original.
      smoothing: share of the rates that is spread evenly, 1e-4 in the original.
      floor: no rate falls below this; the original has no such bound but the smoothing.
    """

    clamp: bool
    shared_noise: bool
    learning_rate: float = 1.0
    smoothing: float = 1e-4
    floor: float = 0.0

    def __call__(
        self, rates: Sequence[float], losses: Sequence[float], targets: Sequence[float]
    ) -> tuple[float, ...]:
        """The next rates.

        Args:
          rates: present ones, not negative; they are divided by their sum.
          losses: of each denoiser, in nats per target token.
          targets: the losses aimed at.

        Returns:
          Rates that sum to 1, computed in float32 and summed in float64 as the original does.

        Raises:
          UserError: The numbers of rates, losses and targets differ.
          UserError: A loss or target is not finite.
          UserError: The floor is negative, or too high for so many rates.
        """
        present, losses32, targets32 = (
            np.asarray(numbers, np.float32) for numbers in (rates, losses, targets)
        )
        if not len(present) == len(losses32) == len(targets32):
            raise UserError(
                f"D-UL2 has {len(present)} rates, {len(losses32)} losses and {len(targets32)} "
                "target losses; it needs one of each per denoiser."
            )
        if not (np.isfinite(losses32).all() and np.isfinite(targets32).all()):
            raise UserError(
                f"D-UL2 needs finite losses and targets; it got {list(losses)} and {list(targets)}."
            )
        if not 0 <= self.floor * len(present) < 1:
            raise UserError(
                f"the D-UL2 floor is {self.floor}; for {len(present)} denoisers it must be at "
                f"least 0 and below {1 / len(present):.4f}."
            )
        excess = losses32 - targets32
        if self.clamp:
            excess = np.maximum(excess, 0)
        with np.errstate(divide="ignore"):  # A rate of 0 has the logarithm -inf, and stays at 0.
            scores = np.log(present / present.sum()) + np.float32(self.learning_rate) * excess
        weights = np.exp(scores - scores.max())
        weights = weights / weights.sum()
        smoothed = (1 - self.smoothing) * weights + np.float32(self.smoothing / len(weights))
        moved = smoothed.astype(np.float64)
        return tuple(map(float, _at_least(moved / moved.sum(), self.floor)))


def _at_least(rates: np.ndarray, floor: float) -> np.ndarray:
    """Lifts rates to a floor; the others pay for it in proportion."""
    low = rates < floor
    while low.any():
        rates = np.where(low, floor, rates * (1 - floor * low.sum()) / rates[~low].sum())
        if not (rates < floor).any():
            break
        low |= rates < floor
    return rates
