"""`BatchLoader`: a training batch as a pure function of (seed, step).

Position p = step * batch_size + row of the stream is given to a task by the mixture's rates
(`schedule.Schedule`). Tasks that take the same kind of pair share one shuffled order of the
examples (`order`), so an epoch shows each example once, to one of them; every epoch has a new order
and new noise. Nothing is consumed: to resume, ask for the next step.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from openba_jax.data import packing
from openba_jax.data.layouts import LAYOUTS, Batch, Part
from openba_jax.data.order import Order, order_of
from openba_jax.data.permutation import permute
from openba_jax.data.samples import build_samples
from openba_jax.data.schedule import Schedule
from openba_jax.data.store.manifest import check_vocabulary, identity_of
from openba_jax.data.store.token_store import JoinedStores, Kind, open_stores
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.objectives import counter_random
from openba_jax.objectives.mixture import Mixture


@dataclasses.dataclass(frozen=True)
class _Pool:
    """The examples to draw from: of each kind a first number and how many.

    Where examples share rows, `packed` says which, and the range is one of rows. Without `orders`
    they come as they lie there.
    """

    stores: JoinedStores
    ranges: Mapping[Kind, tuple[int, int]]
    packed: Mapping[Kind, packing.PackedRows] = dataclasses.field(default_factory=dict)
    orders: Mapping[Kind, Order] = dataclasses.field(default_factory=dict)
    pack: bool = False


class BatchLoader:
    """Draws batches from a mixture over token stores.

    Attributes:
      mixture: tasks and initial rates.
      layout: how its batches are read, a name of `layouts.LAYOUTS`.
      batch_size: rows of a batch, over all processes.
      encoder_length: width of the inputs.
      decoder_length: width of the targets.
      schedule: rates and counts; all the state there is.
    """

    def __init__(
        self,
        mixture: Mixture,
        stores: Sequence[str | Path],
        vocabulary: Vocabulary,
        batch_size: int,
        encoder_length: int,
        decoder_length: int,
        seed: int = 0,
        held_out: int = 0,
        evaluation_stores: Sequence[str | Path] = (),
        pack: bool = False,
        evaluation_mixture: Mixture | None = None,
    ) -> None:
        """Opens the stores.

        Args:
          mixture: what to train on.
          stores: prefixes of token stores; their examples are numbered through.
          vocabulary: the one that the stores were made with.
          batch_size: rows of a batch.
          encoder_length: width of the inputs.
          decoder_length: width of the targets.
          seed: of order and noise.
          held_out: the last so many examples of each kind are kept from training, to evaluate on.
          evaluation_stores: stores to evaluate on instead.
          pack: let several instruction samples share a row of the training batches.
          evaluation_mixture: what to evaluate on, of the kinds of pairs that `mixture` takes; by
            default `mixture`.

        Raises:
          UserError: A store is missing, damaged, or was made with another vocabulary.
          UserError: The stores lack a kind of pairs that the mixture takes.
          UserError: The lengths are too short for the mixture.
          UserError: The batch size is below 1, or `held_out` is negative.
          UserError: Rows are to be packed, and the sources have weights.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be at least 1.")
        if held_out < 0:
            raise UserError(f"held_out is {held_out}; it must be at least 0.")
        self.mixture = mixture
        self._evaluation_mixture = evaluation_mixture or mixture
        self.layout = mixture.layout
        self.batch_size = batch_size
        self.encoder_length = encoder_length
        self.decoder_length = decoder_length
        self._vocabulary = vocabulary
        self._seed = seed
        self._held_out = held_out
        joined = self._open(stores)
        ranges, tails = {}, {}
        for kind in _kinds(mixture):
            count = joined.count(kind) - held_out
            if count < 1:
                what = "groups of text" if kind == "text" else "instructions"
                remedy = f"make some by `openba-prepare tokens --kind={kind}`"
                if held_out:
                    what += f" but the {held_out} that are held out"
                    remedy = "hold out fewer or prepare more"
                raise UserError(
                    f"token store {', '.join(map(str, stores))} has no {what}, which mixture "
                    f"{mixture.name} needs; {remedy}."
                )
            ranges[kind] = (0, count)
            tails[kind] = (count, held_out)
        packed: dict[Kind, packing.PackedRows] = {}
        orders = {kind: order_of(joined, kind, count, seed) for kind, (_, count) in ranges.items()}
        if pack and "instructions" in ranges:
            packed["instructions"] = self._packed_rows(joined, mixture, ranges["instructions"][1])
            ranges["instructions"] = (0, len(packed["instructions"]))
            if orders["instructions"].weights:
                raise UserError(
                    "the stores have sources with weights, which packed rows would mix; train "
                    "without packing, or prepare them without weights."
                )
            orders["instructions"] = Order("instructions", seed, (len(packed["instructions"]),))
        elif pack:
            logging.warning("Nothing is packed: %s takes no instructions.", mixture.name)
        self._pack = pack
        self._training = _Pool(joined, ranges, packed, orders, pack)
        counts = {kind: count for kind, (_, count) in ranges.items()}
        self.schedule = Schedule(mixture.initial_rates(counts), seed=seed)
        if evaluation_stores:
            joined = self._open(evaluation_stores)
            tails = {kind: (0, joined.count(kind)) for kind in ranges}
        self._evaluation = _Pool(joined, tails)
        self._check_lengths()

    @property
    def rates(self) -> tuple[float, ...]:
        """Present rates of the tasks; only their ratios count."""
        return self.schedule.rates

    @property
    def group_names(self) -> tuple[str, ...]:
        """The names of the tasks, in their order."""
        return tuple(task.name for task in self.mixture.tasks)

    def groups(self, step: int, rows: slice | None = None) -> np.ndarray:
        """Which task the rows of a batch are of: float32 `[rows, tasks]`, one 1 in each row."""
        tasks = self.schedule.tasks_at(self._positions(step, rows))
        return np.eye(len(self.mixture.tasks), dtype=np.float32)[tasks]

    def batch(self, step: int, rows: slice | None = None) -> Batch:
        """The batch of a step.

        Args:
          step: 0 for the first.
          rows: only these rows, e.g. those of one process; the others are not built.

        Returns:
          What the layout of the mixture makes of the samples, see `layouts`.
        """
        return self._rows(self.mixture, self.schedule, self._training, step, rows, self._seed)

    def evaluation_batches(
        self,
        count: int,
        seed: int = 0,
        mixture: Mixture | None = None,
        rows: slice | None = None,
    ) -> list[Batch]:
        """Fixed batches of held-out examples, which training and its rates do not touch.

        Args:
          count: how many; fewer, with a warning, where an example would come again.
          seed: of the noise.
          mixture: another one than that of the loader, e.g. one task alone.
          rows: as for `batch`.

        Raises:
          UserError: There are not enough held-out examples, or examples in the evaluation stores,
            for one batch.
        """
        mixture = mixture or self._evaluation_mixture
        for kind in _kinds(mixture):
            if not self._evaluation.ranges.get(kind, (0, 0))[1]:
                raise UserError(
                    f"there are no {kind} to evaluate {mixture.name} on; hold some out or give "
                    "evaluation stores."
                )
        counts = {kind: count for kind, (_, count) in self._evaluation.ranges.items()}
        schedule = Schedule(mixture.initial_rates(counts), seed=seed)
        enough = self._batches_without_repeats(mixture, schedule, count)
        return [
            self._rows(mixture, schedule, self._evaluation, step, rows, seed)
            for step in range(enough)
        ]

    def identity(self) -> dict[str, Any]:
        """What the batches depend on, ready for JSON; equal identities give equal batches.

        Where stores lie and what they are called is not part of it.
        """
        mixture = self.mixture
        return {
            "mixture": {
                "name": mixture.name,
                "tasks": {
                    task.name: {"rate": rate, "objective": repr(task.objective)}
                    for task, rate in mixture.components
                },
                "rule": repr(mixture.rule),
                "by_count": mixture.by_count,
            },
            "stores": [identity_of(store) for store in self._training.stores.stores],
            "evaluation_stores": [identity_of(store) for store in self._evaluation.stores.stores],
            "held_out": self._held_out,
            "vocabulary": {
                "sha256": self._vocabulary.fingerprint,
                "newline": self._vocabulary.newline,
            },
            "batch_size": self.batch_size,
            "lengths": {"inputs": self.encoder_length, "targets": self.decoder_length},
            "seed": self._seed,
            "pack": self._pack,
            **self._other_evaluation(),
        }

    def _other_evaluation(self) -> dict[str, str]:
        """Names the mixture to evaluate on where it is another one."""
        name = self._evaluation_mixture.name
        return {} if name == self.mixture.name else {"evaluation_mixture": name}

    def change_rates(self, step: int, rates: Sequence[float]) -> None:
        """Gives the tasks other rates from a step on; batches of earlier steps are then refused."""
        self.schedule = self.schedule.change(step * self.batch_size, rates)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the step, ready for JSON."""
        return dataclasses.asdict(self.schedule)

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`.

        Raises:
          UserError: The state is that of a mixture with another number of tasks.
        """
        schedule = Schedule(**state)
        if len(schedule.rates) != len(self.mixture.tasks):
            raise UserError(
                f"the saved rates are for {len(schedule.rates)} tasks and {self.mixture.name} has "
                f"{len(self.mixture.tasks)}; resume with the mixture that the run began with."
            )
        self.schedule = schedule

    def _batches_without_repeats(self, mixture: Mixture, schedule: Schedule, count: int) -> int:
        """How many of `count` evaluation batches show no example twice, with a warning if fewer.

        Raises:
          UserError: Even the first batch shows an example twice.
        """
        drawn = schedule.counts_before(np.arange(1, count + 1) * self.batch_size)
        fits = np.ones(count, bool)
        for kind in _kinds(mixture):
            of_kind = np.array([task.kind == kind for task in mixture.tasks])
            fits &= drawn[of_kind].sum(axis=0) <= self._evaluation.ranges[kind][1]
        enough = int(fits.sum())
        there = ", ".join(f"{self._evaluation.ranges[kind][1]} {kind}" for kind in _kinds(mixture))
        if count and not enough:
            raise UserError(
                f"a batch of {self.batch_size} evaluation examples of {mixture.name} would show "
                f"some twice, since there are {there} to evaluate on; hold out more, or take "
                "smaller batches."
            )
        if enough < count:
            logging.warning(
                "%s is evaluated on %d batches of %d instead of %d: there are %s to evaluate on.",
                mixture.name,
                enough,
                self.batch_size,
                count,
                there,
            )
        return enough

    def _open(self, prefixes: Sequence[str | Path]) -> JoinedStores:
        """Opens stores that were made with the vocabulary."""
        for prefix in prefixes:
            check_vocabulary(prefix, self._vocabulary)
        return open_stores(prefixes)

    def _check_lengths(self) -> None:
        """Fails early where no sample fits, and tells where something is cut off."""
        stores = self._training.stores
        cut: dict[str, list[str]] = collections.defaultdict(list)
        for task in self.mixture.tasks:
            limits = task.objective.limits(self.encoder_length, self.decoder_length)
            for side, limit in limits.items():
                longest = stores.longest(task.kind, side)
                if longest > limit:
                    cut[f"{side}s of {longest} tokens are cut to {limit}"].append(task.name)
        for what, names in cut.items():
            logging.warning(
                "At %d/%d tokens, %s for %s.",
                self.encoder_length,
                self.decoder_length,
                what,
                ", ".join(names),
            )

    def _packed_rows(
        self, stores: JoinedStores, mixture: Mixture, count: int
    ) -> packing.PackedRows:
        """Which of the first `count` instructions share a row."""
        objective: Any = next(t.objective for t in mixture.tasks if t.kind == "instructions")
        if not hasattr(objective, "sample_lengths"):
            raise UserError(
                f"the samples of {mixture.name} cannot share rows; train with PACK = False."
            )
        order = permute(
            np.arange(count), count, counter_random.key(self._seed, "pack", "instructions")
        )
        sources, targets = (
            stores.lengths("instructions", side)[order] for side in ("source", "target")
        )
        widths = self.encoder_length, self.decoder_length
        inputs, outputs = objective.sample_lengths(sources, targets, *widths)
        return packing.plan_rows(order, inputs, outputs, widths)

    def _positions(self, step: int, rows: slice | None) -> np.ndarray:
        """Where the rows of a batch stand in the stream."""
        positions = step * self.batch_size + np.arange(self.batch_size)
        return positions if rows is None else positions[rows]

    def _rows(
        self,
        mixture: Mixture,
        schedule: Schedule,
        pool: _Pool,
        step: int,
        rows: slice | None,
        seed: int,
    ) -> Batch:
        """The batch of a step of a schedule over a pool."""
        positions = self._positions(step, rows)
        tasks = schedule.tasks_at(positions)
        counts = schedule.counts_before(positions)
        epochs, indices = np.zeros_like(positions), np.zeros_like(positions)
        for kind in _kinds(mixture):
            of_kind = np.array([task.kind == kind for task in mixture.tasks])
            here = of_kind[tasks]
            draws = counts[of_kind][:, here].sum(axis=0)
            if kind in pool.orders:
                epochs[here], indices[here] = pool.orders[kind].at(draws)
            else:
                first, size = pool.ranges[kind]
                epochs[here], indices[here] = draws // size, first + draws % size
        parts: list[Part] = []
        layout = LAYOUTS[mixture.layout]
        for number, task in enumerate(mixture.tasks_at(schedule.rates)):
            places = np.flatnonzero(tasks == number)
            if not len(places):
                continue
            examples = indices[places]
            if task.kind in pool.packed:
                place, examples = pool.packed[task.kind].members(examples)
                places = places[place]
            samples = build_samples(
                task,
                pool.stores,
                examples,
                epochs[places],
                self._vocabulary,
                self.encoder_length,
                self.decoder_length,
                seed,
            )
            parts.append(Part(places, samples))
        lay = layout.packed if pool.pack else layout.plain
        return lay(parts, len(positions), (self.encoder_length, self.decoder_length))


def _kinds(mixture: Mixture) -> list[Kind]:
    """The kinds of pairs that a mixture takes."""
    return sorted({task.kind for task in mixture.tasks})
