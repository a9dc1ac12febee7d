"""The report of a study: Markdown, JSON, plots, and one page that needs nothing else."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from openba_jax.files import write_atomically, write_json
from openba_jax.study import plots, summary
from openba_jax.study.statistics import Mean, Ratio
from openba_jax.study.summary import Results

CURVES, ENDS = "curves.png", "ends.png"


class Table(NamedTuple):
    """A table with words around it.

    Attributes:
      title: above it.
      note: below it, or empty.
      rows: of cells, the heads first.
    """

    title: str
    note: str
    rows: list[list[str]]


def write(folder: Path, results: Results) -> str:
    """Writes `report.md`, `report.json`, `report.html` and the plots.

    Args:
      folder: of the study.
      results: what it has found so far.

    Returns:
      The report as text, for a terminal.
    """
    found = tables(results)
    sentences = summary.statements(results)
    write_json(folder / "report.json", as_dict(results, sentences))
    write_atomically(folder / "report.md", as_markdown(results, found, sentences))
    images = []
    if results.cells:
        plots.plot_curves(results, folder / CURVES)
        plots.plot_ends(results, folder / ENDS)
        images = [folder / CURVES, folder / ENDS]
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
    head += ["loss after the cut", "last loss", f"less {results.baseline}'s", "tokens to its loss"]
    rows = [head]
    for line in summary.lines(results):
        rows.append(
            [
                line.recipe,
                *([f"{line.tokens:,}"] if several else []),
                str(line.loss.seeds),
                f"{line.parameters:,}",
                _mean(line.cut),
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
        "of 95% over seeds (Student's t); differences are taken seed by seed. Tokens to the "
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
        widths = [max(map(len, column)) for column in zip(*table.rows, strict=True)]
        text += ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in table.rows]
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
        head, *body = table.rows
        text += [f"## {table.title}", ""]
        text += ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
        text += ["| " + " | ".join(row) + " |" for row in body]
        text += ["", table.note, ""]
    text += [f"- {sentence}" for sentence in sentences]
    if results.cells:
        text += ["", f"![losses over tokens]({CURVES})", "", f"![last losses]({ENDS})"]
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
    body = ["<h1>Study</h1>"]
    if results.missing:
        body.append(f'<p class="missing">{html.escape(_missing(results))}</p>')
    for number, table in enumerate(found):
        head, *rows = ([html.escape(cell) for cell in row] for row in table.rows)
        body.append(f"<h2>{html.escape(table.title)}</h2><div><table><tr>")
        body += [f"<th>{cell}</th>" for cell in head]
        body.append("</tr>")
        body += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
        body.append(f"</table></div><p>{html.escape(table.note)}</p>")
        if number == 0:
            body.append("<ul>")
            body += [f"<li>{html.escape(sentence)}</li>" for sentence in sentences]
            body.append("</ul>")
            for image in images:
                data = base64.b64encode(image.read_bytes()).decode()
                body.append(f'<img alt="{image.stem}" src="data:image/png;base64,{data}">')
    return _PAGE.format(body="\n".join(body))


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

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Study</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; color: #222; background: #fff; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: right;
  white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
img {{ max-width: 100%; }}
.missing {{ background: #fff3cd; padding: .5rem .75rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
