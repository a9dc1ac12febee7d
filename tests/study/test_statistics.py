"""Intervals: against published quantiles, and by how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from openba_jax.evaluation.score import Score
from openba_jax.study.statistics import mean, paired, ratio, student_t, wilson


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    # NIST/SEMATECH e-Handbook of Statistical Methods, table 1.3.6.7.2.
    [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042), (40, 2.021), (100, 1.984)],
)
def test_quantiles_are_the_published_ones(degrees: int, quantile: float) -> None:
    assert student_t(degrees) == pytest.approx(quantile, abs=5e-4)


def test_quantiles_go_on_where_the_table_ends() -> None:
    steps = np.diff([student_t(degrees) for degrees in range(1, 60)])
    assert np.all(steps < 0)
    assert np.all(np.diff(steps) > -1e-9)


def test_95_of_100_intervals_hold_the_mean() -> None:
    rng = np.random.default_rng(0)
    held = [not mean(list(rng.normal(3.0, 2.0, size=5))).excludes(3.0) for _ in range(4000)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)


def test_one_value_has_no_interval() -> None:
    alone = mean([0.5])
    assert (alone.value, alone.low, alone.high, alone.seeds) == (0.5, None, None, 1)
    assert not alone.excludes(7.0)


def test_what_a_seed_does_to_both_falls_out_of_the_difference() -> None:
    baseline = {0: 1.0, 1: 2.0, 2: 3.0}
    difference = paired({0: 0.9, 1: 1.9, 2: 2.9, 7: 9.0}, baseline)
    assert difference is not None
    assert difference.value == pytest.approx(-0.1)
    assert difference.seeds == 3
    assert difference.excludes(0)
    assert paired({7: 1.0}, baseline) is None


def test_ratios_are_averaged_on_a_logarithmic_scale() -> None:
    found = ratio([0.5, 2.0], [1.0, 1.0])
    assert found is not None
    assert found.mean is not None
    assert found.mean.value == pytest.approx(1.0)
    assert math.log(found.mean.high) == pytest.approx(-math.log(found.mean.low))


def test_a_loss_that_some_seeds_do_not_reach_has_a_bound_and_no_interval() -> None:
    found = ratio([0.5, None], [1.0, 2.0])
    assert found is not None
    assert found.mean is None
    assert (found.reached, found.seeds) == (1, 2)
    assert found.at_least == pytest.approx(1.0)
    assert ratio([], []) is None


def test_wilson_is_that_of_scores() -> None:
    assert wilson(0.3, 50) == pytest.approx(Score(15, 50, 0.25).interval)
