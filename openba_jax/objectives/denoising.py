"""Span corruption on whole batches: where the noise goes, and the ids that follow from it.

A batch is `TokenRows`; nothing loops over its examples. A mask says which tokens are noise; it
always starts with a kept span and ends with a noise span:

    inputs    [prefix] kept_1 <extra_id_0> kept_2 <extra_id_1> ... </s>
    targets   <extra_id_0> noise_1 <extra_id_1> noise_2 ... </s>

Each noise span is led by the sentinel that stands for it in the inputs; there is no closing one.
Sequential denoising is the same with one noise span at the end.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from openba_jax.errors import UserError
from openba_jax.objectives import counter_random
from openba_jax.objectives.special_ids import SENTINELS, SpecialIds
from openba_jax.objectives.token_rows import Kind, Side, TokenRows


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """One way to corrupt a group of tokens; calling it makes the samples.

    Attributes:
      prefix: the token in front of the inputs, `"R"`, `"S"`, `"X"`, or none.
      density: share of the tokens that are noise; with `mean_span` None the share's upper bound.
      mean_span: mean length of a noise span in tokens; None hides one stretch at the end, whose
        length is uniform between `min_density` (at least one token) and `density`.
      max_tokens: longer groups are cut to this.
      min_density: for one stretch at the end, the share's lower bound.
      window: for one stretch at the end, the part of the uniform distribution that is drawn from;
        the published D-UL2 does not use all of it.
    """

    prefix: Literal["R", "S", "X"] | None
    density: float
    mean_span: float | None
    max_tokens: int | None = None
    min_density: float = 0.0
    window: tuple[float, float] = (0.0, 1.0)

    kind: ClassVar[Kind] = "text"
    layout: ClassVar[str] = "encoder_decoder"

    def samples(
        self,
        read: Mapping[Side, TokenRows],
        keys: np.ndarray,
        ids: SpecialIds,
        encoder_length: int,
        decoder_length: int,
    ) -> dict[str, np.ndarray]:
        """Samples of texts, see `Objective.samples`."""
        return self(read["source"], keys, ids, encoder_length, decoder_length)

    def __call__(
        self,
        groups: TokenRows,
        keys: np.ndarray,
        ids: SpecialIds,
        encoder_length: int,
        decoder_length: int,
    ) -> dict[str, np.ndarray]:
        """Makes samples: a function of its arguments and nothing else.

        Args:
          groups: text, a row per example; cut to `fitting_length`.
          keys: uint64 `[n]`, what the noise of each example depends on.
          ids: where the special tokens lie, e.g. a `Vocabulary`.
          encoder_length: width of the inputs.
          decoder_length: width of the targets.

        Returns:
          `inputs` int32 `[n, encoder_length]` and `targets` int32 `[n, decoder_length]`, padded
          with 0.

        Raises:
          UserError: The lengths have no room for a text of two tokens.
        """
        groups = groups.cut(self.fitting_length(encoder_length, decoder_length))
        mask = self.mask(groups.lengths, groups.ids.shape[1], keys)
        return corrupt(groups, mask, self.prefix_id(ids), ids, encoder_length, decoder_length)

    def prefix_id(self, ids: SpecialIds) -> int | None:
        """The id of the prefix token.

        Raises:
          UserError: The vocabulary has none.
        """
        match self.prefix:
            case "R":
                return ids.r_id
            case "S":
                return ids.s_id
            case "X":
                return ids.x_id
        return None

    def noise(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How much is hidden in texts of given lengths: noise tokens and spans, int64 `[n]` each.

        Where either is random, the most that can be. Texts of less than two tokens have none.
        Beyond the original, there are never more spans than kept or noise tokens.
        """
        lengths = np.asarray(lengths, np.int64)
        noise_count = noise_tokens(lengths, self.density)
        if self.mean_span is None:
            return noise_count, np.minimum(noise_count, 1)
        spans = np.maximum(np.round(noise_count / self.mean_span).astype(np.int64), 1)
        return noise_count, np.minimum(spans, np.minimum(noise_count, lengths - noise_count))

    def least_noise(self, lengths: np.ndarray) -> np.ndarray:
        """The fewest noise tokens that texts of given lengths can get, int64 `[n]`."""
        return noise_tokens(lengths, self.min_density if self.mean_span is None else self.density)

    def fitting_length(self, encoder_length: int, decoder_length: int) -> int:
        """The longest text whose sample fits, with no more spans than there are sentinels.

        Raises:
          UserError: The lengths have no room for a text of two tokens.
        """
        return _fitting_length(self, encoder_length, decoder_length)

    def limits(self, encoder_length: int, decoder_length: int) -> dict[Side, int]:
        """How many tokens of an example's source are used: `fitting_length`."""
        return {"source": self.fitting_length(encoder_length, decoder_length)}

    def mask(self, lengths: np.ndarray, width: int, keys: np.ndarray) -> np.ndarray:
        """Which tokens are noise: int64 `[n]`, uint64 `[n]` -> bool `[n, width]`."""
        noise_count, spans = self.noise(lengths)
        if self.mean_span is None:
            least = self.least_noise(lengths)
            low, high = self.window
            share = low + counter_random.fractions(keys) * (high - low)
            noise_count = np.where(
                noise_count > 0, least + (share * (noise_count - least + 1)).astype(np.int64), 0
            )
            columns = np.arange(width)
            return (columns >= (lengths - noise_count)[:, None]) & (columns < lengths[:, None])
        return interleave(
            random_cuts(counter_random.key(keys, "kept"), lengths - noise_count, spans, width),
            random_cuts(counter_random.key(keys, "noise"), noise_count, spans, width),
            lengths - noise_count,
            noise_count,
        )


