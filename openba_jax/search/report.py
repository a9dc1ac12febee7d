"""What a search found: a table of all candidates, as text, Markdown, JSON and a plot."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openba_jax.files import write_atomically, write_json
from openba_jax.search import plots
from openba_jax.search.budget import MILLISECONDS, Budget
from openba_jax.search.damage import MEASURED, SCORES
from openba_jax.search.grid import text_of

PLOT = "search.png"


@dataclasses.dataclass(frozen=True)
class Checked:
    """A shape that was tried, or the ancestor.

    Attributes:
      name: of the candidate.
      values: of what may move, by name.
      damage: what it was estimated to lose, in nats.
      cost: in the budget's unit.
      parameters: number of parameters.
      bytes: of all of them, in the type of the budget.
      flops_per_example: of training.
      milliseconds_per_token: of greedy decoding; None if that was not measured.
      losses: held-out, by steps of training since the cut, nats per target token of the ancestor's
        vocabulary.
    """

    name: str
    values: Mapping[str, int]
    damage: float
    cost: float
    parameters: float
    bytes: float
    flops_per_example: float
    milliseconds_per_token: float | None
    losses: Mapping[int, float]

    @property
    def steps(self) -> int:
        """How long it was trained."""
        return max(self.losses)

    @property
    def loss(self) -> float:
        """Its last loss."""
        return self.losses[self.steps]


@dataclasses.dataclass(frozen=True)
class Results:
    """What a search found.

    Attributes:
      budget: what was limited.
      limit: to what.
      shapes: how many shapes were looked at.
      ancestor: the whole model.
      checked: all candidates.
      estimate: of what shapes lose, one of `damage.ESTIMATES`.
    """

    budget: Budget
    limit: float
    shapes: int
    ancestor: Checked
    checked: Sequence[Checked]
    estimate: str

    @property
    def best(self) -> str:
        """The name of the candidate with the lowest loss among those trained longest."""
        longest = max(each.steps for each in self.checked)
        last = [each for each in self.checked if each.steps == longest]
        return min(last, key=lambda each: each.loss).name

    @property
    def pareto(self) -> list[str]:
        """Names of the candidates than which none is cheaper, or as cheap, and better."""
        return [a.name for a in self.checked if not any(_beats(b, a) for b in self.checked)]

    @property
    def agreement(self) -> float | None:
        """Spearman's correlation of estimates and losses after the cut; None for fewer than 3."""
        if len(self.checked) < _FEWEST:
            return None
        ranks = [
            _ranks([each.damage for each in self.checked]),
            _ranks([each.losses[0] for each in self.checked]),
        ]
        if min(np.ptp(each) for each in ranks) == 0:
            return None
        return float(np.corrcoef(ranks)[0, 1])


