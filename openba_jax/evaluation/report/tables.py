"""Tables in Markdown: models against benchmarks as OpenBA-V2 prints them, and what lies behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openba_jax.evaluation.benchmarks.base import TOTAL
from openba_jax.evaluation.score import LETTERS

Figures = Mapping[str, Mapping[str, Any]]
"""Label of a benchmark -> `subjects`, `categories`, `total`, `settings`."""

COLUMNS = {
    "mmlu": "MMLU",
    "bbh": "BBH",
    "ceval": "C-Eval",
    "cmmlu": "CMMLU",
    "sciq": "SciQ",
    "piqa": "PIQA",
    "arc_e": "ARC-E",
    "arc_c": "ARC-C",
    "logiqa": "LogiQA",
    "boolq": "BoolQ",
}
"""What the columns of OpenBA-V2's tables are called, in their order."""

GROUPS = (("mmlu", "bbh"), ("ceval", "cmmlu"), tuple(COLUMNS)[4:])
"""The benchmarks of each of its tables."""


def figure_of(result: Mapping[str, Any]) -> float | None:
    """The main figure of a result as JSON: accuracy, or the metric that it names; from 0 to 1."""
    value = result.get("accuracy", result.get(str(result.get("main", ""))))
    return None if value is None else float(value)


def base_name(label: str) -> str:
    """The benchmark of a label: `mmlu` of `mmlu:ppl_5`."""
    return label.partition(":")[0]


def column_name(label: str, figures: Figures) -> str:
    """What a column is called, with the number of demonstrations: `MMLU(5)`."""
    name = base_name(label)
    shots = figures[label].get("settings", {}).get("shots")
    shown = COLUMNS.get(name, name)
    return f"{shown}({shots})" if shots else shown


def markdown(models: Mapping[str, Figures], detailed: str) -> str:
    """All tables.

    Args:
      models: figures by name of model.
      detailed: the model whose subjects, categories and letters are shown, too.
    """
    parts = ["# Results", "", "Percent. Avg is the mean of the columns."]
    labels = list(dict.fromkeys(label for figures in models.values() for label in figures))
    known = {name for group in GROUPS for name in group}
    groups = [[label for label in labels if base_name(label) in group] for group in GROUPS]
    groups = [sorted(group, key=_order) for group in groups]
    groups.append([label for label in labels if base_name(label) not in known])
    for group in filter(None, groups):
        parts += ["", *_compared(models, group)]
    for label, figures in models[detailed].items():
        parts += ["", f"## {label}", "", *_details(figures)]
    return "\n".join(parts) + "\n"


def _order(label: str) -> int:
    return list(COLUMNS).index(base_name(label))


def _compared(models: Mapping[str, Figures], labels: Sequence[str]) -> list[str]:
    owners = {label: next(each for each in models.values() if label in each) for label in labels}
    names = [column_name(label, owners[label]) for label in labels]
    if len(set(names)) < len(names):  # Two templates of one benchmark.
        names = list(labels)
    rows = []
    for model, figures in models.items():
        values = [
            figure_of(figures[label][TOTAL]) if label in figures else None for label in labels
        ]
        there = [value for value in values if value is not None]
        mean = sum(there) / len(there) if len(there) == len(values) else None
        rows.append([model, _percent(mean), *map(_percent, values)])
    return table(["model", "Avg", *names], rows)


def _details(figures: Mapping[str, Any]) -> list[str]:
    results = {**figures["subjects"], **_marked(figures["categories"]), TOTAL: figures[TOTAL]}
    if "accuracy" not in figures[TOTAL]:
        return _metrics(results)
    rows = [
        [
            name,
            _percent(result["accuracy"]),
            f"{_percent(result['interval'][0])} to {_percent(result['interval'][1])}",
            *([_percent(result.get("accuracy_by_length"))] if _by_length(figures) else []),
            str(result["right"]),
            str(result["count"]),
            str(result["skipped"]),
            _percent(result["chance"]),
        ]
        for name, result in results.items()
    ]
    by_length = ["by length"] if _by_length(figures) else []
    head = ["subject", "accuracy", "95% interval", *by_length, "right", "of", "skipped", "chance"]
    return [*table(head, rows), "", *_letters(figures[TOTAL])]


def _by_length(figures: Mapping[str, Any]) -> bool:
    return "accuracy_by_length" in figures[TOTAL]


def _marked(categories: Mapping[str, Any]) -> dict[str, Any]:
    return {f"*{name}*": result for name, result in categories.items()}


def _metrics(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names = [name for name, value in results[TOTAL].items() if isinstance(value, int | float)]
    rows = [
        [subject, *(_number(result.get(name)) for name in names)]
        for subject, result in results.items()
    ]
    return table(["subject", *names], rows)


def _letters(total: Mapping[str, Any]) -> list[str]:
    """How often each letter was chosen, was right, and was found where it is right."""
    asked = sum(total["chosen"].values())
    rows = [
        [
            letter,
            _percent(total["chosen"].get(letter, 0) / asked if asked else None),
            _percent(total["gold"].get(letter, 0) / total["count"]),
            _percent(
                total["found"].get(letter, 0) / total["gold"][letter]
                if total["gold"].get(letter)
                else None
            ),
        ]
        for letter in LETTERS
        if letter in total["chosen"] or letter in total["gold"]
    ]
    return table(["letter", "chosen", "right", "accuracy where it is right"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown, numbers to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return lines + ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"
