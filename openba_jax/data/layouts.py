"""From samples to batches: how a model reads inputs and targets, under T5X's names.

An encoder-decoder has two sequences, a decoder one. Both take samples row by row, one in each or
several in one, told apart by segment ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from openba_jax.data import packing
from openba_jax.objectives.decoder_only import PADDING

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Part:
    """Samples of one task.

    Attributes:
      places: the row of each sample, int64 `[n]`, ascending.
      samples: what the objective made.
    """

    places: np.ndarray
    samples: Mapping[str, np.ndarray]


class Layout(Protocol):
    """A way to lay samples into rows."""

    def plain(self, parts: Sequence[Part], rows: int, widths: tuple[int, int]) -> Batch:
        """A batch with one sample in each row.

        Args:
          parts: the samples of all tasks.
          rows: of the batch.
          widths: positions of inputs and of targets.
        """

    def packed(self, parts: Sequence[Part], rows: int, widths: tuple[int, int]) -> Batch:
        """A batch with any number of samples in each row; arguments as for `plain`."""


class EncoderDecoderLayout:
    """Inputs for the encoder, targets for the decoder, each padded with 0."""

    def plain(self, parts: Sequence[Part], rows: int, widths: tuple[int, int]) -> Batch:
        """See `Layout.plain`; `encoder_input_tokens`, `decoder_input_tokens`, ..."""
        inputs = np.zeros((rows, widths[0]), np.int32)
        targets = np.zeros((rows, widths[1]), np.int32)
        for part in parts:
            inputs[part.places] = part.samples["inputs"]
            targets[part.places] = part.samples["targets"]
        return as_batch(inputs, targets)

    def packed(self, parts: Sequence[Part], rows: int, widths: tuple[int, int]) -> Batch:
        """See `Layout.packed`; segment ids and positions of encoder and decoder, too."""
        places = np.concatenate([part.places for part in parts])
        order = np.argsort(places, kind="stable")
        packed = []
        for name, width in zip(("inputs", "targets"), widths, strict=True):
            samples = np.concatenate([part.samples[name] for part in parts])[order]
            lengths = samples.shape[1] - (samples[:, ::-1] > 0).argmax(axis=1)
            packed.append(packing.pack_samples(places[order], samples, lengths, rows, width))
        return packing.packed_batch(*packed)


class DecoderOnlyLayout:
    """Inputs and targets one behind the other, in rows as long as both.

    A target stands at the position before it, so that the last token of a sequence is no target of
    any. Padding, of any id, has the segment 0 and no weight.
    """

    def plain(self, parts: Sequence[Part], rows: int, widths: tuple[int, int]) -> Batch:
        """See `Layout.plain`; `decoder_input_tokens`, `decoder_segment_ids`, ..."""
        return self.packed(parts, rows, widths)

    def packed(self, parts: Sequence[Part], rows: int, widths: tuple[int, int]) -> Batch:
        """See `Layout.packed`; whether rows hold one sample or more, they look the same."""
        width = sum(widths)
        joined = [_joined(part.samples, width) for part in parts]
        places = np.concatenate([part.places for part in parts])
        order = np.argsort(places, kind="stable")
        tokens, is_input, documents = (
            np.concatenate(each)[order] for each in zip(*joined, strict=True)
        )
        lengths = (tokens != PADDING).sum(axis=1)
        packed = (
            packing.pack_samples(places[order], array, lengths, rows, width)
            for array in (tokens, is_input, documents)
        )
        (tokens, samples, positions), (is_input, _, _), (documents, _, _) = packed
        segments, positions = _segments(samples, positions, documents)
        same = np.zeros(segments.shape, bool)
        same[:, :-1] = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
        following = np.zeros_like(tokens)
        following[:, :-1] = tokens[:, 1:]
        is_target = np.zeros(same.shape, bool)
        is_target[:, :-1] = is_input[:, 1:] == 0
        weights = same & is_target
        return {
            "decoder_input_tokens": tokens,
            "decoder_target_tokens": np.where(weights, following, 0),
            "decoder_loss_weights": weights.astype(np.float32),
            "decoder_segment_ids": segments,
            "decoder_positions": positions,
            "decoder_causal_attention": is_input,
        }


LAYOUTS: dict[str, Layout] = {
    "encoder_decoder": EncoderDecoderLayout(),
    "decoder_only": DecoderOnlyLayout(),
}
"""By `Model.layout` and `Objective.layout`."""


def as_batch(inputs: np.ndarray, targets: np.ndarray) -> Batch:
    """Names samples as T5X does and shifts the targets right, 0 in front.

    Args:
      inputs: int32 `[n, encoder_length]`.
      targets: int32 `[n, decoder_length]`, padded with 0.
    """
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets > 0).astype(np.float32),
    }


def _joined(
    samples: Mapping[str, np.ndarray], width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, whether they are inputs, and numbers of documents: int32 `[n, width]` each."""
    inputs, targets = samples["inputs"], samples["targets"]
    tokens = np.full((len(inputs), width), PADDING, np.int32)
    is_input = np.zeros_like(tokens)
    columns = np.arange(width)
    read = (inputs != PADDING).sum(axis=1)
    tokens[:, : inputs.shape[1]] = inputs
    places = read[:, None] + np.arange(targets.shape[1])
    real = targets != PADDING
    row = np.broadcast_to(np.arange(len(targets))[:, None], places.shape)
    tokens[row[real], places[real]] = targets[real]
    is_input[columns < read[:, None]] = 1
    documents = np.zeros_like(tokens)
    if "documents" in samples:
        documents[:, : targets.shape[1]] = samples["documents"]
    return tokens, is_input, documents


def _segments(
    samples: np.ndarray, positions: np.ndarray, documents: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Segments and positions of documents, from those of samples, int32 `[rows, width]` each."""
    starts = np.zeros(samples.shape, bool)
    starts[:, 0] = True
    starts[:, 1:] = (samples[:, 1:] != samples[:, :-1]) | (documents[:, 1:] != documents[:, :-1])
    numbers = np.cumsum(starts, axis=1, dtype=np.int32)
    columns = np.arange(samples.shape[1], dtype=np.int32)
    first = np.maximum.accumulate(np.where(starts, columns, 0), axis=1)
    real = samples > 0
    return np.where(real, numbers, 0), np.where(real, columns - first, 0).astype(np.int32)
