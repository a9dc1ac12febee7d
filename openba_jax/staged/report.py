"""The table and the plots of a staged run: what pruning cost and what recovery brought back."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openba_jax.files import atomic_path
from openba_jax.pruning.vocabulary import coverage

# Colours of a palette that colour-blind readers can tell apart (Okabe and Ito).
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"


@dataclasses.dataclass(frozen=True)
class Row:
    """One model of a staged run; None where a figure does not apply.

    Attributes:
      name: of the stage or control.
      parameters: number of parameters.
      flops: training FLOPs of one example.
      tokens: positions trained on in this stage, padding included.
      loss_before: loss of the parent, nats per target token.
      loss_pruned: loss right after the cut, on the same batches.
      loss_recovered: loss after recovery, on the same batches.
      accuracy_pruned: share of questions answered rightly right after the cut.
      accuracy_recovered: the same after recovery.
      accuracy_tuned: the same after instruction tuning.
      control: the row is a comparison, no step of the way.
    """

    name: str
    parameters: int
    flops: float
    tokens: int
    loss_before: float | None = None
    loss_pruned: float | None = None
    loss_recovered: float | None = None
    accuracy_pruned: float | None = None
    accuracy_recovered: float | None = None
    accuracy_tuned: float | None = None
    control: bool = False


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


@dataclasses.dataclass(frozen=True)
class Finding:
    """A question that the run answers with yes or no.

    Attributes:
      claim: the question as a claim.
      holds: whether this run shows it.
      figures: the numbers behind it.
    """

    claim: str
    holds: bool
    figures: str


HEADER = (
    "model",
    "parameters",
    "of the ancestor",
    "GFLOP/example",
    "tokens",
    "loss before",
    "loss after prune",
    "loss after recovery",
    "accuracy after prune",
    "accuracy after recovery",
    "accuracy after tuning",
)


def findings(rows: Sequence[Row], chance: float, final: str) -> list[Finding]:
    """What the run shows of the claims of staged pruning.

    Args:
      rows: the unpruned model first, then the stages, then controls.
      chance: accuracy of a guess.
      final: name of the last stage.

    Returns:
      A finding per claim; none is left out because it fails.
    """
    by_name = {row.name: row for row in rows}
    root, last = rows[0], by_name[final]
    found = []
    stages = [row for row in rows[1:] if row.loss_pruned and not row.control]
    worse = [r.name for r in stages if (r.loss_recovered or np.inf) >= (r.loss_pruned or 0.0)]
    found.append(
        Finding(
            "every stage ends with a lower loss than right after its cut",
            not worse,
            "not so: " + ", ".join(worse) if worse else f"{len(stages)} of {len(stages)} stages",
        )
    )
    ordered = [last, *(row for row in rows if row.control)]
    for better, other in itertools.combinations(ordered, 2):
        if better.loss_recovered is None or other.loss_recovered is None:
            continue
        found.append(
            Finding(
                f"{better.name} ends with a lower loss than {other.name}",
                better.loss_recovered < other.loss_recovered,
                f"{better.loss_recovered:.3f} against {other.loss_recovered:.3f}",
            )
        )
    if root.accuracy_tuned is not None and last.accuracy_tuned is not None:
        kept = (last.accuracy_tuned - chance) / max(root.accuracy_tuned - chance, 1e-9)
        share = last.parameters / root.parameters
        found.append(
            Finding(
                "at most 30% of the parameters keep at least 80% of the accuracy above chance",
                kept >= 0.8 and share <= 0.3,
                f"{share:.1%} of the parameters keep {kept:.1%}: {last.accuracy_tuned:.1%} against "
                f"{root.accuracy_tuned:.1%}, chance {chance:.1%}",
            )
        )
    return found


def table(rows: Sequence[Row]) -> list[list[str]]:
    """The rows as text, `HEADER` on top."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    ancestor = rows[0].parameters
    lines = [list(HEADER)]
    for row in rows:
        lines.append(
            [
                row.name,
                f"{row.parameters:,}",
                f"{row.parameters / ancestor:.1%}",
                f"{row.flops / 1e9:.3g}",
                f"{row.tokens:,}",
                number(row.loss_before, ".3f"),
                number(row.loss_pruned, ".3f"),
                number(row.loss_recovered, ".3f"),
                number(row.accuracy_pruned, ".1%"),
                number(row.accuracy_recovered, ".1%"),
                number(row.accuracy_tuned, ".1%"),
            ]
        )
    return lines


def as_text(rows: Sequence[Row], found: Sequence[Finding]) -> str:
    """The table for a terminal, and below it what the run shows."""
    lines = table(rows)
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    text = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    text += [f"{'yes' if f.holds else 'NO '}  {f.claim} ({f.figures})" for f in found]
    return "\n".join(text) + "\n"


def as_markdown(
    rows: Sequence[Row], found: Sequence[Finding], samples: Sequence[tuple[str, str]]
) -> str:
    """The table, the findings and some prompts with their answers, in Markdown."""
    head, *body = table(rows)
    text = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    text += ["| " + " | ".join(line) + " |" for line in body]
    text += ["", "| this run shows that | |", "|---|---|"]
    text += [f"| {f.claim} | **{'yes' if f.holds else 'no'}**: {f.figures} |" for f in found]
    text += ["", "| question | answer of the final model |", "|---|---|"]
    text += ["| " + " | ".join(map(_cell, sample)) + " |" for sample in samples]
    return "\n".join(text) + "\n"


def _cell(text: str) -> str:
    """Any text as one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", r"\|")


def as_json(
    rows: Sequence[Row],
    found: Sequence[Finding],
    samples: Sequence[tuple[str, str]],
    scores: Mapping[str, Any],
) -> str:
    """Everything, for programs."""
    return (
        json.dumps(
            {
                "rows": [dataclasses.asdict(row) for row in rows],
                "findings": [dataclasses.asdict(finding) for finding in found],
                "samples": [list(sample) for sample in samples],
                "scores": scores,
            },
            indent=2,
            ensure_ascii=False,
        )
        + "\n"
    )


def plot_losses(curves: Sequence[Curve], path: str | Path) -> None:
    """Draws loss over tokens: on the left of the ancestor, on the right of stages and controls.

    Every cut is marked; controls are grey.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure, (ancestor, recovery) = _figure(width_ratios=(1, 3))
    for curve in curves:
        axes = recovery if curve.start else ancestor
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
            end = (at[-1], curve.losses[-1])
            axes.annotate(f"  {curve.name}", end, color=color, fontsize=8, va="center")
        elif curve.start:
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
