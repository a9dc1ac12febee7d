"""The seven denoisers of UL2 as OpenBA uses them."""

from __future__ import annotations

from openba_jax.objectives.denoising import Denoiser

GROUP_SIZE = 568
"""Tokens of a group; at 570/381 tokens every denoiser fits, with 95 of 100 sentinels at most."""

DENOISERS: dict[str, Denoiser] = {
    "r3": Denoiser("R", density=0.15, mean_span=3, max_tokens=GROUP_SIZE),
    "r8": Denoiser("R", density=0.15, mean_span=8, max_tokens=GROUP_SIZE),
    "s": Denoiser("S", density=0.25, mean_span=None, max_tokens=GROUP_SIZE),
    "x3": Denoiser("X", density=0.5, mean_span=3, max_tokens=GROUP_SIZE),
    "x8": Denoiser("X", density=0.5, mean_span=8, max_tokens=GROUP_SIZE),
    "x64_low": Denoiser("X", density=0.15, mean_span=64, max_tokens=GROUP_SIZE),
    "x64_high": Denoiser("X", density=0.5, mean_span=64, max_tokens=GROUP_SIZE),
}
"""By name, in the original's order 1 to 7: kind, mean span, and for 64 the density."""

PAPER_S = Denoiser("S", density=0.25, mean_span=None, max_tokens=GROUP_SIZE, min_density=0.25)
"""S as the papers' tables have it: exactly a quarter of the text, where the code's is at most that.
The other six denoisers of the papers are the code's."""

SPAN_CORRUPTION = Denoiser(None, density=0.15, mean_span=3, max_tokens=GROUP_SIZE)
"""T5's span corruption, and the original's `ul2_type=no`: the same ids from the same mask."""
