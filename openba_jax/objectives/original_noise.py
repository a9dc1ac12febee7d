"""Noise masks drawn as the original draws them, from one numpy generator per sample.

`Denoiser` draws the same distribution for whole batches at once; this is the reference that its
tests and a bit-faithful replay of the original's samples use.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openba_jax.objectives.denoising import Denoiser, interleave
from openba_jax.objectives.o_ul2 import MixedDenoiser


def choose(rng: np.random.Generator, count: int, rates: Sequence[float] | None = None) -> int:
    """Draws which of `count` denoisers a sample gets, from 0: uniformly, or by rates (D-UL2)."""
    if rates is None:
        return int(rng.integers(1, count + 1)) - 1
    return int(rng.choice(np.arange(count), size=1, p=rates)[0])


def mask(denoiser: Denoiser, length: int, rng: np.random.Generator) -> np.ndarray:
    """The noise mask of one text: bool `[length]`.

    Args:
      denoiser: what noise.
      length: tokens, at least 2.
      rng: for R and X the generator that chose the denoiser; for S one of its own.
    """
    noise_count, spans = (int(n[0]) for n in denoiser.noise(np.array([length])))
    if denoiser.mean_span is None:
        bound = min(round(denoiser.density * length), length)
        return np.arange(length) >= length - int(rng.uniform(1, bound + 1))
    noise_cuts = _cuts(noise_count, spans, length, rng)
    kept_cuts = _cuts(length - noise_count, spans, length, rng)
    counts = np.array([length - noise_count]), np.array([noise_count])
    return interleave(kept_cuts[None], noise_cuts[None], *counts)[0]


def _cuts(total: int, segments: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Where segments start, as `denoising.random_cuts`: bool `[width]`."""
    cuts = np.arange(total - 1) < segments - 1
    rng.shuffle(cuts)
    return np.pad(cuts, (1, width - total))


def mixed_mask(denoiser: MixedDenoiser, length: int, rng: np.random.Generator) -> np.ndarray:
    """The noise mask of O-UL2's Mix-denoising: bool `[length]`.

    It can have more spans than there are sentinels, unlike `MixedDenoiser.mask`.

    Args:
      denoiser: what noise.
      length: tokens, enough for a token of each kind of span.
      rng: the generator that chose the task.
    """
    noise_count = round(length * denoiser.density)
    low, high = (round(noise_count * share) for share in denoiser.tail)
    left = noise_count - int(rng.uniform(low, high + 1))
    sizes: list[int] = []
    for mean, share in zip(denoiser.mean_spans, denoiser.shares, strict=True):
        tokens = round(left * share)
        cuts = _cuts(tokens, max(round(tokens / mean), 1), tokens, rng)
        sizes += np.diff(np.flatnonzero(np.append(cuts, True)), prepend=0).tolist()
    shuffled = np.array([size for size in sizes if size])
    rng.shuffle(shuffled)
    noise_cuts = np.zeros(length, bool)
    noise_cuts[np.cumsum(shuffled)] = True
    kept_cuts = _cuts(length - noise_count, len(shuffled) + 1, length, rng)
    counts = np.array([length - noise_count]), np.array([noise_count])
    return interleave(kept_cuts[None], noise_cuts[None], *counts)[0]