@functools.lru_cache(maxsize=256)
def _fitting_length(denoiser: Denoiser, encoder_length: int, decoder_length: int) -> int:
    # Every token of a text is in its sample.
    longest = denoiser.max_tokens or encoder_length + decoder_length
    lengths = np.arange(2, longest + 1)
    noise_count, spans = denoiser.noise(lengths)
    kept = lengths - denoiser.least_noise(lengths)
    fits = (
        (kept + spans + 1 + (denoiser.prefix is not None) <= encoder_length)
        & (noise_count + spans + 1 <= decoder_length)
        & (spans <= SENTINELS)
    )
    count = len(lengths) if fits.all() else int(fits.argmin())
    if count == 0:
        raise UserError(
            f"inputs of {encoder_length} and targets of {decoder_length} tokens have no room for a "
            "denoising sample; give more."
        )
    return int(lengths[count - 1])


def noise_tokens(lengths: np.ndarray, density: float) -> np.ndarray:
    """A share of texts, as the original rounds it: at least one token, and one is kept."""
    lengths = np.asarray(lengths, np.int64)
    noise_count = np.round(lengths * density).astype(np.int64)
    return np.maximum(np.clip(noise_count, np.minimum(1, lengths - 1), lengths - 1), 0)


def random_cuts(
    keys: np.ndarray, totals: np.ndarray, segments: np.ndarray, width: int
) -> np.ndarray:
    """Cuts stretches of `totals` tokens in `segments` non-empty segments, all ways equally likely.

    Args:
      keys: uint64 `[n]`.
      totals: tokens of each stretch, int64 `[n]`, at most `width`.
      segments: segments of each, int64 `[n]`, at most `totals`.
      width: columns of the result.

    Returns:
      bool `[n, width]`, true where a segment other than the first starts: `segments - 1` per row.
    """
    most = int(segments.max(initial=1))
    if most <= 1:
        return np.zeros((len(keys), width), bool)
    # The segments start at the columns with the smallest of random numbers. The column in the low
    # bits keeps the numbers of a row apart, so that the count is exact.
    bits = np.uint64(max(1, int(width).bit_length()))
    columns = np.arange(width, dtype=np.uint64)
    numbers = counter_random.draws(keys, width) >> bits << bits | columns
    numbers[(columns == 0) | (columns >= totals[:, None])] = np.iinfo(np.uint64).max
    smallest = np.sort(numbers, axis=1)[:, : most - 1]
    last = np.take_along_axis(smallest, np.maximum(segments - 2, 0)[:, None], axis=1)
    return (numbers <= last) & (segments > 1)[:, None]


