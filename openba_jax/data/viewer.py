"""Samples as text, to look at what the model gets."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

import numpy as np

from openba_jax.data.loader import BatchLoader
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError

_SPAN_COLOURS = (32, 33, 34, 35, 36, 31)  # Of ANSI terminals.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # A text must not command the terminal.
_BOLD, _DIM, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def describe_samples(
    loader: BatchLoader, vocabulary: Vocabulary, count: int, colour: bool
) -> Iterator[str]:
    """Describes the first samples of a training run.

    Args:
      loader: as the training run has it.
      vocabulary: the one that the stores were made with.
      count: how many.
      colour: paint each span, and the sentinel that stands for it, with escape codes.

    Yields:
      Task, lengths, inputs and targets of each.
    """
    for number in range(count):
        step, row = divmod(number, loader.batch_size)
        batch = loader.batch(step, rows=slice(row, row + 1))
        task = loader.mixture.tasks[int(loader.schedule.tasks_at(np.array([number]))[0])]
        inputs, targets, lengths = _sides({name: array[0] for name, array in batch.items()})
        weights = batch["decoder_loss_weights"][0]
        lengths += f", {int((weights > 0).sum())} with loss"
        title = f"sample {number}: {task.name}; {lengths}"
        yield "\n".join(
            [
                f"{_BOLD}{title}{_RESET}" if colour else title,
                f"  inputs   {show(inputs, vocabulary, colour)}",
                f"  targets  {show(targets, vocabulary, colour, spans=True)}",
            ]
        )


def _sides(row: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, str]:
    """Inputs and targets of one row, int32 `[length]` each, and their lengths in words."""
    if "encoder_input_tokens" in row:
        inputs, targets = row["encoder_input_tokens"], row["decoder_target_tokens"]
        lengths = (
            f"inputs {_length(inputs)} of {len(inputs)}, "
            f"targets {_length(targets)} of {len(targets)}"
        )
        return inputs[: _length(inputs)], targets[: _length(targets)], lengths
    # Any id may be a token, 0 too: segments tell tokens from padding.
    tokens, is_input = row["decoder_input_tokens"], row["decoder_causal_attention"] > 0
    inputs, targets = tokens[is_input], tokens[(row["decoder_segment_ids"] > 0) & ~is_input]
    lengths = f"inputs {len(inputs)} and targets {len(targets)} of {len(tokens)}"
    return inputs, targets, lengths


def show(ids: np.ndarray, vocabulary: Vocabulary, colour: bool, spans: bool = False) -> str:
    """Ids as text, special tokens by name.

    Args:
      ids: integers `[length]`.
      vocabulary: decodes.
      colour: paint sentinels.
      spans: the text behind a sentinel belongs to it, as in targets, and is painted with it.
    """
    names = {i: name for name, i in vocabulary.special_tokens().items()}
    order = _sentinel_order(vocabulary)
    parts: list[str] = []
    code = ""
    runs = itertools.groupby(ids.tolist(), key=lambda i: i if i in names else None)
    for special, run in runs:
        if special is None:
            text = _CONTROL.sub("\ufffd", vocabulary.decode(run))
            parts.append(f"{code}{text}{_RESET}" if code and spans else text)
            continue
        k = order.get(special)
        code = _DIM if k is None else f"\x1b[{_SPAN_COLOURS[k % len(_SPAN_COLOURS)]}m"
        code = code if colour else ""
        name = names[special].replace("\n", "\\n")
        parts += [f"{code}{name}{_RESET}" if code else name for _ in run]
    return " ".join(parts)


def _sentinel_order(vocabulary: Vocabulary) -> dict[int, int]:
    """Which sentinel an id is; empty for a vocabulary without sentinels."""
    try:
        return {i: k for k, i in enumerate(vocabulary.sentinels.tolist())}
    except UserError:
        return {}


def _length(ids: np.ndarray) -> int:
    """The length without the 0s behind, which pad; those inside count."""
    return int(np.max(np.flatnonzero(ids), initial=-1)) + 1
