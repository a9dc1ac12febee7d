"""Several short instruction samples in one row, told apart by segment ids.

Which samples share a row is decided once, for a whole store, from their lengths: samples in a
shuffled order fill a row until the next one does not fit. Rows are then what the stream counts, so
that a batch stays a function of (seed, step), and nothing must be remembered to resume. Every
epoch has the same rows, in another order.
"""

from __future__ import annotations

import dataclasses

import numpy as np

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """Which samples share a row.

    Attributes:
      order: numbers of all samples, row after row: int64 `[samples]`.
      starts: where in `order` each row begins, and the end of the last: int64 `[rows + 1]`.
    """

    order: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.starts) - 1

    def members(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The samples of rows `[n]`, in order: places 0 .. n - 1 of their rows, and numbers."""
        counts = self.starts[rows + 1] - self.starts[rows]
        place = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return place, self.order[self.starts[rows][place] + within]


def plan_rows(
    order: np.ndarray, inputs: np.ndarray, targets: np.ndarray, widths: tuple[int, int]
) -> PackedRows:
    """Fills rows with samples in a given order.

    Args:
      order: numbers of the samples, int64 `[n]`.
      inputs: how many tokens each takes in the encoder, in that order, at most `widths[0]`.
      targets: the same in the decoder, at most `widths[1]`.
      widths: of the encoder and of the decoder.
    """
    ends = [np.cumsum(lengths, dtype=np.int64) for lengths in (inputs, targets)]
    starts = [0]
    while starts[-1] < len(order):
        first = starts[-1]
        used = [int(end[first - 1]) if first else 0 for end in ends]
        starts.append(
            min(
                int(np.searchsorted(end, before + width, side="right"))
                for end, before, width in zip(ends, used, widths, strict=True)
            )
        )
    return PackedRows(order, np.array(starts, np.int64))


def pack_samples(
    place: np.ndarray, samples: np.ndarray, lengths: np.ndarray, rows: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lays samples one behind the other.

    Args:
      place: the row of each sample, ascending: int64 `[n]`.
      samples: int32 `[n, any]`, padded on the right.
      lengths: how much of each is no padding, int64 `[n]`.
      rows: how many rows there are.
      width: of a row; the samples of each must fit.

    Returns:
      Tokens, segment ids (1 for a row's first sample, 0 on padding) and positions, which start at 0
      in every segment: int32 `[rows, width]` each.
    """
    first = np.searchsorted(place, np.arange(rows))
    ends = np.cumsum(lengths)
    before = np.append(0, ends)[first][place]
    offset = ends - lengths - before
    columns = np.arange(samples.shape[1])
    real = columns < lengths[:, None]
    where = np.broadcast_to(place[:, None], real.shape)[real], (offset[:, None] + columns)[real]
    packed = np.zeros((3, rows, width), np.int32)
    segment = 1 + np.arange(len(place)) - first[place]
    for array, values in zip(packed, (samples, segment[:, None], columns[None]), strict=True):
        array[where] = np.broadcast_to(values, real.shape)[real]
    return packed[0], packed[1], packed[2]


def packed_batch(
    inputs: tuple[np.ndarray, np.ndarray, np.ndarray],
    targets: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Batch:
    """Names packed rows as T5X does; targets are shifted right within each segment, 0 in front.

    Args:
      inputs: tokens, segment ids and positions, int32 `[n, encoder_length]` each.
      targets: the same for the decoder.
    """
    tokens, segments, positions = targets
    shifted = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    return {
        "encoder_input_tokens": inputs[0],
        "decoder_input_tokens": np.where(positions > 0, shifted, 0),
        "decoder_target_tokens": tokens,
        "decoder_loss_weights": (tokens > 0).astype(np.float32),
        "encoder_segment_ids": inputs[1],
        "decoder_segment_ids": segments,
        "encoder_positions": inputs[2],
        "decoder_positions": positions,
    }
