"""What a run writes down while it trains: its records, its speed, and a progress line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from openba_jax.models.base import Model
from openba_jax.models.counting import train_flops_per_example
from openba_jax.parallel.hardware import Peak
from openba_jax.training import feeding
from openba_jax.training.records import metrics


class RunLog:
    """The files and the progress line of a run; the first process alone writes."""

    def __init__(self, folder: Path, start: int, train_steps: int, progress: bool) -> None:
        """Opens the log at the step from which the run goes on."""
        first = jax.process_index() == 0
        self._latest: dict[str, Mapping[str, Any]] = latest_records(folder, start)
        self._writer = metrics.MetricWriter(folder, start) if first else None
        self._progress = metrics.Progress(train_steps, start, folder.name, progress and first)

    def write(self, split: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes a record, unless there is nothing in it."""
        if values:
            self._latest[split] = values
            if self._writer is not None:
                self._writer.write(split, step, values)
        self._progress.update(step, self._latest)

    def flush(self) -> None:
        """Brings the files to the disk."""
        if self._writer is not None:
            self._writer.flush()

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
        if self._writer is not None:
            self._writer.close()


def latest_records(folder: Path, step: int) -> dict[str, Mapping[str, Any]]:
    """The latest record of each split up to a step; none of a run that has not begun."""
    return {
        record["split"]: record
        for record in metrics.read(folder / metrics.METRICS)
        if step and record["step"] <= step
    }


def speed_meter(
    model: Model, batches: feeding.Batches, peak: Peak
) -> Callable[[Sequence[Mapping[str, np.ndarray]], float], dict[str, float | None]]:
    """A function from the metrics of some steps, and their seconds, to a record of speed."""
    lengths = (batches.encoder_length, batches.decoder_length)
    flops = batches.batch_size * train_flops_per_example(model, *lengths)

    def speed(steps: Sequence[Mapping[str, np.ndarray]], seconds: float) -> dict[str, float | None]:
        if not steps:
            return {}
        tokens = sum(int(step["tokens"]) for step in steps)
        positions = batches.batch_size * sum(lengths)
        return metrics.speed(len(steps), seconds, tokens, positions, flops, peak)

    return speed
