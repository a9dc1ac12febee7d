"""What the cells of a study show: means over seeds, differences to the baseline, tokens."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from openba_jax.staged.recovery import tokens_to_reach
from openba_jax.study.statistics import Mean, Ratio, mean, paired, ratio, wilson

Figures = Mapping[str, Any]
"""Of a cell, see `cell_models.run_cell`."""


@dataclasses.dataclass(frozen=True)
class Results:
    """All that a study has found so far.

    Attributes:
      ancestor: its figures: `loss`, `losses` by task, `parameters`, and `scores` if there are
        questions.
      cells: of the cells that are finished.
      recipes: names of all recipes, in order.
      baseline: the one that others are compared with.
      missing: names of the cells that are not finished.
    """

    ancestor: Figures
    cells: Sequence[Figures]
    recipes: Sequence[str]
    baseline: str
    missing: Sequence[str] = ()

    @property
    def tokens(self) -> list[int]:
        """The numbers of tokens that recipes were compared at."""
        return sorted({cell["tokens"] for cell in self.cells})

    def of(self, recipe: str, tokens: int) -> dict[int, Figures]:
        """The cells of a recipe, by seed."""
        return {
            cell["seed"]: cell
            for cell in self.cells
            if cell["recipe"] == recipe and cell["tokens"] == tokens
        }


class Line(NamedTuple):
    """A recipe at a number of tokens.

    Attributes:
      recipe: its name.
      tokens: of recovery.
      parameters: of its last model.
      cut: held-out loss right after the last cut; None of random parameters.
      excess: of the loss after the cut over the ancestor's, as a share of the baseline's; None of
        the baseline itself, and where there is none.
      loss: held-out loss at the end.
      difference: of the losses to the baseline's, seed by seed; None of the baseline itself.
      reach: tokens until the baseline's last loss, over the baseline's tokens; likewise, and None
        where nothing is trained.
    """

    recipe: str
    tokens: int
    parameters: int
    cut: Mean | None
    excess: Ratio | None
    loss: Mean
    difference: Mean | None
    reach: Ratio | None


def lines(results: Results) -> list[Line]:
    """A line for each recipe that has cells, at each number of tokens."""
    found = []
    for tokens in results.tokens:
        baseline = results.of(results.baseline, tokens)
        for recipe in results.recipes:
            cells = results.of(recipe, tokens)
            if not cells:
                continue
            cuts = [cell["loss_cut"] for cell in cells.values() if cell["loss_cut"] is not None]
            compared = recipe != results.baseline
            difference = paired(_losses(cells), _losses(baseline)) if compared else None
            found.append(
                Line(
                    recipe,
                    tokens,
                    next(iter(cells.values()))["parameters"],
                    mean(cuts) if cuts else None,
                    _excess(cells, baseline) if compared else None,
                    mean(list(_losses(cells).values())),
                    difference,
                    _reach(cells, baseline) if compared else None,
                )
            )
    return found


def by_task(results: Results, tokens: int) -> dict[str, dict[str, Mean]]:
    """By recipe and task: the held-out loss."""
    tables = {}
    for recipe in results.recipes:
        if cells := results.of(recipe, tokens):
            first = next(iter(cells.values()))["losses"]
            tables[recipe] = {
                task: mean([cell["losses"][task] for cell in cells.values()]) for task in first
            }
    return tables


class Accuracy(NamedTuple):
    """Right answers: the mean over seeds, and the interval that so many questions leave.

    Attributes:
      share: of right answers.
      low: of the 95% interval by Wilson.
      high: likewise.
      chance: share of a guess.
      questions: how many.
    """

    share: float
    low: float
    high: float
    chance: float
    questions: int


def accuracies(cells: Sequence[Figures]) -> dict[str, Accuracy]:
    """By subject, and in `total`, what models that differ by their seed answer rightly.

    All seeds are asked the same questions, which therefore count once.
    """
    tables = [
        {**cell["scores"]["subjects"], "total": cell["scores"]["total"]}
        for cell in cells
        if "scores" in cell
    ]
    found = {}
    for subject in tables[0] if tables else ():
        count = int(tables[0][subject]["count"])
        share = float(np.mean([table[subject]["right"] / count for table in tables]))
        chance = float(tables[0][subject]["chance"])
        found[subject] = Accuracy(share, *wilson(share, count), chance, count)
    return found


class Curve(NamedTuple):
    """Mean losses of a recipe over tokens of recovery.

    Attributes:
      tokens: float `[points]`.
      loss: float `[points]`, the mean over seeds.
      low: float `[points]`, of the 95% interval; NaN from one seed.
      high: likewise.
    """

    tokens: np.ndarray
    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curves(results: Results, tokens: int) -> dict[str, list[Curve]]:
    """By recipe the curve of each stage."""
    found: dict[str, list[Curve]] = {}
    for recipe in results.recipes:
        cells = list(results.of(recipe, tokens).values())
        for number in range(len(cells[0]["curves"]) if cells else 0):
            stages = [cell["curves"][number] for cell in cells]
            means = [mean(losses) for losses in zip(*(s["losses"] for s in stages), strict=True)]
            found.setdefault(recipe, []).append(
                Curve(
                    np.asarray(stages[0]["tokens"], float) + stages[0]["start"],
                    np.array([each.value for each in means]),
                    np.array([_or_nan(each.low) for each in means]),
                    np.array([_or_nan(each.high) for each in means]),
                )
            )
    return found


def statements(results: Results) -> list[str]:
    """Sentences on what the intervals say, and do not say."""
    found = []
    several = len(results.tokens) > 1
    for line in lines(results):
        if line.difference is None:
            continue
        at = f" at {line.tokens:,} tokens" if several else ""
        what = f"{line.recipe} against {results.baseline}{at}"
        if line.difference.low is None:
            found.append(f"{what}: one seed tells no interval; nothing is decided.")
        elif line.difference.unmoved:
            found.append(
                f"{what}: no seed changes the difference ({line.difference.value:+.3f}), and "
                "other text or another ancestor was not tried; nothing is decided."
            )
        elif line.difference.excludes(0):
            better = "lower" if line.difference.value < 0 else "higher"
            found.append(f"{what}: the loss is {better} (the interval excludes 0).")
        else:
            found.append(f"{what}: not decided (the interval of the difference holds 0).")
    for recipe in results.recipes:
        found += _crossings(results, recipe)
        found += _with_fewer_tokens(results, recipe)
        found += _of_own_schedules(results, recipe)
    return found


def _crossings(results: Results, recipe: str) -> list[str]:
    """Between which tokens the mean losses of a recipe and of the baseline cross."""
    of_recipe = [line for line in lines(results) if line.recipe == recipe and line.difference]
    found = []
    for before, after in itertools.pairwise(of_recipe):
        first, second = before.difference, after.difference
        if first is None or second is None or (first.value > 0) == (second.value > 0):
            continue
        share = first.value / (first.value - second.value)
        at = math.exp(math.log(before.tokens) + share * math.log(after.tokens / before.tokens))
        found.append(
            f"{recipe} crosses {results.baseline} between {before.tokens:,} and {after.tokens:,} "
            f"tokens, at about {at:,.0f} (means; tokens on a logarithmic scale)."
        )
    return found


def _with_fewer_tokens(results: Results, recipe: str) -> list[str]:
    """What a recipe makes of fewer tokens, under a schedule of its own, than the baseline has."""
    if recipe == results.baseline or len(results.tokens) < 2:
        return []
    *fewer, most = results.tokens
    baseline = _losses(results.of(results.baseline, most))
    found = []
    for tokens in fewer:
        gap = paired(_losses(results.of(recipe, tokens)), baseline)
        if gap is None or gap.low is None or gap.high is None:
            continue
        better = "lower" if gap.value < 0 else "higher"
        seen = f"the loss is {better}" if gap.excludes(0) else "not decided"
        found.append(
            f"{recipe} with {tokens / most:.0%} of the tokens against {results.baseline} with all "
            f"{most:,}: {seen} ({gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}])."
        )
    return found


def own_schedules(results: Results, recipe: str) -> Ratio | None:
    """Tokens after which trainings of a recipe end where the baseline's longest does.

    Unlike `Line.reach`, which asks within one training, each number of tokens is a training with a
    schedule of its own. Between two numbers the last loss is taken to be a line over the logarithm
    of the tokens.

    Returns:
      Tokens over the baseline's, seed by seed; a seed that ends there with the fewest tokens counts
      with these. None without several numbers of tokens, and of the baseline itself.
    """
    if recipe == results.baseline or len(results.tokens) < 2:
        return None
    most = results.tokens[-1]
    ends = {tokens: _losses(results.of(recipe, tokens)) for tokens in results.tokens}
    shares: list[float | None] = []
    bounds = []
    for seed, target in sorted(_losses(results.of(results.baseline, most)).items()):
        known = [tokens for tokens in results.tokens if seed in ends[tokens]]
        if len(known) < 2:
            continue
        logs = [math.log(tokens) for tokens in known]
        reached = tokens_to_reach(logs, [ends[tokens][seed] for tokens in known], target)
        shares.append(None if reached is None else math.exp(reached) / most)
        bounds.append(known[-1] / most)
    return ratio(shares, bounds)


def _of_own_schedules(results: Results, recipe: str) -> list[str]:
    found = own_schedules(results, recipe)
    if found is None:
        return []
    most, fewest = results.tokens[-1], results.tokens[0]
    what = f"{recipe}, trained anew for each number of tokens, ends where {results.baseline} does"
    if found.mean is None:
        return [f"{what} with {most:,}: in {found.reached} of {found.seeds} seeds."]
    share, low, high = found.mean[:3]
    within = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    least = fewest / most
    bound = f"; fewer than {least:.2f} were not tried" if (low or share) <= least else ""
    return [f"{what} with {most:,} after {share:.2f}{within} of them{bound}."]


def _losses(cells: Mapping[int, Figures]) -> dict[int, float]:
    return {seed: cell["loss"] for seed, cell in cells.items()}


def _excess(cells: Mapping[int, Figures], baseline: Mapping[int, Figures]) -> Ratio | None:
    """What a cut costs, seed by seed, as a share of what the baseline's costs."""
    shares: list[float | None] = []
    for seed in sorted(set(cells) & set(baseline)):
        mine, theirs = (
            None if cell["loss_cut"] is None else cell["loss_cut"] - cell["loss_before"]
            for cell in (cells[seed], baseline[seed])
        )
        if mine is None or theirs is None or min(mine, theirs) <= 0:
            return None  # Random parameters, or a cut that costs nothing.
        shares.append(mine / theirs)
    return ratio(shares, [])


def _reach(cells: Mapping[int, Figures], baseline: Mapping[int, Figures]) -> Ratio | None:
    """Tokens until the baseline's last loss, seed by seed; None where nothing is trained."""
    if not all(map(_end, baseline.values())):
        return None
    shares, bounds = [], []
    for seed in sorted(set(cells) & set(baseline)):
        # Only the last stage has the size that is compared.
        curve, whole = cells[seed]["curves"][-1], _end(baseline[seed])
        tokens = [curve["start"] + at for at in curve["tokens"]]
        reached = tokens_to_reach(tokens, curve["losses"], baseline[seed]["loss"])
        shares.append(None if reached is None else reached / whole)
        bounds.append(_end(cells[seed]) / whole)
    return ratio(shares, bounds)


def _end(cell: Figures) -> float:
    """The tokens that a cell has trained on."""
    last = cell["curves"][-1]
    return float(last["start"] + last["tokens"][-1])


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
