"""The plots of a staged run: losses over tokens, and what its vocabulary covers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openba_jax.files import atomic_path
from openba_jax.pruning.vocabulary import coverage

# Colours of a palette that colour-blind readers can tell apart (Okabe and Ito).
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"


@dataclasses.dataclass(frozen=True)
class Curve:
    """Losses over the tokens of one stage, which are counted from its start.

    Attributes:
      name: of the stage.
      start: tokens of the stages before.
      tokens: int `[points]`.
      losses: float `[points]`, of training.
      evaluated_tokens: int `[evaluations]`.
      evaluated: float `[evaluations]`, losses on held-out batches: those of the table.
      control: drawn apart from the stages.
    """

    name: str
    start: int
    tokens: Sequence[int]
    losses: Sequence[float]
    evaluated_tokens: Sequence[int] = ()
    evaluated: Sequence[float] = ()
    control: bool = False


def plot_losses(curves: Sequence[Curve], path: str | Path) -> None:
    """Draws loss over tokens: on the left of the ancestor, on the right of stages and controls.

    Every cut is marked; controls are grey. The first curve is the ancestor's; one that the run has
    not trained is a dot.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure, (ancestor, recovery) = _figure(width_ratios=(1, 3))
    for curve in curves:
        first = curve is curves[0]
        axes = ancestor if first else recovery
        color = GREY if curve.control else BLUE
        at = (curve.start + np.asarray(curve.tokens)) / 1e6
        axes.plot(
            at,
            curve.losses,
            color=color,
            linestyle="--" if curve.control else "-",
            linewidth=1 if curve.control else 1.5,
        )
        evaluated_at = (curve.start + np.asarray(curve.evaluated_tokens)) / 1e6
        axes.plot(evaluated_at, curve.evaluated, "o", color=color, markersize=3.5)
        if curve.control:
            end = (evaluated_at[-1], curve.evaluated[-1])
            axes.annotate(f"  {curve.name}", end, color=color, fontsize=8, va="center")
        elif not first:
            axes.axvline(curve.start / 1e6, color=ORANGE, linewidth=0.8, linestyle=":")
            axes.annotate(
                curve.name,
                (curve.start / 1e6, 1.01),
                xycoords=("data", "axes fraction"),
                color=ORANGE,
                fontsize=8,
                rotation=30,
                rotation_mode="anchor",
            )
    # What pruning costs is small beside what the first steps of training win.
    ancestor.set_yscale("log")
    ancestor.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)))
    ancestor.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ancestor.yaxis.set_minor_formatter(NullFormatter())
    ancestor.set_ylabel("loss, nats per target token")
    ancestor.set_xlim(left=0)
    figure.supxlabel("million tokens, padding included", fontsize="medium")
    figure.suptitle(
        "Loss of training (lines) and on held-out text (dots); dotted lines are cuts",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    _save(figure, path)


def plot_coverage(counts: np.ndarray, kept: int | None, path: str | Path) -> None:
    """Draws the share of all tokens that the K most frequent pieces cover.

    Args:
      counts: int `[ids]`.
      kept: marks this K.
      path: the PNG file.
    """
    curve = coverage(counts)
    figure, (axes,) = _figure()
    axes.plot(np.arange(1, len(curve) + 1), 100 * curve, color=BLUE)
    if kept is not None:
        covered = 100 * curve[min(kept, len(curve)) - 1]
        axes.axvline(kept, color=ORANGE, linewidth=0.8, linestyle=":")
        axes.annotate(
            f" {kept:,} pieces: {covered:.2f}% ",
            (kept, 4),
            color=ORANGE,
            ha="left" if kept < len(curve) / 2 else "right",
        )
    axes.set_ylim(0, 103)
    axes.set_xlabel("most frequent pieces kept")
    axes.set_ylabel("% of all tokens covered")
    axes.set_title("Vocabulary coverage", loc="left", fontsize=11)
    _save(figure, path)


def _figure(width_ratios: Sequence[float] = (1,)) -> tuple[Any, Any]:
    """A figure, and its axes side by side, which share the vertical one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        ncols=len(width_ratios),
        sharey=True,
        squeeze=False,
        width_ratios=width_ratios,
        figsize=(9, 4.5),
        layout="constrained",
    )
    for each in axes[0]:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(axis="y", linewidth=0.3)
    return figure, axes[0]


def _save(figure: Any, path: str | Path) -> None:
    """Writes a PNG."""
    from matplotlib import pyplot

    with atomic_path(path) as file:
        figure.savefig(file, format="png", dpi=130)
    pyplot.close(figure)
