"""After how many tokens a loss is reached: the figure that says what a recovery is worth."""

from __future__ import annotations

from collections.abc import Sequence

NEAR = 1.05
"""A loss counts as recovered when it is at most this multiple of the loss before the cut."""


def tokens_to_reach(
    tokens: Sequence[float], losses: Sequence[float], target: float
) -> float | None:
    """The tokens after which a curve first falls to a loss.

    Between two evaluations the curve is taken to be a line, so that the figure does not depend on
    where they happen to stand.

    Args:
      tokens: seen at each evaluation, ascending.
      losses: at each evaluation.
      target: the loss to reach.

    Returns:
      Tokens, 0 if the curve begins there; None if it never gets there.
    """
    before: tuple[float, float] | None = None
    for at, loss in zip(tokens, losses, strict=True):
        if loss <= target:
            if before is None:
                return float(at)
            started, higher = before
            return started + (at - started) * (higher - target) / (higher - loss)
        before = at, loss
    return None
