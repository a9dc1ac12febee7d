"""The plot of a search: losses over what candidates cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from openba_jax.files import atomic_path
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

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_COLORS = ("#999999", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7")


def plot(results: Results, path: Path) -> None:
    """Draws the loss of every candidate over its cost, a colour for each number of steps.

    Pareto-optimal ones have a ring around their last loss; the ancestor is a star, the budget a
    line.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    words, unit = _UNITS[results.budget.kind]
    figure, axes = pyplot.subplots(figsize=(8.0, 4.6), layout="constrained")
    steps = sorted({step for each in results.checked for step in each.losses})
    for number, step in enumerate(steps):
        there = [each for each in results.checked if step in each.losses]
        label = f"after {step} steps" if step else "after the cut"
        axes.plot(
            [each.cost / unit for each in there],
            [each.losses[step] for each in there],
            "o",
            color=_COLORS[number % len(_COLORS)],
            markersize=4,
            label=label,
        )
    for each in results.checked:
        at = [each.cost / unit] * len(each.losses)
        axes.plot(at, list(each.losses.values()), color="#cccccc", linewidth=0.7, zorder=0)
        axes.annotate(
            each.name.removeprefix("shape_"),
            (each.cost / unit, each.loss),
            textcoords="offset points",
            xytext=(6, -3),
            fontsize=7,
        )
    best = [each for each in results.checked if each.name in results.pareto]
    axes.plot(
        [each.cost / unit for each in best],
        [each.loss for each in best],
        "o",
        color="black",
        fillstyle="none",
        markersize=9,
        label="Pareto",
    )
    whole = results.ancestor
    axes.plot([whole.cost / unit], [whole.loss], "k*", markersize=9, label="ancestor")
    axes.axvline(results.limit / unit, color="black", linewidth=0.7, linestyle=":", label="budget")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    low, high = axes.get_ylim()
    wide = LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0))
    axes.yaxis.set_major_locator(wide if high > 2 * low else MaxNLocator(6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(words)
    axes.set_ylabel("held-out loss, nats per target token")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.3)
    axes.legend(fontsize=8, frameon=False)
    with atomic_path(path) as file:
        figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)
