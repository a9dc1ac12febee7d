"""From the host to the devices: where batches come from, and one built ahead of the step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, cast

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from openba_jax.errors import UserError
from openba_jax.models.base import Model
from openba_jax.nn.losses import GROUPS
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


class GroupedBatches(Batches, Protocol):
    """Batches that know which group, such as a task of a mixture, each row is of."""

    @property
    def group_names(self) -> Sequence[str]:
        """Of all groups."""

    def groups(self, step: int, rows: slice | None = None) -> np.ndarray:
        """Float32 `[rows, groups]`, 1 where a row is of a group."""


class Feed:
    """Steps and their global batches; the next one is built while the devices work."""

    def __init__(
        self,
        batches: Batches,
        steps: range,
        model: Model,
        mesh: Mesh,
        changes_after: Callable[[int], bool],
        *,
        grouped: bool = False,
    ) -> None:
        """Nothing is built yet.

        Args:
          batches: where batches come from.
          steps: which ones.
          model: what reads them.
          mesh: where they go.
          changes_after: whether the batches may change after a number of steps; the next one is
            built after these then.
          grouped: the batches are `GroupedBatches`, and are to tell groups apart.
        """
        self._batches, self._steps, self._model = batches, steps, model
        self._changes_after, self._grouped = changes_after, grouped
        self._sharding = sharding.batch_sharding(mesh)
        self._rows = sharding.local_rows(self._sharding, batches.batch_size)
        self._waited = 0.0

    def __iter__(self) -> Iterator[tuple[int, dict[str, jax.Array]]]:
        """Builds the batches."""
        steps, size = self._steps, self._batches.batch_size
        with ThreadPoolExecutor(max_workers=1) as builder:
            upcoming = builder.submit(self._build, steps[0])
            for step in steps:
                began = time.perf_counter()
                batch = upcoming.result()
                self._waited += time.perf_counter() - began
                waits = self._changes_after(step + 1)
                if step + 1 in steps and not waits:
                    upcoming = builder.submit(self._build, step + 1)
                yield step, sharding.global_batch(batch, self._sharding, self._rows, size)
                if step + 1 in steps and waits:
                    upcoming = builder.submit(self._build, step + 1)

    def take_wait(self) -> float:
        """Seconds that were waited for batches since this was asked last."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _build(self, step: int) -> HostBatch:
        batch = self._batches.batch(step, self._rows)
        check_ids(batch, step, self._model)
        if self._grouped:
            groups = cast(GroupedBatches, self._batches).groups(step, self._rows)
            return {**batch, GROUPS: groups}
        return batch


def groups_of(batches: Batches) -> tuple[str, ...]:
    """The names of the groups whose losses differ from that of the whole; none where it is one.

    Raises:
      UserError: the batches know no groups.
    """
    names = getattr(batches, "group_names", None)
    if names is None:
        raise UserError(
            f"{type(batches).__name__} does not know which task a row is of; leave task_losses out."
        )
    return tuple(names) if len(names) > 1 else ()


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
