"""O-UL2: two objectives of nearly fixed lengths, so that hardly anything is padding.

The published code trains on the first alone; the paper mixes them 80 : 20. `MixedDenoiser` is the
original's Mix-denoising with one mend: where it would take more than the 100 sentinels (and the
original writes ordinary ids instead), the short spans become fewer and longer.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from openba_jax.objectives import counter_random
from openba_jax.objectives.denoising import Denoiser, interleave, noise_tokens, random_cuts
from openba_jax.objectives.special_ids import SENTINELS

GROUP_SIZE = 2048
"""Tokens of a group; both objectives fit 1040/1040 tokens."""

MIX_TOKENS = 1700
"""Mix-denoising uses the first so many tokens of a group."""


@dataclasses.dataclass(frozen=True)
class MixedDenoiser(Denoiser):
    """Spans of several mean lengths in random order, and a long one at the end of the text.

    Attributes:
      mean_spans: mean lengths of the spans before the last.
      shares: how the noise tokens that the last span leaves are divided among the mean lengths.
      tail: the last span's share of the noise tokens, lower and upper bound; uniform between.
    """

    mean_spans: tuple[float, ...] = (3, 8, 64)
    shares: tuple[float, ...] = (0.3, 0.4, 0.3)
    tail: tuple[float, float] = (0.2, 0.3)

    def noise(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As for `Denoiser`; the shortest last span leaves most tokens to the others."""
        noise_count = noise_tokens(lengths, self.density)
        _, spans = self.parts(lengths, self._tail_bounds(noise_count)[0])
        return noise_count, spans.sum(axis=1)

    def least_noise(self, lengths: np.ndarray) -> np.ndarray:
        """As for `Denoiser`; the noise is a fixed share here."""
        return noise_tokens(lengths, self.density)

    def parts(self, lengths: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Noise tokens and spans of each mean length and, as the last column, of the last span.

        Args:
          lengths: of the texts, int64 `[n]`.
          last: planned tokens of the last span, int64 `[n]`; what rounding leaves is added.

        Returns:
          Tokens and spans, int64 `[n, means + 1]` each; never more spans than sentinels, tokens or
          kept tokens.
        """
        noise_count = noise_tokens(lengths, self.density)
        rest = np.maximum(noise_count - last, 0)
        tokens = np.round(rest[:, None] * np.array(self.shares)).astype(np.int64)
        # The last span keeps a token even where the shares are all rounded up.
        reached = np.minimum(np.cumsum(tokens, axis=1), np.maximum(noise_count - 1, 0)[:, None])
        tokens = np.diff(
            np.column_stack([np.zeros_like(noise_count), reached, noise_count]), axis=1
        )
        means = np.array([*self.mean_spans, np.inf])
        spans = np.minimum(np.maximum(np.round(tokens / means).astype(np.int64), 1), tokens)
        room = np.minimum(SENTINELS, np.asarray(lengths, np.int64) - noise_count)
        for column in range(len(self.mean_spans)):
            excess = np.maximum(spans.sum(axis=1) - room, 0)
            spans[:, column] -= np.minimum(excess, np.maximum(spans[:, column] - 1, 0))
        # Texts of a few tokens have room for the last span alone.
        tiny = spans.sum(axis=1) > room
        tokens[tiny], spans[tiny] = 0, 0
        tokens[tiny, -1], spans[tiny, -1] = noise_count[tiny], np.minimum(noise_count[tiny], 1)
        return tokens, spans

    def mask(self, lengths: np.ndarray, width: int, keys: np.ndarray) -> np.ndarray:
        """As for `Denoiser`."""
        lengths = np.asarray(lengths, np.int64)
        noise_count = noise_tokens(lengths, self.density)
        low, high = self._tail_bounds(noise_count)
        last = low + counter_random.below(counter_random.key(keys, "tail"), high - low + 1)
        tokens, spans = self.parts(lengths, last)
        rows, sizes, order = [], [], []
        for column in range(tokens.shape[1]):
            starts = random_cuts(
                counter_random.key(keys, column), tokens[:, column], spans[:, column], width
            )
            starts[:, :1] |= tokens[:, column, None] > 0
            row, start = np.nonzero(starts)
            end = np.append(start[1:], 0)
            end = np.where(np.append(row[1:], -1) == row, end, tokens[row, column])
            rows.append(row)
            sizes.append(end - start)
            key = counter_random.key(keys[row], "order", np.full(len(row), column), start)
            final = column == tokens.shape[1] - 1
            order.append(np.full(len(row), 2.0) if final else counter_random.fractions(key))
        row, size = np.concatenate(rows), np.concatenate(sizes)
        sorting = np.lexsort((np.concatenate(order), row))
        row, size = row[sorting], size[sorting]
        start = np.cumsum(size) - size - (np.cumsum(noise_count) - noise_count)[row]
        cuts = np.zeros((len(lengths), width), bool)
        cuts[row, start] = True
        cuts[:, :1] = False
        kept = lengths - noise_count
        kept_cuts = random_cuts(counter_random.key(keys, "kept"), kept, spans.sum(axis=1), width)
        return interleave(kept_cuts, cuts, kept, noise_count)

    def _tail_bounds(self, noise_count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The fewest and most tokens planned for the last span, int64 `[n]` each."""
        low, high = (np.round(noise_count * share).astype(np.int64) for share in self.tail)
        return low, high


SEQUENTIAL = Denoiser("S", density=0.5, mean_span=None, max_tokens=GROUP_SIZE, min_density=0.5)
"""The second half of a text from the first: nothing is random."""

MIX = MixedDenoiser("X", density=0.5, mean_span=None, max_tokens=MIX_TOKENS)
"""With the paper's prefix; in the code, where Mix has rate 0, it is `<S>`, in a figure `<R>`."""
