"""The plots of a study: losses over tokens, and the last losses with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from openba_jax.plotting.picture import MARK, legend_below, logarithmic, look, picture, titles
from openba_jax.study import summary
from openba_jax.study.summary import Results

TOKENS = "million tokens of recovery, padding included"
LOSS = "held-out loss, nats per target token"


def plot_curves(results: Results, path: Path) -> None:
    """Draws held-out loss over tokens of recovery; bands are 95% intervals over seeds.

    A panel for each number of tokens; loss on a logarithmic scale.
    """
    budgets = results.tokens
    widen = max(1.0, len(budgets) / 2)
    grid: dict[str, Any] = {"ncols": len(budgets), "sharey": True}
    with picture(path, height=0.55, widen=widen, **grid) as (figure, panels):
        shown: dict[str, Any] = {}
        for panel, tokens in zip(panels, budgets, strict=True):
            for recipe, stages in summary.curves(results, tokens).items():
                style = _look(results, recipe)
                for curve in stages:
                    at = curve.tokens / 1e6
                    (line,) = panel.plot(at, curve.loss, linewidth=1.3, label=recipe, **style)
                    shown.setdefault(recipe, line)
                    band: dict[str, Any] = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
                    panel.fill_between(at, curve.low, curve.high, **band)
            mark: dict[str, Any] = {
                "color": MARK,
                "linewidth": 0.8,
                "linestyle": ":",
                "label": "ancestor",
            }
            shown["ancestor"] = panel.axhline(results.ancestor["loss"], **mark)
            panel.set_xlabel("million tokens")
        for panel in panels:
            logarithmic(panel, "y", LOSS)
            panel.label_outer()
        titles(panels, [f"{tokens / 1e6:g} million tokens" for tokens in budgets])
        text = "Recovery (tokens with padding):\nmeans over seeds, bands of 95%"
        figure.suptitle(text, x=0.01, ha="left", fontsize=11)
        legend_below(
            figure, [*(shown[r] for r in results.recipes if r in shown), shown["ancestor"]]
        )


def plot_ends(results: Results, path: Path) -> None:
    """Draws the last loss of every recipe, a dot for each seed and the interval of the mean.

    Where there are several numbers of tokens, losses are drawn over these.
    """
    found = summary.lines(results)
    height = 0.5 if len(results.tokens) > 1 else max(0.35, 0.1 + 0.04 * len(found))
    with picture(path, height=height) as (figure, (panel,)):
        if len(results.tokens) > 1:
            handles = []
            for recipe in results.recipes:
                mine = [line for line in found if line.recipe == recipe]
                handles.append(
                    panel.errorbar(
                        [line.tokens / 1e6 for line in mine],
                        [line.loss.value for line in mine],
                        yerr=np.array([_half(line.loss) for line in mine]),
                        marker="o",
                        markersize=3.5,
                        capsize=2,
                        label=recipe,
                        **_look(results, recipe),
                    )
                )
            logarithmic(panel, "x", TOKENS)
            logarithmic(panel, "y", LOSS)
            millions = [tokens / 1e6 for tokens in results.tokens]
            panel.set_xticks(millions, [f"{each:g}" for each in millions])
            titles([panel], ["Last losses: means over seeds, intervals of 95%"])
            legend_below(figure, handles)
            return
        for place, line in enumerate(found):
            color = _look(results, line.recipe)["color"]
            losses = [cell["loss"] for cell in results.of(line.recipe, line.tokens).values()]
            panel.plot(losses, [place] * len(losses), "o", color=color, alpha=0.4, markersize=4)
            interval: dict[str, Any] = {"xerr": _half(line.loss), "marker": "|", "capsize": 3}
            panel.errorbar(line.loss.value, place, color=color, **interval)
        panel.set_yticks(range(len(found)), [line.recipe for line in found])
        panel.invert_yaxis()
        panel.set_xlabel(LOSS)
        titles([panel], ["Last losses: a dot per seed, the mean and its interval of 95%"])


def _half(mean: Any) -> float:
    return 0.0 if mean.high is None else mean.high - mean.value


def _look(results: Results, recipe: str) -> dict[str, Any]:
    return look(results.recipes.index(recipe))
