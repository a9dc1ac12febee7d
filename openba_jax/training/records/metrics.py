"""What a run writes down: `metrics.jsonl`, `speed.jsonl`, TensorBoard, and a line for the eye.

`metrics.jsonl` holds what the run computes and is therefore the same, byte for byte, whether the
run was interrupted or not; `speed.jsonl` holds what the machine made of it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import tqdm

from openba_jax.evaluation.loss import averages
from openba_jax.files import write_atomically
from openba_jax.language import told
from openba_jax.parallel.hardware import Peak
from openba_jax.training.records.event_file import EventFile

METRICS = "metrics.jsonl"
SPEED = "speed.jsonl"
TENSORBOARD = "tensorboard"

CHANGES = "changes"
"""Split of the records that say what was changed where a run went on: `{name: [before, after]}`."""

QUIET_SECONDS = 30.0
"""Where the output is no terminal, a progress line appears at most this often."""


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a jsonl file, none if it is absent; a line that was cut off ends them."""
    path = Path(path)
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def scalars(split: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record by the names that plots have: `SPLIT/NAME`."""
    return {
        f"{split}/{key}": float(value)
        for key, value in values.items()
        if isinstance(value, int | float)
    }


class MetricWriter:
    """Writes the records of one run into its model folder."""

    def __init__(self, folder: str | os.PathLike[str], start_step: int) -> None:
        """Opens the files; records after `start_step`, which will be written again, are cut away.

        Args:
          folder: the model folder.
          start_step: step of the restored checkpoint; 0 for a new run, which keeps no record.

        What an earlier start has changed at `start_step` is cut away, too.
        """
        self._folder = Path(folder)
        self._files: dict[str, TextIO] = {}
        for name in (METRICS, SPEED):
            path = self._folder / name
            kept = [
                record
                for record in read(path)
                if start_step
                and record["step"] <= start_step
                and (record["step"], record["split"]) != (start_step, CHANGES)
            ]
            write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))
            self._files[name] = path.open("a", encoding="utf-8")
        self._events = EventFile(self._folder / TENSORBOARD, start_step + 1 if start_step else 0)

    def write(self, split: str, step: int, values: Mapping[str, Any]) -> None:
        """Appends one record.

        Args:
          split: `train`, `eval` or `benchmarks`; or `speed` or `machine`, for `speed.jsonl`.
          step: number of steps taken.
          values: what to record; what is no number is not for TensorBoard.
        """
        name = SPEED if split in ("speed", "machine") else METRICS
        record = {"step": step, "split": split, **values}
        # Python would write NaN as it is, which is no JSON; nothing here may be NaN.
        self._files[name].write(json.dumps(record, allow_nan=False) + "\n")
        found = scalars(split, values)
        if found:
            self._events.write(step, found)

    def flush(self) -> None:
        """Brings everything to the disk: to be called before a checkpoint is written."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self._events.flush()

    def close(self) -> None:
        """Flushes and closes; closes on a full disk, too."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._events.close)
            for file in self._files.values():
                stack.callback(file.close)
            self.flush()


_IN_AVERAGES = ("loss_sum", "correct_sum", "weight_sum")


def train_record(
    steps: Sequence[Mapping[str, np.ndarray]], tokens: int, groups: Sequence[str] = ()
) -> dict[str, Any]:
    """The record of an interval of training.

    Args:
      steps: metrics of its steps, on the host.
      tokens: tokens seen since the run began, padding excluded.
      groups: names of the groups that the steps have sums of.

    Returns:
      `loss`, `accuracy` and what else the loss has summed per target token, unless there was none;
      `loss/GROUP` of the groups that had target tokens; the mean `grad_norm` of the steps that were
      not skipped, unless all were, and that of each block, if any; the last `learning_rate`;
      `tokens`.
    """
    applied = [step for step in steps if not step.get("skipped")]
    norms = [name for name in steps[-1] if name.partition("/")[0] == "grad_norm"]
    means = averages(steps) if any(float(step["weight_sum"]) for step in steps) else {}
    others = [name for name in steps[-1] if name.endswith("_sum") and name not in _IN_AVERAGES]
    for name in others if means else ():
        # Steps before a change of the loss lack what it adds.
        counted = [step for step in steps if name in step]
        weight = math.fsum(float(step["weight_sum"]) for step in counted)
        if weight:
            total = math.fsum(float(step[name]) for step in counted)
            means[name.removesuffix("_sum")] = total / weight
    return {
        **{name: mean for name, mean in means.items() if name != "targets"},
        **_by_group(steps, groups),
        **{name: mean for name in norms if (mean := _mean(applied, name)) is not None},
        "learning_rate": float(steps[-1]["learning_rate"]),
        "tokens": tokens,
    }


def _mean(steps: Sequence[Mapping[str, np.ndarray]], name: str) -> float | None:
    """Of the steps that have the metric; None where none has."""
    values = [float(step[name]) for step in steps if name in step]
    return math.fsum(values) / len(values) if values else None


def _by_group(steps: Sequence[Mapping[str, np.ndarray]], groups: Sequence[str]) -> dict[str, float]:
    """`loss/GROUP` per target token, of the groups that had some."""
    # Steps before a change of the mixture may have had others.
    counted = [step for step in steps if len(step.get("group_loss_sums", ())) == len(groups)]
    losses = {}
    for number, name in enumerate(groups):
        weight = math.fsum(float(step["group_weight_sums"][number]) for step in counted)
        if weight:
            total = math.fsum(float(step["group_loss_sums"][number]) for step in counted)
            losses[f"loss/{name}"] = total / weight
    return losses


def speed(
    steps: int,
    seconds: float,
    tokens: int,
    positions_per_step: int,
    flops_per_step: float,
    peak: Peak,
    waited: float = 0.0,
) -> dict[str, float | None]:
    """What the machine made of some steps.

    Args:
      steps: how many.
      seconds: they took.
      tokens: encoder and decoder tokens in them, padding excluded.
      positions_per_step: encoder and decoder positions of a batch, padding included.
      flops_per_step: model FLOPs of a batch, padding included.
      peak: of the machine.
      waited: seconds of these in which the next batch was not there yet.

    Returns:
      `steps_per_second`, `tokens_per_second`, `positions_per_second`; `mfu`, the share of the peak,
      None where that is unknown; and `input_wait`, the share of the time that was waited.
    """
    rate = steps / seconds
    return {
        "steps_per_second": rate,
        "tokens_per_second": tokens / seconds,
        "positions_per_second": positions_per_step * rate,
        "mfu": None if peak.flops is None else flops_per_step * rate / peak.flops,
        "input_wait": waited / seconds,
    }


class Progress:
    """A bar with the time left on a terminal; elsewhere a line now and then; or nothing."""

    def __init__(self, total: int, step: int, title: str, enabled: bool = True) -> None:
        """Starts at `step` of `total` steps."""
        terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total,
            initial=step,
            desc=title,
            unit="step",
            dynamic_ncols=True,
            disable=not (enabled and terminal),
        )
        self._lines = enabled and not terminal
        self._title, self._total, self._step, self._text = title, total, step, ""
        self._first, self._started = step, time.monotonic()
        self._evaluated: tuple[Mapping[str, float | None] | None, int] = (None, step)
        self._quiet_until = self._started + QUIET_SECONDS

    def update(self, step: int, latest: Mapping[str, Mapping[str, float | None]]) -> None:
        """Shows where the run is, with its latest record of each split."""
        evaluated = latest.get("eval")
        if evaluated is not self._evaluated[0]:
            self._evaluated = evaluated, int((evaluated or {}).get("step") or step)
        self._text = ", ".join(
            told(form, value=value, step=self._evaluated[1])
            for (split, name), form in _SHOWN.items()
            if (value := latest.get(split, {}).get(name)) is not None
        )
        self._bar.set_postfix_str(self._text, refresh=False)
        self._bar.update(step - self._step)
        self._step = step
        if self._lines and time.monotonic() > self._quiet_until:
            self._write_line()

    def close(self) -> None:
        """Leaves the bar as it stands; says how a run ended that came to its end."""
        self._bar.close()
        if self._lines and self._step == self._total:
            self._write_line()

    def _write_line(self) -> None:
        now, left = time.monotonic(), ""
        if self._first < self._step < self._total:
            seconds = (now - self._started) / (self._step - self._first)
            time_left = tqdm.tqdm.format_interval(seconds * (self._total - self._step))
            left = f", {told('{time} left', time=time_left)}"
        step = told("step {step}/{last}", step=self._step, last=self._total)
        sys.stderr.write(f"{self._title}: {step}, {self._text}{left}\n")
        self._quiet_until = now + QUIET_SECONDS


_SHOWN = {
    ("train", "loss"): "loss {value:.4f}",
    ("eval", "loss"): "eval {value:.4f} at step {step}",
    ("speed", "tokens_per_second"): "{value:,.0f} tokens/s",
    ("speed", "mfu"): "MFU {value:.1%}",
}