def interleave(
    kept_cuts: np.ndarray, noise_cuts: np.ndarray, kept: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Lays kept and noise segments alternately, a kept one first.

    Args:
      kept_cuts: bool `[n, width]`, as `random_cuts` gives them.
      noise_cuts: the same for noise, with as many cuts in each row.
      kept: kept tokens, int64 `[n]`.
      noise: noise tokens, int64 `[n]`; a row with 0 stays without noise.

    Returns:
      The noise mask, bool `[n, width]`.
    """
    count, width = kept_cuts.shape
    row = np.flatnonzero(noise > 0)

    def positions(cuts: np.ndarray, extra: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The cuts of all rows and one more in rows with noise, row by row, ascending."""
        marks = np.zeros((count, width + 1), bool)
        marks[:, :width] = cuts
        marks[row, extra[row]] = True
        rows, columns = np.nonzero(marks)
        return rows, columns

    # The k-th noise segment starts after k kept and k - 1 noise segments, and ends one later.
    rows, kept_ends = positions(kept_cuts, kept)
    _, noise_starts = positions(noise_cuts, np.zeros_like(noise))
    _, noise_ends = positions(noise_cuts, noise)
    turns = np.zeros((count, width + 1), bool)
    turns[rows, kept_ends + noise_starts] = True
    turns[rows, kept_ends + noise_ends] = True
    return np.logical_xor.accumulate(turns, axis=1)[:, :width]


def corrupt(
    groups: TokenRows,
    mask: np.ndarray,
    prefix: int | None,
    ids: SpecialIds,
    encoder_length: int,
    decoder_length: int,
) -> dict[str, np.ndarray]:
    """The inputs and targets that belong to a noise mask (see the top of this file).

    Args:
      groups: text.
      mask: bool `[n, width]`, true where a token is noise.
      prefix: the id in front of the inputs.
      ids: where the special tokens lie.
      encoder_length: width of the inputs.
      decoder_length: width of the targets.

    Returns:
      `inputs` int32 `[n, encoder_length]` and `targets` int32 `[n, decoder_length]`, padded with 0.

    Raises:
      UserError: A row has more spans than there are sentinels, or a sample is too long.
    """
    valid = groups.valid()
    return {
        "inputs": _splice(groups.ids, ~mask & valid, mask & valid, prefix, ids, encoder_length),
        "targets": _splice(groups.ids, mask & valid, ~mask & valid, None, ids, decoder_length),
    }


def _splice(
    tokens: np.ndarray,
    keep: np.ndarray,
    replace: np.ndarray,
    prefix: int | None,
    ids: SpecialIds,
    width: int,
) -> np.ndarray:
    """Keeps some tokens, puts a sentinel for each run of others, a prefix before and eos behind."""
    count = len(tokens)
    starts = replace.copy()
    starts[:, 1:] &= ~replace[:, :-1]
    span = np.cumsum(starts, axis=1, dtype=np.int32)
    spans, sentinels = int(np.max(span, initial=0)), ids.sentinels
    if spans > len(sentinels):
        raise UserError(
            f"a sample has {spans} spans and there are {len(sentinels)} sentinels; use shorter "
            "groups or longer spans."
        )
    emitted = keep | starts
    offset = int(prefix is not None)
    ends = offset + np.count_nonzero(emitted, axis=1)
    if ends.max(initial=0) >= width:
        raise UserError(
            f"a sample has {ends.max() + 1} tokens where there is room for {width}; use shorter "
            "groups or a longer length."
        )
    result = np.zeros((count, width), np.int32)
    filled = np.arange(width)
    filled = (filled >= offset) & (filled < ends[:, None])
    # Both masks are true equally often in each row, so their true places pair off in order.
    result[filled] = np.where(keep, tokens, sentinels[span - 1])[emitted]
    result[np.arange(count), ends] = ids.eos_id
    if prefix is not None:
        result[:, 0] = prefix
    return result
