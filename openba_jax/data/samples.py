"""From examples of token stores to samples: what the batch loader and seqio's tasks share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from openba_jax.data.store.token_store import JoinedStores
from openba_jax.errors import UserError
from openba_jax.objectives import counter_random
from openba_jax.objectives.mixture import Task
from openba_jax.objectives.special_ids import SpecialIds
from openba_jax.objectives.token_rows import Side, TokenRows


def build_samples(
    task: Task,
    stores: JoinedStores,
    indices: np.ndarray,
    epochs: np.ndarray,
    ids: SpecialIds,
    encoder_length: int,
    decoder_length: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Reads examples and makes samples of them.

    The noise of a sample is a function of seed, task, example and epoch: whoever asks, whenever and
    in whatever company, gets the same sample.

    Args:
      task: the objective.
      stores: where the examples are.
      indices: numbers of examples among those of the task's kind, integers `[n]`.
      epochs: how many times each was seen before, integers `[n]`.
      ids: the vocabulary, or where its special tokens lie.
      encoder_length: width of the inputs.
      decoder_length: width of the targets.
      seed: of the noise.

    Returns:
      `inputs` int32 `[n, encoder_length]` and `targets` int32 `[n, decoder_length]`, padded with 0.

    Raises:
      UserError: A store is damaged, or holds ids that the vocabulary lacks.
    """
    limits = task.objective.limits(encoder_length, decoder_length)
    read = {side: stores.read(task.kind, indices, side, limit) for side, limit in limits.items()}
    return make_samples(task, read, indices, epochs, ids, encoder_length, decoder_length, seed)


def make_samples(
    task: Task,
    read: Mapping[Side, TokenRows],
    indices: np.ndarray,
    epochs: np.ndarray,
    ids: SpecialIds,
    encoder_length: int,
    decoder_length: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """`build_samples` of examples that were read before, cut to the limits of the objective."""
    for rows in read.values():
        if rows.ids.max(initial=0) >= ids.size or rows.ids.min(initial=0) < 0:
            raise UserError(
                f"a token store holds ids from {rows.ids.min()} to {rows.ids.max()}, and the "
                f"vocabulary has {ids.size}; prepare the store with this vocabulary."
            )
    keys = counter_random.key(seed, task.name, epochs, indices)
    return task.objective.samples(read, keys, ids, encoder_length, decoder_length)
