"""A bar plot that compares models on benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from openba_jax.evaluation.benchmarks.base import TOTAL
from openba_jax.evaluation.report.tables import Figures, column_name, figure_of
from openba_jax.files import atomic_path

WIDTH_OF_BARS = 0.8
"""Of all bars of a benchmark together; benchmarks stand at a distance of 1."""


def bars(models: Mapping[str, Figures], file: Path) -> None:
    """Draws a group of bars for each benchmark, with 95% intervals and marks of chance.

    Args:
      models: figures by name of model.
      file: a PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = list(dict.fromkeys(label for figures in models.values() for label in figures))
    width = WIDTH_OF_BARS / len(models)
    figure, axes = pyplot.subplots(figsize=(max(5.0, 1.6 + 1.1 * len(labels)), 3.6))
    for number, (model, figures) in enumerate(models.items()):
        places, heights, below, above = [], [], [], []
        for index, label in enumerate(labels):
            value = figure_of(figures[label][TOTAL]) if label in figures else None
            if value is None:
                continue
            low, high = figures[label][TOTAL].get("interval", (value, value))
            places.append(index + (number - (len(models) - 1) / 2) * width)
            heights.append(100 * value)
            below.append(100 * max(0.0, value - low))
            above.append(100 * max(0.0, high - value))
        axes.bar(places, heights, width, label=model, yerr=[below, above], capsize=2)
    for index, label in enumerate(labels):
        owner = next(figures for figures in models.values() if label in figures)
        chance = owner[label][TOTAL].get("chance")
        if chance is not None:
            left, right = index - WIDTH_OF_BARS / 2, index + WIDTH_OF_BARS / 2
            axes.hlines(100 * chance, left, right, colors="black", linestyles="dotted")
    names = [
        column_name(label, next(each for each in models.values() if label in each))
        for label in labels
    ]
    axes.set_xticks(range(len(labels)), names if len(set(names)) == len(names) else labels)
    axes.set_ylabel("%, dotted: chance")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    figure.tight_layout()
    with atomic_path(file) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)
