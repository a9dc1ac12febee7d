"""The tables of a report of runs: where they stand, per task, and in what their settings differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from openba_jax.report.page import Table
from openba_jax.report.runs import Run

_HIDDEN = ("MODEL_DIR", "train.model_dir")
"""Settings that differ between any two runs."""

_WIDEST = 80  # Characters of a setting; what is longer is cut.


def tables(runs: Sequence[Run], over: str) -> list[Table]:
    """All tables that have something to show.

    Args:
      runs: the first is the one that others are compared with.
      over: what runs are compared over, steps or tokens.
    """
    found = [_standing(runs, over), _per_task(runs), _settings(runs)]
    return [table for table in found if len(table.rows) > 1 and len(table.rows[0]) > 1]


def _standing(runs: Sequence[Run], over: str) -> Table:
    first = runs[0]
    columns: dict[str, Callable[[Run], str]] = {
        "step": lambda run: f"{run.step:,}",
        "tokens": lambda run: _number(run.last("train", "tokens"), ",.0f"),
        "training loss": lambda run: _number(run.last("train", "loss"), ".4f"),
        "held-out loss": lambda run: _number(run.last("eval", "loss"), ".4f"),
        f"less {first.name}'s": lambda run: _difference(run, first, over),
        "best held-out loss": _best,
        "accuracy": lambda run: _number(run.last("eval", "accuracy"), ".1%"),
        "gradient norm": lambda run: _number(run.last("train", "grad_norm"), ".3g"),
        "skipped steps": lambda run: _number(run.last("train", "skipped"), ",.0f"),
        "tokens/s": lambda run: _number(run.typical("speed", "tokens_per_second"), ",.0f"),
        "MFU": lambda run: _number(run.typical("speed", "mfu"), ".1%"),
        "input wait": lambda run: _number(run.typical("speed", "input_wait"), ".1%"),
        "devices": _devices,
        "changed at": _changes,
    }
    cells = {head: [show(run) for run in runs] for head, show in columns.items()}
    cells = {head: shown for head, shown in cells.items() if set(shown) != {"-"}}
    rows = [["run", *cells]]
    rows += [
        [run.name, *row] for run, row in zip(runs, zip(*cells.values(), strict=True), strict=True)
    ]
    return Table(
        "Runs",
        "Losses in nats per target token, over the last interval of the log and on held-out "
        "batches; differences at the last point up to which both were evaluated. Tokens are those "
        "of inputs and targets, padding excluded. Speeds are medians over intervals of the log; "
        "input wait is the share of the time in which the next batch was not there yet.",
        rows,
    )


def _per_task(runs: Sequence[Run]) -> Table:
    names = list(dict.fromkeys(name for run in runs for name in run.tasks))
    rows = [["run", "measured on", *names]]
    for run in runs:
        splits = set(run.tasks.values())
        if splits:
            losses = [
                _number(run.last(run.tasks[name], f"loss/{name}"), ".4f")
                if name in run.tasks
                else "-"
                for name in names
            ]
            where = "held-out batches" if splits == {"denoisers"} else "training batches"
            rows.append([run.name, where, *losses])
    return Table("Loss per task", "The last losses, in nats per target token.", rows)


def _settings(runs: Sequence[Run]) -> Table:
    known = [run for run in runs if run.settings]
    rows = [["setting", *(run.name for run in known)]]
    for name in sorted({name for run in known for name in run.settings}):
        values = [run.settings.get(name, "-") for run in known]
        if len(set(values)) > 1 and name not in _HIDDEN:
            rows.append(
                [name, *(v if len(v) <= _WIDEST else v[: _WIDEST - 3] + "..." for v in values)]
            )
    return Table("Settings that differ", "Of the last start of each run.", rows)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _difference(run: Run, first: Run, over: str) -> str:
    """What the held-out loss is above the first run's where both have one."""
    (at, losses), (first_at, first_losses) = (
        each.series("eval", "loss", over) for each in (run, first)
    )
    if run is first or not len(at) or not len(first_at):
        return "-"
    point = min(at[-1], first_at[-1])
    there = float(np.interp(point, at, losses) - np.interp(point, first_at, first_losses))
    return f"{there:+.4f}"


def _best(run: Run) -> str:
    steps, losses = run.series("eval", "loss", "steps")
    if not len(losses):
        return "-"
    best = int(np.argmin(losses))
    return f"{losses[best]:.4f} (step {steps[best]:,.0f})"


def _devices(run: Run) -> str:
    machines = run.records.get("machine", ())
    found = dict.fromkeys(f"{m['devices']} x {m['device']}" for m in machines if "device" in m)
    return ", ".join(found) or "-"


def _changes(run: Run) -> str:
    steps = dict.fromkeys(record["step"] for record in run.records.get("changes", ()))
    return ", ".join(f"step {step:,}" for step in steps) or "-"
