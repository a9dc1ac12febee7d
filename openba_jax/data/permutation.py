"""A shuffled order that needs no memory: a bijection of `[0, n)` for every key.

A Feistel network permutes the numbers of as many bits as n needs; results of n and more are sent
through again until they fall below n ("cycle walking"; Black and Rogaway 2002,
https://doi.org/10.1007/3-540-45760-7_9). So the j-th example of an epoch is known at once.
"""

from __future__ import annotations

import numpy as np

from openba_jax.objectives import counter_random

_ROUNDS = 8
_FEWEST_BITS = 6  # With halves of a bit or two there is little to mix.


def permute(positions: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Where the permutations named by `keys` send `positions`.

    Args:
      positions: integers in `[0, n)`, `[count]`.
      n: size of the set that is permuted.
      keys: uint64, one key or one per position.

    Returns:
      int64 `[count]`, in `[0, n)`; for one key all different where the positions are.
    """
    bits = max(_FEWEST_BITS, (n - 1).bit_length())
    values = np.asarray(positions).astype(np.uint64)
    keys = np.broadcast_to(np.asarray(keys, np.uint64), values.shape)
    outside = np.ones(values.shape, bool)
    while outside.any():
        values[outside] = _feistel(values[outside], bits, keys[outside])
        outside = values >= n
    return values.astype(np.int64)


def _feistel(values: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """One permutation of `[0, 2 ** bits)` per key: uint64 `[count]` -> uint64 `[count]`."""
    low_bits, high_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    one = np.uint64(1)
    low_mask, high_mask = (one << low_bits) - one, (one << high_bits) - one
    high, low = values >> low_bits, values & low_mask
    for round_number in range(0, _ROUNDS, 2):
        high = high ^ (_round(keys, round_number, low) & high_mask)
        low = low ^ (_round(keys, round_number + 1, high) & low_mask)
    return (high << low_bits) | low


def _round(keys: np.ndarray, number: int, half: np.ndarray) -> np.ndarray:
    """Random bits for a round: each (round, half) is a place of its own in the key's stream."""
    return counter_random.at(keys, half * np.uint64(_ROUNDS) + np.uint64(number))
