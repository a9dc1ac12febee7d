"""The plot of a report of runs: a panel for each figure, the runs laid over one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from openba_jax.plotting.picture import COLORS, DASHES, SMALL, legend_below, picture, titles
from openba_jax.report.runs import STEPS, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
_BREADTH, _HEIGHT = 0.47, 0.32
"""Of a panel, in widths of a picture."""

_FIGURES = (
    ("training loss", "train", "loss"),
    ("held-out loss", "eval", "loss"),
    ("held-out accuracy", "eval", "accuracy"),
    ("learning rate", "train", "learning_rate"),
    ("gradient norm", "train", "grad_norm"),
    ("tokens per second", "speed", "tokens_per_second"),
    ("MFU", "speed", "mfu"),
    ("input wait", "speed", "input_wait"),
    ("skipped steps", "train", "skipped"),
)
"""Titles, splits and keys of the panels; losses of tasks and norms of blocks follow them."""

_RATES = "share of the samples"
_FROM_ZERO = ("learning rate", "tokens per second", "MFU", "input wait", _RATES)


class Line(NamedTuple):
    """A line of a panel.

    Attributes:
      label: in the legend.
      color: a number of a colour.
      style: a number of a style.
      at: steps or tokens, `[n]`.
      values: `[n]`.
    """

    label: str
    color: int
    style: int
    at: np.ndarray
    values: np.ndarray


def plot(runs: Sequence[Run], path: Path, over: str) -> None:
    """Draws the runs over steps or tokens."""
    found = panels(runs, over)
    columns = min(_COLUMNS, len(found))
    rows = -(-len(found) // columns)
    unit, words = _unit(max(line.at[-1] for lines in found.values() for line in lines), over)
    size = {"height": _HEIGHT * rows, "widen": _BREADTH * columns}
    with picture(path, **size, nrows=rows, ncols=columns) as (figure, axes):
        for panel in axes[len(found) :]:
            panel.remove()
        shown: dict[str, Any] = {}
        for panel, (title, lines) in zip(axes, found.items(), strict=False):
            for line in lines:
                drawn = _draw(panel, line, unit)
                if title != _RATES:
                    shown.setdefault(line.label, drawn)
            panel.set_xlabel(words, fontsize=SMALL)
            panel.tick_params(labelsize=SMALL)
            if title in _FROM_ZERO:
                largest = max(float(line.values.max()) for line in lines)
                panel.set_ylim(0, 1.05 * largest or 1)
            # Elsewhere a colour is a run; of the rates it is a task.
            if title == _RATES:
                panel.legend(fontsize=SMALL - 1, frameon=False)
        titles(axes[: len(found)], list(found))
        if len(runs) > 1:
            legend_below(figure, list(shown.values()))


def _unit(largest: float, over: str) -> tuple[float, str]:
    """What steps or tokens are divided by, and words for the axis."""
    if over == STEPS:
        return 1.0, "step"
    power, prefix = next((p, name) for p, name in _PREFIXES if largest >= p or p == 1)
    return power, f"{prefix}tokens"


_PREFIXES = ((1e9, "billion "), (1e6, "million "), (1e3, "thousand "), (1.0, ""))


def panels(runs: Sequence[Run], over: str) -> dict[str, list[Line]]:
    """The lines of each panel by its title; panels without lines are left out."""
    found = {title: _of_runs(runs, split, key, over) for title, split, key in _FIGURES}
    found[_RATES] = _rates(runs, over)
    for task in dict.fromkeys(name for run in runs for name in run.tasks):
        found[f"loss of {task}"] = [
            line
            for number, run in enumerate(runs)
            if task in run.tasks
            for line in _line(run, number, run.tasks[task], f"loss/{task}", over)
        ]
    norms = dict.fromkeys(
        key
        for run in runs
        for record in run.records.get("train", ())
        for key in record
        if key.startswith("grad_norm/")
    )
    for key in norms:
        found[f"gradient norm of {key.partition('/')[2]}"] = _of_runs(runs, "train", key, over)
    return {title: lines for title, lines in found.items() if lines}


def _of_runs(runs: Sequence[Run], split: str, key: str, over: str) -> list[Line]:
    return [line for n, run in enumerate(runs) for line in _line(run, n, split, key, over)]


def _line(run: Run, number: int, split: str, key: str, over: str) -> list[Line]:
    at, values = run.series(split, key, over)
    return [Line(run.name, number, number, at, values)] if len(at) else []


def _rates(runs: Sequence[Run], over: str) -> list[Line]:
    """D-UL2's rates: a colour for each task, a style for each run."""
    lines = []
    for style, run in enumerate(runs):
        for color, task in enumerate(run.tasks):
            at, values = run.series("denoisers", f"rate/{task}", over)
            label = f"{task}, {run.name}" if len(runs) > 1 else task
            if len(at):
                lines.append(Line(label, color, style, at, values))
    return lines


def _draw(panel: Axes, line: Line, unit: float) -> Any:
    (drawn,) = panel.plot(
        line.at / unit,
        line.values,
        color=COLORS[line.color % len(COLORS)],
        linestyle=DASHES[line.style % len(DASHES)],
        marker="o" if len(line.at) == 1 else None,
        linewidth=1.2,
        label=line.label,
    )
    return drawn
