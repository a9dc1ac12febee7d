"""Successive halving: all are trained a little, the better half twice as long, and so on.

Jamieson and Talwalkar 2016, arXiv:1502.07943. What goes on is not begun anew: steps are counted
from the cut, and all are on the same schedule of the learning rate, that of the longest training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Round(NamedTuple):
    """What a round found.

    Attributes:
      steps: of training since the cut.
      losses: after so many, by name.
    """

    steps: int
    losses: dict[str, float]


def schedule(count: int, steps: int) -> list[tuple[int, int]]:
    """How many take part in each round, and to which step they are trained.

    Args:
      count: how many there are at the beginning.
      steps: of the first round.
    """
    rounds = [(count, steps)]
    while rounds[-1][0] > 2:
        count, steps = (rounds[-1][0] + 1) // 2, 2 * steps
        rounds.append((count, steps))
    return rounds


def halve(
    names: Sequence[str],
    steps: int,
    train: Callable[[str, int], float],
    leave: Callable[[str], None] = lambda name: None,
) -> list[Round]:
    """Trains and halves until two are left, which are trained as long as each other.

    Args:
      names: of all that take part; of equal losses the earlier name is the better.
      steps: of the first round.
      train: trains what has a name up to a step, and returns its loss.
      leave: is told the name of what goes no further.

    Returns:
      The rounds, in order.
    """
    rounds: list[Round] = []
    left = list(names)
    for count, until in schedule(len(names), steps):
        for name in left[count:]:
            leave(name)
        left = left[:count]
        rounds.append(Round(until, {name: train(name, until) for name in left}))
        left.sort(key=lambda name: rounds[-1].losses[name])
    return rounds
