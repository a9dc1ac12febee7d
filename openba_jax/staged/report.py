"""The table and the findings of a staged run: what pruning cost, what recovery brought back."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openba_jax.evaluation.score import Score
from openba_jax.language import Phrase, phrase, told
from openba_jax.language.columns import columns
from openba_jax.staged.plots import Curve
from openba_jax.staged.recovery import tokens_to_reach


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
      tokens_to_recover: positions trained on until that loss is within 5% of `loss_before`; None
        if it never is.
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
    tokens_to_recover: float | None = None
    accuracy_pruned: float | None = None
    accuracy_recovered: float | None = None
    accuracy_tuned: float | None = None
    control: bool = False


@dataclasses.dataclass(frozen=True)
class Finding:
    """A question that the run answers with yes or no.

    Attributes:
      claim: the question as a claim.
      holds: whether this run shows it.
      figures: the numbers behind it.
    """

    claim: Phrase
    holds: bool
    figures: Phrase


HEADER = (
    "model",
    "parameters",
    "of the ancestor",
    "GFLOP/example",
    "tokens",
    "loss before",
    "loss after prune",
    "loss after recovery",
    "tokens to recover",
    "accuracy after prune",
    "accuracy after recovery",
    "accuracy after tuning",
)


def findings(rows: Sequence[Row], chance: float, final: str) -> list[Finding]:
    """What the run shows of the claims of staged pruning.

    Args:
      rows: the ancestor first, then the stages, then controls.
      chance: accuracy of a guess.
      final: name of the last stage.

    Returns:
      A finding per claim; none is left out because it fails.
    """
    by_name = {row.name: row for row in rows}
    ancestor, last = rows[0], by_name[final]
    found = []
    stages = [row for row in rows[1:] if row.loss_pruned and row.loss_recovered]
    stages = [row for row in stages if not row.control]
    worse = [r.name for r in stages if (r.loss_recovered or np.inf) >= (r.loss_pruned or 0.0)]
    if stages:
        found.append(
            Finding(
                phrase("every stage ends with a lower loss than right after its cut"),
                not worse,
                phrase("not so: {names}", names=", ".join(worse))
                if worse
                else phrase("{count} of {count} stages", count=len(stages)),
            )
        )
    ordered = [last, *(row for row in rows if row.control)]
    for better, other in itertools.combinations(ordered, 2):
        if better.loss_recovered is None or other.loss_recovered is None:
            continue
        found.append(
            Finding(
                phrase(
                    "{one} ends with a lower loss than {other}", one=better.name, other=other.name
                ),
                better.loss_recovered < other.loss_recovered,
                phrase(
                    "{one:.3f} against {other:.3f}",
                    one=better.loss_recovered,
                    other=other.loss_recovered,
                ),
            )
        )
    before, after = (
        row.accuracy_recovered if row.accuracy_tuned is None else row.accuracy_tuned
        for row in (ancestor, last)
    )
    if before is not None and after is not None:
        kept = (after - chance) / max(before - chance, 1e-9)
        share = last.parameters / ancestor.parameters
        found.append(
            Finding(
                phrase(
                    "at most 30% of the parameters keep at least 80% of the accuracy above chance"
                ),
                kept >= 0.8 and share <= 0.3,
                phrase(
                    "{share:.1%} of the parameters keep {kept:.1%}: {after:.1%} against "
                    "{before:.1%}, chance {chance:.1%}",
                    **{"share": share, "kept": kept, "after": after},
                    **{"before": before, "chance": chance},
                ),
            )
        )
    return found


def speed_findings(curves: Sequence[Curve], final: str) -> list[Finding]:
    """Whether the staged run reaches what each control ends at with fewer tokens.

    Args:
      curves: the ancestor first, then the stages, then controls.
      final: name of the last stage; the losses of larger models before it do not count.
    """
    ancestor, stages = curves[0], [curve for curve in curves[1:] if not curve.control]
    last = next(curve for curve in stages if curve.name == final)
    start = stages[0].start
    found = []
    for control in (curve for curve in curves if curve.control):
        if control.name == ancestor.name or control.evaluated_tokens[-1] == 0:
            continue
        tokens = [last.start - start + each for each in last.evaluated_tokens]
        reached = tokens_to_reach(tokens, last.evaluated, control.evaluated[-1])
        total = control.evaluated_tokens[-1]
        figures: dict[str, Any] = {"loss": control.evaluated[-1], "total": total}
        found.append(
            Finding(
                phrase(
                    "{one} reaches the last loss of {other} with fewer tokens of recovery",
                    **{"one": final, "other": control.name},
                ),
                reached is not None and reached < total,
                phrase("{loss:.3f} not reached of {total:,}", **figures)
                if reached is None
                else phrase(
                    "{loss:.3f} after {reached:,.0f} of {total:,} ({share:.0%})",
                    **figures,
                    **{"reached": reached, "share": reached / total},
                ),
            )
        )
    return found


def table(rows: Sequence[Row]) -> list[list[str]]:
    """The rows as text, below `HEADER` in the language of the reader; empty columns are left out.

    A loss that is not recovered is `not reached`, and a figure that does not apply is `-`.
    """

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    ancestor = rows[0].parameters
    lines = [[told(head) for head in HEADER]]
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
                _tokens_to_recover(row),
                number(row.accuracy_pruned, ".1%"),
                number(row.accuracy_recovered, ".1%"),
                number(row.accuracy_tuned, ".1%"),
            ]
        )
    kept = [place for place in range(len(HEADER)) if {line[place] for line in lines[1:]} != {"-"}]
    return [[line[place] for place in kept] for line in lines]


def _tokens_to_recover(row: Row) -> str:
    if row.loss_before is None or row.loss_recovered is None:
        return "-"
    if row.tokens_to_recover is None:
        return told("not reached")
    return f"{row.tokens_to_recover:,.0f}"


def as_text(
    rows: Sequence[Row], found: Sequence[Finding], skipped: Mapping[str, int] | None = None
) -> str:
    """The table for a terminal, and below it what the run shows.

    Args:
      rows: the ancestor first.
      found: what the run shows.
      skipped: name of a scored model -> questions that it could not be asked.
    """
    lines = table(rows)
    widths = [max(columns(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join(" " * (w - columns(c)) + c for c, w in zip(line, widths, strict=True))
        for line in lines
    ]
    text += [
        f"{told('yes' if f.holds else 'NO ')}  {f.claim.told()} ({f.figures.told()})" for f in found
    ]
    if note := _skip_note(skipped or {}):
        text.append(note)
    return "\n".join(text) + "\n"


def as_markdown(
    rows: Sequence[Row],
    found: Sequence[Finding],
    samples: Sequence[tuple[str, str]],
    skipped: Mapping[str, int] | None = None,
) -> str:
    """The table, the findings and some prompts with their answers, in Markdown."""
    head, *body = table(rows)
    text = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    text += ["| " + " | ".join(line) + " |" for line in body]
    if note := _skip_note(skipped or {}):
        text += ["", note]
    text += ["", f"| {told('this run shows that')} | |", "|---|---|"]
    text += [
        f"| {f.claim.told()} | **{told('yes' if f.holds else 'no')}**: {f.figures.told()} |"
        for f in found
    ]
    if samples:
        text += ["", f"| {told('question')} | {told('answer of the final model')} |", "|---|---|"]
        text += ["| " + " | ".join(map(_cell, sample)) + " |" for sample in samples]
    return "\n".join(text) + "\n"


def _cell(text: str) -> str:
    """Any text as one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", r"\|")


def as_dict(
    rows: Sequence[Row],
    found: Sequence[Finding],
    samples: Sequence[tuple[str, str]],
    scores: Mapping[str, Mapping[str, Score]],
) -> dict[str, Any]:
    """Everything, for programs: a JSON value, in English."""
    return {
        "rows": [dataclasses.asdict(row) for row in rows],
        "findings": [
            {"claim": str(each.claim), "holds": each.holds, "figures": str(each.figures)}
            for each in found
        ],
        "samples": [list(sample) for sample in samples],
        "scores": {
            name: {subject: dataclasses.asdict(score) for subject, score in by_subject.items()}
            for name, by_subject in scores.items()
        },
    }


def _skip_note(skipped: Mapping[str, int]) -> str:
    """Says what models could not be asked some of the questions; empty where all could."""
    some = [f"{name} {count}" for name, count in skipped.items() if count]
    if not some:
        return ""
    return told(
        "Questions that do not fit a model count as answered wrongly: {models}.",
        models=", ".join(some),
    )
