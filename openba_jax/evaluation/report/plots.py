"""A bar plot that compares models on benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openba_jax.evaluation.benchmarks.base import TOTAL
from openba_jax.evaluation.report.tables import Figures, column_name, figure_of
from openba_jax.plotting.picture import COLORS, legend_below, picture, titles

WIDTH_OF_BARS = 0.8
"""Of all bars of a benchmark together; benchmarks stand at a distance of 1."""
BARS = 40
"""More bars than these make the picture wider."""
CHARACTERS = 60
"""Longer names together stand slantwise."""


def bars(models: Mapping[str, Figures], file: Path) -> None:
    """Draws a group of bars for each benchmark, with 95% intervals and marks of chance.

    Args:
      models: figures by name of model.
      file: a PNG file.
    """
    labels = list(dict.fromkeys(label for figures in models.values() for label in figures))
    owners = [next(each for each in models.values() if label in each) for label in labels]
    names = [column_name(label, owner) for label, owner in zip(labels, owners, strict=True)]
    names = names if len(set(names)) == len(names) else labels
    widen = max(1.0, len(models) * len(labels) / BARS)
    with picture(file, height=0.45, widen=widen) as (figure, (axes,)):
        handles: list[Any] = []
        for number, (model, figures) in enumerate(models.items()):
            shift = (number - (len(models) - 1) / 2) * WIDTH_OF_BARS / len(models)
            places, heights, errors = _heights(labels, figures, shift)
            handles.append(
                axes.bar(
                    places,
                    heights,
                    WIDTH_OF_BARS / len(models),
                    label=model,
                    color=COLORS[number % len(COLORS)],
                    yerr=errors,
                    capsize=2,
                )
            )
        chances = [
            owner[label][TOTAL].get("chance") for label, owner in zip(labels, owners, strict=True)
        ]
        for index, chance in enumerate(chances):
            if chance is not None:
                left, right = index - WIDTH_OF_BARS / 2, index + WIDTH_OF_BARS / 2
                line = axes.hlines(100 * chance, left, right, colors="black", linestyles="dotted")
                line.set_label("chance")
        handles += axes.collections[-1:] if any(c is not None for c in chances) else []
        axes.set_xticks(range(len(labels)), names)
        if sum(map(len, names)) > CHARACTERS * widen:
            axes.tick_params(axis="x", labelrotation=30)
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        axes.set_ylabel("%")
        axes.set_ylim(bottom=0)
        titles([axes], ["Results by benchmark, with 95% intervals"])
        legend_below(figure, handles)


def _heights(
    labels: Sequence[str], figures: Figures, shift: float
) -> tuple[list[float], list[float], tuple[list[float], list[float]]]:
    """Places and heights of the bars of a model, and their intervals below and above."""
    places, heights, below, above = [], [], [], []
    for index, label in enumerate(labels):
        value = figure_of(figures[label][TOTAL]) if label in figures else None
        if value is None:
            continue
        low, high = figures[label][TOTAL].get("interval", (value, value))
        places.append(index + shift)
        heights.append(100 * value)
        below.append(100 * max(0.0, value - low))
        above.append(100 * max(0.0, high - value))
    return places, heights, (below, above)
