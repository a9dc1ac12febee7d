"""From the host to the devices: where batches come from, and one built ahead of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from openba_jax.errors import UserError
from openba_jax.models.base import Model
from openba_jax.parallel import sharding

HostBatch = Mapping[str, np.ndarray]


class Batches(Protocol):
    """Where batches come from; `openba_jax.data.loader.BatchLoader` is one."""

    @property
    def batch_size(self) -> int:
        """Rows of a global batch."""

    @property
    def encoder_length(self) -> int:
        """Positions of the encoder."""

    @property
    def decoder_length(self) -> int:
        """Positions of the decoder."""

    def batch(self, step: int, rows: slice | None = None) -> HostBatch:
        """The batch of a step, or some rows of it: a pure function of its arguments."""

    def evaluation_batches(self, count: int, *, rows: slice | None = None) -> Sequence[HostBatch]:
        """The same batches at every call, which are not trained on; or some rows of them."""

    def identity(self) -> Mapping[str, Any]:
        """What the batches depend on, ready for JSON; equal identities give equal batches."""


def on_devices(
    batches: Batches,
    steps: range,
    model: Model,
    mesh: Mesh,
    changes_after: Callable[[int], bool],
) -> Iterator[tuple[int, dict[str, jax.Array]]]:
    """Steps and their global batches; the next one is built while the devices work.

    Where the batches may change after a number of steps, the next one is built after these.
    """
    batch_sharding = sharding.batch_sharding(mesh)
    rows = sharding.local_rows(batch_sharding, batches.batch_size)

    def build(step: int) -> HostBatch:
        batch = batches.batch(step, rows)
        check_ids(batch, step, model)
        return batch

    with ThreadPoolExecutor(max_workers=1) as builder:
        upcoming = builder.submit(build, steps[0])
        for step in steps:
            batch = upcoming.result()
            waits = changes_after(step + 1)
            if step + 1 in steps and not waits:
                upcoming = builder.submit(build, step + 1)
            yield step, sharding.global_batch(batch, batch_sharding, rows, batches.batch_size)
            if step + 1 in steps and waits:
                upcoming = builder.submit(build, step + 1)


def warn_of_lengths(batches: Batches, model: Model) -> None:
    """Warns, once for a run, of rows that are longer than the model was made for."""
    inputs, targets = batches.encoder_length, batches.decoder_length
    if inputs > model.config.longest_inputs(targets):
        logging.warning(
            "Inputs of %d and targets of %d tokens are longer than the model was made for, whose "
            "lengths are %d and %d.",
            *(inputs, targets, *model.config.lengths),
        )


def check_ids(batch: HostBatch, step: int, model: Model) -> None:
    """Checks that a model can read a batch: every token has an embedding, others would give NaN.

    Raises:
      UserError: one has none, or the batch is for another kind of models.
    """
    rows = model.config.vocab_size
    model.check_layout("encoder_decoder" if "encoder_input_tokens" in batch else "decoder_only")
    for name in (name for name in batch if name.endswith("_tokens")):
        largest = int(batch[name].max(initial=0))
        if largest >= rows:
            raise UserError(
                f"the batch of step {step} has the token id {largest}, but the model's vocab_size "
                f"is {rows}; use the tokenizer that the model was made for."
            )
