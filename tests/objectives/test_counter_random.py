import numpy as np

from openba_jax.objectives import counter_random


def test_stream_is_splitmix64():
    """The numbers of the published generator from seed 0 and from 1234567."""
    numbers = counter_random.draws(np.array([0, 1234567], np.uint64), 3)
    assert [hex(number) for number in numbers[0]] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]
    assert list(numbers[1]) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_keys_tell_their_parts_apart():
    parts = [(0,), (1,), (0, 0), (0, 1), (1, 0), ("a",), ("b",), (0, "a"), ("a", 0)]
    assert len({int(counter_random.key(*part)) for part in parts}) == len(parts)
    together = counter_random.key(5, "x", np.arange(4))
    assert [int(k) for k in together] == [int(counter_random.key(5, "x", i)) for i in range(4)]


def test_below_is_uniform():
    keys = counter_random.key(1, np.arange(60_000))
    counts = np.bincount(counter_random.below(keys, np.full(60_000, 6)))
    assert len(counts) == 6
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 25  # chi-squared, 5 degrees
    np.testing.assert_array_equal(counter_random.below(keys[:9], np.ones(9)), 0)
