import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from openba_jax.data.permutation import permute
from openba_jax.objectives import counter_random


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**60))
def test_every_key_names_a_permutation(n, seed):
    order = permute(np.arange(n), n, counter_random.key(seed))
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize("n", [2**31 - 1, 2**40 + 7])
def test_large_sets_cost_no_more(n):
    positions = np.arange(n - 1000, n)
    order = permute(positions, n, counter_random.key(3))
    assert len(set(order.tolist())) == 1000
    assert 0 <= order.min() <= order.max() < n


def test_one_key_per_position():
    keys = counter_random.key(5, np.arange(20) // 10)
    mixed = permute(np.arange(20) % 10, 10, keys)
    for half in range(2):
        alone = permute(np.arange(10), 10, keys[half * 10])
        np.testing.assert_array_equal(mixed[half * 10 : half * 10 + 10], alone)


@pytest.mark.parametrize(("n", "degrees"), [(4, 23), (70, 70 * 69 - 1)])
def test_orders_are_equally_likely(n, degrees):
    """All orders of 4; of 70 what the first two become."""
    seeds = 24_000
    keys = counter_random.key(np.arange(seeds))
    shown = min(n, 4) if n == 4 else 2
    results = np.stack([permute(np.full(seeds, i), n, keys) for i in range(shown)])
    _, times = np.unique(n ** np.arange(shown) @ results, return_counts=True)
    expected = seeds / (degrees + 1)
    missing = degrees + 1 - len(times)
    chi_squared = ((times - expected) ** 2 / expected).sum() + missing * expected
    assert abs(chi_squared - degrees) < 5 * np.sqrt(2 * degrees)
