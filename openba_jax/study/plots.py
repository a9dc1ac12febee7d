"""The plots of a study: losses over tokens, and the last losses with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from openba_jax.report.figures import COLORS, STYLES, figure, save
from openba_jax.study import summary
from openba_jax.study.summary import Results


def plot_curves(results: Results, path: Path) -> None:
    """Draws held-out loss over tokens of recovery; bands are 95% intervals over seeds.

    A panel for each number of tokens; loss on a logarithmic scale.
    """
    budgets = results.tokens
    drawn, axes = _figure(len(budgets))
    for panel, tokens in zip(axes, budgets, strict=True):
        for recipe, stages in summary.curves(results, tokens).items():
            color, style = _look(results, recipe)
            for number, curve in enumerate(stages):
                label = recipe if number == 0 else None
                at = curve.tokens / 1e6
                panel.plot(at, curve.loss, style, color=color, linewidth=1.3, label=label)
                panel.fill_between(at, curve.low, curve.high, color=color, alpha=0.15, linewidth=0)
        panel.axhline(results.ancestor["loss"], color="black", linewidth=0.7, linestyle=":")
        panel.set_yscale("log")
        _plain_ticks(panel)
        panel.set_xlabel("million tokens of recovery, padding included")
    axes[0].set_ylabel("held-out loss, nats per target token")
    axes[-1].legend(fontsize=8, frameon=False)
    drawn.suptitle(
        "Means over seeds, bands of 95%; dotted: the ancestor", x=0.01, ha="left", fontsize=11
    )
    save(drawn, path)


def plot_ends(results: Results, path: Path) -> None:
    """Draws the last loss of every recipe, a dot for each seed and the interval of the mean.

    Where there are several numbers of tokens, losses are drawn over these.
    """
    from matplotlib.ticker import NullFormatter

    found = summary.lines(results)
    drawn, (panel,) = _figure(1)
    if len(results.tokens) > 1:
        for recipe in results.recipes:
            mine = [line for line in found if line.recipe == recipe]
            color, style = _look(results, recipe)
            errors = np.array([_half(line.loss) for line in mine])
            panel.errorbar(
                [line.tokens / 1e6 for line in mine],
                [line.loss.value for line in mine],
                yerr=errors,
                color=color,
                linestyle=style,
                marker="o",
                markersize=3.5,
                capsize=2,
                label=recipe,
            )
        panel.set_xscale("log")
        panel.set_yscale("log")
        _plain_ticks(panel)
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xticks(
            [tokens / 1e6 for tokens in results.tokens],
            [f"{tokens / 1e6:g}" for tokens in results.tokens],
        )
        panel.set_xlabel("million tokens of recovery, padding included")
        panel.set_ylabel("last held-out loss")
        panel.legend(fontsize=8, frameon=False)
    else:
        for place, line in enumerate(found):
            color, _ = _look(results, line.recipe)
            cells = results.of(line.recipe, line.tokens).values()
            panel.plot(
                [cell["loss"] for cell in cells],
                [place] * len(cells),
                "o",
                color=color,
                alpha=0.4,
                markersize=4,
            )
            panel.errorbar(
                line.loss.value, place, xerr=_half(line.loss), color=color, marker="|", capsize=3
            )
        panel.set_yticks(range(len(found)), [line.recipe for line in found])
        panel.invert_yaxis()
        panel.set_xlabel("last held-out loss, nats per target token")
    save(drawn, path)


def _half(mean: Any) -> float:
    return 0.0 if mean.high is None else mean.high - mean.value


def _look(results: Results, recipe: str) -> tuple[str, str]:
    number = results.recipes.index(recipe)
    return COLORS[number % len(COLORS)], STYLES[number // len(COLORS) % len(STYLES)]


def _plain_ticks(panel: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())


def _figure(panels: int) -> tuple[Any, Any]:
    made, axes = figure(1, panels, (max(8.0, 4.2 * panels), 4.6), sharey=True)
    return made, axes[0]