def _beats(one: Checked, other: Checked) -> bool:
    """Whether one costs no more and has no higher loss, and is better in one of the two.

    Losses are compared at the last step that both were trained to.
    """
    step = min(one.steps, other.steps)
    loss, other_loss = one.losses[step], other.losses[step]
    no_worse = one.cost <= other.cost and loss <= other_loss
    return no_worse and (one.cost < other.cost or loss < other_loss)


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 0; those of equal values are averaged."""
    found = np.array(values)
    below = (found[:, None] > found).sum(axis=1)
    return below + ((found[:, None] == found).sum(axis=1) - 1) / 2


_FEWEST = 3


def rows(results: Results) -> list[list[str]]:
    """The table: heads, the ancestor, and the candidates."""
    everyone = [results.ancestor, *results.checked]
    steps = sorted({step for each in results.checked for step in each.losses if step})
    timed = any(each.milliseconds_per_token is not None for each in everyone)
    head = [
        "",
        *results.ancestor.values,
        "parameters",
        "GFLOP/example",
        f"MB {results.budget.dtype}",
    ]
    head += ["ms/token"] if timed else []
    head += ["estimated damage", "loss after the cut", *(f"after {step} steps" for step in steps)]
    table = [[*head, "Pareto"]]
    pareto = results.pareto
    for each in everyone:
        row = [each.name, *(f"{value:,}" for value in each.values.values())]
        row += [f"{each.parameters:,}", f"{each.flops_per_example / 1e9:.4g}"]
        row.append(f"{each.bytes / 1e6:.4g}")
        if timed:
            time = each.milliseconds_per_token
            row.append("-" if time is None else f"{time:.3g}")
        row += [f"{each.damage:.4f}", f"{each.losses[0]:.4f}"]
        row += [f"{each.losses[step]:.4f}" if step in each.losses else "-" for step in steps]
        table.append([*row, "yes" if each.name in pareto else ""])
    return table


def statements(results: Results) -> list[str]:
    """What the table shows, in sentences."""
    best = next(each for each in results.checked if each.name == results.best)
    shape = text_of(best.values)
    found = [
        f"{best.name} is the best of {len(results.checked)} candidates: loss {best.loss:.4f} after "
        f"{best.steps} steps, at {results.budget.show(best.cost)} ({shape}). The ancestor has "
        f"{results.ancestor.loss:.4f} at {results.budget.show(results.ancestor.cost)}."
    ]
    if results.agreement is not None:
        found.append(
            f"Estimates and losses right after the cut agree to {results.agreement:.2f} "
            "(Spearman's correlation of ranks over the candidates)."
        )
    return found


def write(folder: Path, results: Results) -> str:
    """Writes `search.md`, `search.json` and the plot; returns the report as text."""
    found = statements(results)
    write_json(folder / "search.json", as_dict(results, found))
    plots.plot(results, folder / PLOT)
    write_atomically(folder / "search.md", as_markdown(results, found))
    table = rows(results)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in table]
    return "\n".join([*lines, *found]) + "\n"


def as_markdown(results: Results, found: Sequence[str]) -> str:
    """The report in Markdown."""
    head, *body = rows(results)
    budget = results.budget
    lines = [
        "# Search",
        "",
        f"Budget: {budget.show(results.limit)}. {results.shapes:,} shapes were ranked by their "
        f"estimates, and {len(results.checked)} of them tried.",
        "",
        "| " + " | ".join(head) + " |",
        "|---" + "|---:" * (len(head) - 1) + "|",
        *("| " + " | ".join(row) + " |" for row in body),
        "",
        "Losses are held-out, in nats per target token; estimates are sums of "
        + _SUMS[results.estimate]
        + ", in nats. Pareto: no candidate that costs as little is better, at the last step that "
        "both were trained to."
        + (" Milliseconds are measured, greedy, on this device." if _timed(results) else ""),
        "",
        *(f"- {sentence}" for sentence in found),
        "",
        f"![loss over the budget]({PLOT})",
    ]
    return "\n".join(lines) + "\n"


def as_dict(results: Results, found: Sequence[str]) -> dict[str, Any]:
    """Everything, for programs: a JSON value."""
    pareto = results.pareto

    def plain(each: Checked) -> dict[str, Any]:
        return {
            **dataclasses.asdict(each),
            "losses": {str(step): loss for step, loss in sorted(each.losses.items())},
        }

    return {
        "budget": {"kind": results.budget.kind, "limit": results.limit},
        "shapes": results.shapes,
        "estimate": results.estimate,
        "ancestor": plain(results.ancestor),
        "candidates": [{**plain(each), "pareto": each.name in pareto} for each in results.checked],
        "best": results.best,
        "agreement": results.agreement,
        "statements": list(found),
    }


_SUMS = {
    MEASURED: "what the loss rises by along each size alone",
    SCORES: "the scores of all that is dropped",
}


def _timed(results: Results) -> bool:
    return results.budget.kind == MILLISECONDS or any(
        each.milliseconds_per_token is not None for each in results.checked
    )
