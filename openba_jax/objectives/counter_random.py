"""Random bits as a function of a counter: no state, any draw at once, whole arrays of draws.

A key names a stream (seed, task, epoch, example ...) and `draws` reads its first numbers. The
function is splitmix64: a Weyl sequence through a bijective mixer (Steele, Lea and Flood 2014,
https://doi.org/10.1145/2714064.2660195). `tf.random.experimental.index_shuffle` and JAX's
generators would do too, but cost every process that builds batches an import of seconds or a
device.
"""

from __future__ import annotations

import zlib

import numpy as np

_WEYL = np.uint64(0x9E3779B97F4A7C15)


def mix(bits: np.ndarray) -> np.ndarray:
    """A bijection of uint64 arrays in which every output bit hangs on every input bit."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def key(*parts: int | str | np.ndarray) -> np.ndarray:
    """A key from numbers, names and arrays of whole numbers, which broadcast: uint64."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # Scalars warn where arrays wrap silently.
        for part in parts:
            if isinstance(part, str):
                part = zlib.crc32(part.encode("utf-8"))
            if isinstance(part, int):
                part = np.array(part & 0xFFFFFFFFFFFFFFFF, np.uint64)
            state = mix((state ^ part.astype(np.uint64)) + _WEYL)
    return state


def at(keys: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The numbers at some places of each key's stream: uint64 arrays, which broadcast."""
    return mix(keys + (places + np.uint64(1)) * _WEYL)


def draws(keys: np.ndarray, count: int) -> np.ndarray:
    """The first `count` numbers of each key's stream: uint64 `[n]` -> uint64 `[n, count]`."""
    return at(keys[:, None], np.arange(count, dtype=np.uint64))


def fractions(keys: np.ndarray) -> np.ndarray:
    """One uniform number in `[0, 1)` per key: uint64 `[n]` -> float64 `[n]`."""
    return (draws(keys, 1)[:, 0] >> np.uint64(11)) * 2.0**-53


def below(keys: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """One uniform integer in `[0, limit)` per key: uint64 `[n]`, integer `[n]` -> int64 `[n]`."""
    return (fractions(keys) * limits).astype(np.int64)
