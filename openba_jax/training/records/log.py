"""What a run writes down while it trains: its records, its speed, and a progress line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import jax
import numpy as np

from openba_jax.models.base import Model
from openba_jax.models.counting import train_flops_per_example
from openba_jax.parallel.hardware import Peak
from openba_jax.training import feeding
from openba_jax.training.records import metrics
from openba_jax.training.records.telemetry import Telemetry
from openba_jax.training.records.trackers import Tracker


class Writer(Protocol):
    """Where records go."""

    def write(self, split: str, step: int, values: Mapping[str, Any]) -> None:
        """Appends one record; see `metrics.MetricWriter.write`."""

    def flush(self) -> None:
        """Brings everything to where it is kept."""

    def close(self) -> None:
        """Flushes and closes."""


class RunLog:
    """The files, the tracker and the progress line of a run; the first process alone writes."""

    def __init__(
        self,
        folder: Path,
        start: int,
        train_steps: int,
        progress: bool,
        telemetry: Telemetry,
    ) -> None:
        """Opens the log at the step from which the run goes on.

        Raises:
          UserError: the tracker does not start.
        """
        first = jax.process_index() == 0
        self._latest: dict[str, Mapping[str, Any]] = latest_records(folder, start)
        self._writers: list[Writer] = []
        if first and telemetry.tracker:
            self._writers.append(Tracker(telemetry.tracker, telemetry.project, folder, start))
        if first:
            self._writers.append(metrics.MetricWriter(folder, start))
        self._progress = metrics.Progress(train_steps, start, folder.name, progress and first)

    def write(self, split: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes a record, unless there is nothing in it."""
        if values:
            self._latest[split] = values
            for writer in self._writers:
                writer.write(split, step, values)
        self._progress.update(step, self._latest)

    def flush(self) -> None:
        """Brings the files to the disk."""
        for writer in self._writers:
            writer.flush()

    @property
    def latest(self) -> Mapping[str, Mapping[str, Any]]:
        """The latest record of each split."""
        return self._latest

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the files."""
        self._progress.close()
        with contextlib.ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)


def latest_records(folder: Path, step: int) -> dict[str, Mapping[str, Any]]:
    """The latest record of each split up to a step; none of a run that has not begun."""
    return {
        record["split"]: record
        for record in metrics.read(folder / metrics.METRICS)
        if step and record["step"] <= step
    }


def speed_meter(
    model: Model, batches: feeding.Batches, peak: Peak
) -> Callable[[Sequence[Mapping[str, np.ndarray]], float, float], dict[str, float | None]]:
    """A function from the metrics of some steps, their seconds and those waited to a record."""
    lengths = (batches.encoder_length, batches.decoder_length)
    flops = batches.batch_size * train_flops_per_example(model, *lengths)

    def speed(
        steps: Sequence[Mapping[str, np.ndarray]], seconds: float, waited: float
    ) -> dict[str, float | None]:
        if not steps:
            return {}
        tokens = sum(int(step["tokens"]) for step in steps)
        positions = batches.batch_size * sum(lengths)
        return metrics.speed(len(steps), seconds, tokens, positions, flops, peak, waited)

    return speed
