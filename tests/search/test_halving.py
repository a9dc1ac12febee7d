"""Halving: the better half goes on, twice as long."""

from __future__ import annotations

import pytest

from openba_jax.search.halving import halve, schedule


def test_the_better_half_goes_on() -> None:
    calls: list[tuple[str, int]] = []
    left: list[str] = []
    talent = {"a": 4.0, "b": 1.0, "c": 3.0, "d": 2.0, "e": 5.0}

    def train(name: str, steps: int) -> float:
        calls.append((name, steps))
        return talent[name] - steps / 1000

    rounds = halve(list(talent), 10, train, left.append)
    assert calls == [
        *((name, 10) for name in "abcde"),
        *((name, 20) for name in "bdc"),
        *((name, 40) for name in "bd"),
    ]
    assert left == ["a", "e", "c"]
    assert [each.steps for each in rounds] == [10, 20, 40]
    assert min(rounds[-1].losses, key=rounds[-1].losses.get) == "b"


@pytest.mark.parametrize(
    ("count", "rounds"),
    [
        (1, [(1, 5)]),
        (2, [(2, 5)]),
        (3, [(3, 5), (2, 10)]),
        (8, [(8, 5), (4, 10), (2, 20)]),
    ],
)
def test_rounds(count: int, rounds: list[tuple[int, int]]) -> None:
    assert schedule(count, 5) == rounds
