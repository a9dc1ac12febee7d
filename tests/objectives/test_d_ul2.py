"""The rule of D-UL2 against the original's, its presets and its floor."""

import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from openba_jax.errors import UserError
from openba_jax.objectives import counter_random, d_ul2
from openba_jax.objectives.d_ul2 import RateRule
from openba_jax.objectives.mixture import UL2_TASKS, get_mixture

GOLDEN = json.loads((Path(__file__).parent / "golden" / "d_ul2_updates.json").read_text())
CODE, PAPER = get_mixture("d_ul2_code"), get_mixture("d_ul2_paper")
NAMES = [task.name for task in UL2_TASKS]

losses = st.lists(st.floats(0, 12), min_size=7, max_size=7)
rates = st.lists(st.floats(1e-5, 1), min_size=7, max_size=7)


@pytest.mark.parametrize("pair", GOLDEN["pairs"], ids=lambda pair: pair["kind"])
def test_updates_of_the_original(pair):
    moved = CODE.rule(pair["current_prop"], pair["losses"], GOLDEN["target_loss"])
    np.testing.assert_allclose(moved, pair["new_prop"], rtol=0, atol=1e-6)


def test_published_numbers():
    assert list(d_ul2.TARGET_LOSSES) == GOLDEN["target_loss"]
    assert list(d_ul2.INITIAL_RATES) == GOLDEN["initial"] == list(CODE.rates) == list(PAPER.rates)
    assert (CODE.rule.clamp, CODE.rule.shared_noise) == (False, True)
    assert (PAPER.rule.clamp, PAPER.rule.shared_noise) == (True, False)


@settings(max_examples=100)
@given(rates, losses, st.floats(0, 0.14), st.booleans())
def test_floor_and_sum(present, measured, floor, clamp):
    rule = RateRule(clamp=clamp, shared_noise=False, floor=floor)
    moved = np.array(rule(present, measured, d_ul2.TARGET_LOSSES))
    assert moved.sum() == pytest.approx(1, abs=1e-9)
    assert moved.min() >= min(floor, 1e-5) - 1e-9
    assert moved.min() >= floor - 1e-9


def test_the_floor_is_paid_in_proportion():
    starving = [2.0, 2.0, 9.0, 2.0, 2.0, 2.0, 2.0]
    free = RateRule(True, False)(PAPER.rates, starving, d_ul2.TARGET_LOSSES)
    held = RateRule(True, False, floor=0.05)(PAPER.rates, starving, d_ul2.TARGET_LOSSES)
    assert min(free) < 0.001
    assert held == pytest.approx([0.05, 0.05, 0.7, 0.05, 0.05, 0.05, 0.05])


def test_without_a_clamp_the_better_ones_lose():
    targets = [2.0] * 7
    measured = [1.0, *[2.0] * 6]
    even = [1 / 7] * 7
    assert PAPER.rule(even, measured, targets) == pytest.approx(even)
    assert CODE.rule(even, measured, targets)[0] < 0.07


def test_instructions_keep_their_share():
    mixture = get_mixture("d_ul2_paper_flan")
    measured = dict(zip(NAMES, [3.0, *d_ul2.TARGET_LOSSES[1:]], strict=True))
    targets = dict(zip(NAMES, d_ul2.TARGET_LOSSES, strict=True))
    moved = mixture.moved_rates(mixture.rates, measured, targets)
    assert moved[-1] == mixture.rates[-1]
    alone = PAPER.moved_rates(PAPER.rates, measured, targets)
    np.testing.assert_allclose(moved[:-1], alone, atol=1e-7)
    assert moved[0] > mixture.rates[0]


def test_published_sharing_of_the_random_number():
    """At the first rates, S hides 6 to 120 of 568 tokens; evaluated alone, 1 to 142."""
    keys = counter_random.key(0, np.arange(20_000))
    lengths = np.full(len(keys), 568)

    def hidden(mixture, at):
        task = mixture.tasks_at(at)[2]
        return task.objective.mask(lengths, 568, keys).sum(axis=1)

    shared = hidden(CODE, CODE.rates)
    assert (shared.min(), shared.max()) == (6, 120)
    assert shared.mean() == pytest.approx(62.5, abs=0.5)
    for numbers in (hidden(CODE, [0, 0, 1, 0, 0, 0, 0]), hidden(PAPER, PAPER.rates)):
        assert (numbers.min(), numbers.max()) == (1, 142)
    with_flan = get_mixture("d_ul2_code_flan")
    np.testing.assert_array_equal(hidden(with_flan, with_flan.rates), shared)


def test_mistakes():
    targets = dict(zip(NAMES, d_ul2.TARGET_LOSSES, strict=True))
    with pytest.raises(UserError, match="no target loss for ul2_s of d_ul2_code"):
        CODE.moved_rates(
            CODE.rates, targets, {name: loss for name, loss in targets.items() if name != "ul2_s"}
        )
    with pytest.raises(UserError, match="rates of mixture ul2 are fixed"):
        get_mixture("ul2").moved_rates([1.0] * 7, targets, targets)
    with pytest.raises(UserError, match="finite"):
        CODE.rule([0.5, 0.5], [1.0, float("nan")], [1.0, 1.0])
    with pytest.raises(UserError, match="2 rates, 3 losses"):
        CODE.rule([0.5, 0.5], [1.0] * 3, [1.0] * 2)
    with pytest.raises(UserError, match=r"floor is 0\.5"):
        RateRule(False, False, floor=0.5)([0.5, 0.5], [1.0, 1.0], [1.0, 1.0])
