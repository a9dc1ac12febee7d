"""The report of a study: Markdown, JSON, plots, and one page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openba_jax.files import write_atomically, write_json
from openba_jax.report import page
from openba_jax.report.page import Table
from openba_jax.study import origin, plots, summary
from openba_jax.study.statistics import Mean, Ratio
from openba_jax.study.summary import Results

CURVES, ENDS = "curves.png", "ends.png"


def write(folder: Path, results: Results) -> str:
    """Writes `report.md`, `report.json`, `report.html` and the plots.

    Args:
      folder: of the study.
      results: what it has found so far.

    Returns:
      The report as text, for a terminal.
    """
    found = tables(results)
    sentences = [*summary.statements(results), *origin.sentences(results.cells)]
    write_json(folder / "report.json", as_dict(results, sentences))
    write_atomically(folder / "report.md", as_markdown(results, found, sentences))
    images: list[Path] = []
    if results.cells:
        if any(results.tokens):  # Models that are only cut have no curves.
            plots.plot_curves(results, folder / CURVES)
            images.append(folder / CURVES)
        plots.plot_ends(results, folder / ENDS)
        images.append(folder / ENDS)
    write_atomically(folder / "report.html", as_html(results, found, sentences, images))
    return as_text(results, found, sentences)


def tables(results: Results) -> list[Table]:
    """All tables, without those that have nothing to show."""
    found = [_recipes(results)]
    for tokens in results.tokens:
        at = f" at {tokens:,} tokens" if len(results.tokens) > 1 else ""
        found.append(_tasks(results, tokens, at))
        found.append(_subjects(results, tokens, at))
    return [table for table in found if len(table.rows) > 1]


def _recipes(results: Results) -> Table:
    several = len(results.tokens) > 1
    head = ["recipe", *(["tokens"] if several else []), "seeds", "parameters"]
    base = results.baseline
    head += ["loss after the cut", f"excess over {base}'s", "last loss", f"less {base}'s"]
    head.append("tokens to its loss")
    rows = [head]
    for line in summary.lines(results):
        rows.append(
            [
                line.recipe,
                *([f"{line.tokens:,}"] if several else []),
                str(line.loss.seeds),
                f"{line.parameters:,}",
                _mean(line.cut),
                _ratio(line.excess),
                _mean(line.loss),
                _mean(line.difference, "+.3f"),
                _ratio(line.reach),
            ]
        )
    tokens = "" if several or not results.tokens else f" at {results.tokens[0]:,} tokens"
    ancestor = results.ancestor
    return Table(
        f"Recipes{tokens}",
        f"Losses on held-out batches, in nats per target token; the ancestor's is "
        f"{ancestor['loss']:.3f}, at {ancestor['parameters']:,} parameters. In brackets: intervals "
        "of 95% over seeds (Student's t); differences are taken seed by seed. Excess: what the "
        "loss after the cut is above the ancestor's, as a share of the baseline's. Tokens to the "
        "baseline's loss: until the loss that it ends with is reached first, as a share of its "
        "tokens, geometric mean.",
        rows,
    )


def _tasks(results: Results, tokens: int, at: str) -> Table:
    found = summary.by_task(results, tokens)
    names = list(results.ancestor["losses"])
    rows = [["recipe", *names]]
    rows.append(["ancestor", *(f"{results.ancestor['losses'][name]:.3f}" for name in names)])
    for recipe, means in found.items():
        rows.append([recipe, *(_mean(means.get(name)) for name in names)])
    note = "Held-out losses of each task of the mixture that all recipes are evaluated on."
    return Table(f"Loss per denoiser{at}", note, rows)


def _subjects(results: Results, tokens: int, at: str) -> Table:
    asked = {"ancestor": summary.accuracies([results.ancestor])}
    for recipe in results.recipes:
        cells = list(results.of(recipe, tokens).values())
        if cells:
            asked[recipe] = summary.accuracies(cells)
    subjects = list(asked["ancestor"])
    if not subjects:
        return Table("", "", [])
    rows = [["model", *subjects]]
    for name, found in asked.items():
        rows.append([name, *(f"{a.share:.1%} [{a.low:.1%}, {a.high:.1%}]" for a in found.values())])
    chance = asked["ancestor"]["total"].chance
    return Table(
        f"Accuracy per subject{at}",
        f"Means over seeds, with the intervals of 95% that the number of questions leaves "
        f"(Wilson); a guess is right in {chance:.1%}.",
        rows,
    )


def _mean(mean: Mean | None, form: str = ".3f") -> str:
    if mean is None:
        return "-"
    if mean.low is None or mean.low == mean.high:  # One seed, or what no seed changes.
        return format(mean.value, form)
    return f"{mean.value:{form}} [{mean.low:{form}}, {mean.high:{form}}]"


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    if ratio.mean is None:
        least = f", at least {ratio.at_least:.2f}" if ratio.at_least is not None else ""
        return f"reached by {ratio.reached} of {ratio.seeds} seeds{least}"
    return _mean(ratio.mean, ".2f")


def as_text(results: Results, found: Sequence[Table], sentences: Sequence[str]) -> str:
    """For a terminal: the first table, and what it shows."""
    text = []
    for table in found[:1]:
        text += page.table_text(table.rows)
    text += sentences
    if results.missing:
        text.append(_missing(results))
    return "\n".join(line.rstrip() for line in text) + "\n"


def as_markdown(results: Results, found: Sequence[Table], sentences: Sequence[str]) -> str:
    """All tables and sentences in Markdown."""
    text = ["# Study", ""]
    if results.missing:
        text += [_missing(results), ""]
    for table in found:
        text += page.table_markdown(table)
    text += [f"- {sentence}" for sentence in sentences]
    if any(results.tokens):
        text += ["", f"![losses over tokens]({CURVES})"]
    if results.cells:
        text += ["", f"![last losses]({ENDS})"]
    return "\n".join(text) + "\n"


def as_dict(results: Results, sentences: Sequence[str]) -> dict[str, Any]:
    """Everything, for programs: a JSON value."""
    return {
        "ancestor": dict(results.ancestor),
        "baseline": results.baseline,
        "missing": list(results.missing),
        "recipes": [_plain(line) for line in summary.lines(results)],
        "losses": {
            str(tokens): {
                recipe: {task: _plain(each) for task, each in means.items()}
                for recipe, means in summary.by_task(results, tokens).items()
            }
            for tokens in results.tokens
        },
        "own_schedules": {
            recipe: _plain(found)
            for recipe in results.recipes
            if (found := summary.own_schedules(results, recipe)) is not None
        },
        "statements": list(sentences),
        "cells": [dict(cell) for cell in results.cells],
    }


def _plain(value: Any) -> Any:
    """Named tuples as mappings, all the way down."""
    if hasattr(value, "_asdict"):
        return {name: _plain(each) for name, each in value._asdict().items()}
    return value


def as_html(
    results: Results, found: Sequence[Table], sentences: Sequence[str], images: Sequence[Path]
) -> str:
    """One page that holds its plots and names no other resource."""
    body = []
    if results.missing:
        body.append(f'<p class="missing">{html.escape(_missing(results))}</p>')
    for number, table in enumerate(found):
        body += page.table_html(table)
        if number == 0:
            body += [*page.list_html(sentences), *map(page.image_html, images)]
    return page.page("Study", body)


def _missing(results: Results) -> str:
    """Says that the report is of a part of the cells, and which are missing."""
    listed = ", ".join(results.missing[:_LISTED])
    more = len(results.missing) - _LISTED
    more_text = f" and {more} more" if more > 0 else ""
    return (
        f"Not finished: {len(results.missing)} of {len(results.missing) + len(results.cells)} "
        f"cells are missing ({listed}{more_text})."
    )


_LISTED = 12
