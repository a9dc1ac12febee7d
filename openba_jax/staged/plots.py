"""The plots of a staged run: losses over tokens, and what its vocabulary covers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openba_jax.plotting.picture import (
    COLORS,
    MARK,
    SMALL,
    legend_below,
    logarithmic,
    look,
    over_line,
    picture,
    titles,
)
from openba_jax.pruning.vocabulary import coverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
      pieces: of the vocabulary; losses per token of different ones cannot be compared.
    """

    name: str
    start: int
    tokens: Sequence[int]
    losses: Sequence[float]
    evaluated_tokens: Sequence[int] = ()
    evaluated: Sequence[float] = ()
    control: bool = False
    pieces: int = 0


def plot_losses(curves: Sequence[Curve], path: str | Path) -> None:
    """Draws loss over tokens: on the left of the ancestor, on the right of stages and controls.

    Every cut is marked. The first curve is the ancestor's; of one that the run has not trained the
    loss is a line under the others. Losses per token of a smaller vocabulary than its are thin,
    with hollow dots.
    """
    from matplotlib.lines import Line2D

    ancestor, *others = curves
    controls = [curve for curve in others if curve.control]
    grid: dict[str, Any] = {"ncols": 2, "sharey": True, "width_ratios": (1, 3)}
    line: dict[str, Any] = {"color": MARK, "linewidth": 0.8}
    trained = len(ancestor.tokens) > 0
    with picture(path, height=0.6, **(grid if trained else {})) as (figure, panels):
        left, right = panels[0], panels[-1]
        if trained:
            _draw(left, ancestor, ancestor, look(0))
        else:
            right.axhline(ancestor.evaluated[-1], **line)
        for curve in others:
            place = 1 + controls.index(curve) if curve.control else 0
            _draw(right, curve, ancestor, look(place))
            if not curve.control:
                over_line(right, curve.start / 1e6, curve.name)
        # What pruning costs is small beside what the first steps of training win.
        logarithmic(left, "y", "loss, nats per target token")
        right.set_xlabel("million tokens, padding included")
        recovery = "Recovery,\ndotted lines are cuts"
        if trained:
            left.set_xlim(left=0)
            left.set_xlabel("million tokens")
            titles(panels, (f"Training of\n{ancestor.name}", recovery))
        else:
            titles(panels, [recovery])
        handles = [Line2D([], [], label="stage by stage", **look(0))]
        handles += [Line2D([], [], label=c.name, **look(1 + n)) for n, c in enumerate(controls)]
        if not trained:
            handles.append(Line2D([], [], label=ancestor.name, **line))
        dot: dict[str, Any] = {"color": MARK, "marker": "o", "linestyle": "", "markersize": 4}
        handles.append(Line2D([], [], label="held-out text", **dot))
        for pieces in sorted({curve.pieces for curve in others} - {ancestor.pieces}, reverse=True):
            note = f"per token of {pieces:,} pieces: not comparable with {ancestor.pieces:,}"
            handles.append(Line2D([], [], label=note, fillstyle="none", **dot))
        legend_below(figure, handles)


def _draw(panel: Axes, curve: Curve, ancestor: Curve, style: dict[str, Any]) -> None:
    """The line of training and the dots of held-out text."""
    comparable = curve.pieces == ancestor.pieces
    at = (curve.start + np.asarray(curve.tokens)) / 1e6
    panel.plot(at, curve.losses, linewidth=1.5 if comparable else 0.8, **style)
    panel.plot(
        (curve.start + np.asarray(curve.evaluated_tokens)) / 1e6,
        curve.evaluated,
        "o",
        color=style["color"],
        fillstyle="full" if comparable else "none",
        markersize=3.5 if comparable else 4.5,
    )


def plot_coverage(counts: np.ndarray, kept: int | None, path: str | Path) -> None:
    """Draws the share of all tokens that the K most frequent pieces cover.

    Args:
      counts: int `[ids]`.
      kept: marks this K.
      path: the PNG file.
    """
    curve = coverage(counts)
    with picture(path) as (_, (axes,)):
        axes.plot(np.arange(1, len(curve) + 1), 100 * curve, color=COLORS[0])
        if kept is not None:
            covered = 100 * curve[min(kept, len(curve)) - 1]
            axes.axvline(kept, color=MARK, linewidth=0.8, linestyle=":")
            axes.annotate(
                f" {kept:,} pieces: {covered:.2f}% ",
                (kept, 4),
                fontsize=SMALL,
                ha="left" if kept < len(curve) / 2 else "right",
            )
        axes.set_ylim(0, 103)
        axes.set_xlabel("most frequent pieces kept")
        axes.set_ylabel("% of all tokens covered")
        titles([axes], ["Coverage of the vocabulary"])
