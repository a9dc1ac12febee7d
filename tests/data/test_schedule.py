import dataclasses
import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from openba_jax.data.schedule import Schedule

rates = st.lists(st.floats(0, 10), min_size=1, max_size=8).filter(lambda rates: sum(rates) > 0.01)


@settings(deadline=None, max_examples=60)
@given(rates=rates, seed=st.integers(0, 100), start=st.integers(0, 10**11))
def test_each_task_gets_its_share(rates, seed, start):
    schedule = Schedule(tuple(rates), start=start, seed=seed)
    positions = start + np.arange(3000)
    tasks = schedule.tasks_at(positions)
    shares = np.array(rates) / sum(rates)
    for task, share in enumerate(shares):
        had = np.cumsum(tasks == task)
        assert np.abs(had - share * np.arange(1, 3001)).max() <= len(rates)
        if share == 0:
            assert not had[-1]


@settings(deadline=None, max_examples=60)
@given(rates=rates, other=rates, far=st.integers(0, 10**9))
def test_counts_are_what_one_would_count(rates, other, far):
    """Also far from the start, and after a change of rates."""
    other = (other * 8)[: len(rates)]
    schedule = Schedule(tuple(rates))
    if sum(other) > 0:
        schedule = schedule.change(100, other)
    first = schedule.start + far
    positions = first + np.arange(50)
    counts = schedule.counts_before(positions)
    np.testing.assert_array_equal(counts.sum(axis=0), positions)
    turns = np.eye(len(rates), dtype=int)[schedule.tasks_at(positions)].T
    np.testing.assert_array_equal(np.diff(counts, axis=1), turns[:, :-1])


def test_a_change_carries_the_counts_on():
    before = Schedule((1.0, 1.0), seed=4)
    after = before.change(1001, (0.0, 1.0))
    np.testing.assert_array_equal(
        after.counts_before(np.array([1001])), before.counts_before(np.array([1001]))
    )
    assert (after.tasks_at(1001 + np.arange(100)) == 1).all()
    with pytest.raises(ValueError, match="starts at 1001"):
        after.tasks_at(np.array([1000]))


def test_state_survives_json():
    schedule = Schedule((0.3, 0.7), seed=2).change(77, (0.1, 0.9))
    assert Schedule(**json.loads(json.dumps(dataclasses.asdict(schedule)))) == schedule


def test_seeds_shift_the_turns():
    orders = {tuple(Schedule((1.0,) * 7, seed=s).tasks_at(np.arange(7))) for s in range(5)}
    assert len(orders) == 5
