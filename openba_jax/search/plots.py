"""The plot of a search: losses over what candidates cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from openba_jax.plotting.picture import (
    COLORS,
    MARK,
    SMALL,
    legend_below,
    logarithmic,
    picture,
    titles,
)
from openba_jax.search.budget import BYTES, FLOPS, MILLISECONDS, PARAMETERS

if TYPE_CHECKING:
    from openba_jax.search.report import Results

_UNITS = {
    PARAMETERS: ("million parameters", 1e6),
    BYTES: ("megabytes of parameters", 1e6),
    FLOPS: ("training GFLOP per example", 1e9),
    MILLISECONDS: ("milliseconds per token, greedy", 1.0),
}
"""Words for the axis, and what costs are divided by."""


def plot(results: Results, path: Path) -> None:
    """Draws the loss of every candidate over its cost, a colour for each number of steps.

    Pareto-optimal ones have a ring around their last loss; the ancestor is a star, the budget a
    line.
    """
    words, unit = _UNITS[results.budget.kind]
    with picture(path, height=0.55) as (figure, (axes,)):
        handles: list[Any] = []
        steps = sorted({step for each in results.checked for step in each.losses})
        for number, step in enumerate(steps):
            there = [each for each in results.checked if step in each.losses]
            handles += axes.plot(
                [each.cost / unit for each in there],
                [each.losses[step] for each in there],
                "o",
                color=COLORS[number % len(COLORS)],
                markersize=4,
                label=f"after {step} steps" if step else "after the cut",
            )
        for each in results.checked:
            at = [each.cost / unit] * len(each.losses)
            axes.plot(at, list(each.losses.values()), color="#cccccc", linewidth=0.7, zorder=0)
            axes.annotate(
                each.name.removeprefix("shape_"),
                (each.cost / unit, each.loss),
                textcoords="offset points",
                xytext=(6, -3),
                fontsize=SMALL - 1,
            )
        best = [each for each in results.checked if each.name in results.pareto]
        handles += axes.plot(
            [each.cost / unit for each in best],
            [each.loss for each in best],
            "o",
            color="black",
            fillstyle="none",
            markersize=9,
            label="Pareto-optimal",
        )
        whole = results.ancestor
        at, loss = [whole.cost / unit], [whole.loss]
        handles += axes.plot(at, loss, "k*", markersize=9, label="ancestor")
        budget: dict[str, Any] = {"color": MARK, "linestyle": ":", "linewidth": 0.8}
        handles.append(axes.axvline(results.limit / unit, label="budget", **budget))
        logarithmic(axes, "y", "held-out loss, nats per target token")
        axes.set_xlabel(words)
        titles([axes], ["Loss of each shape over what it costs"])
        legend_below(figure, handles)
