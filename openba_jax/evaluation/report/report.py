"""The files of a results folder: figures, tables and the plot that compares models."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks.base import TOTAL
from openba_jax.evaluation.report import plots, tables
from openba_jax.evaluation.report.tables import Figures
from openba_jax.files import write_atomically, write_json

FIGURES, TABLES, PLOT = "figures.json", "tables.md", "figures.png"


def check_figures(files: Sequence[Path]) -> dict[str, Figures]:
    """Reads the figures of other models, by name of model.

    Raises:
      UserError: one cannot be read, or holds no whole figures of benchmarks; or two are of one
        name.
    """
    found: dict[str, Figures] = {}
    for file in files:
        file = file / FIGURES if file.is_dir() else file
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read as figures: {error}.") from error
        if not isinstance(content, dict) or not isinstance(content.get("benchmarks"), dict):
            raise UserError(f"{file} has no figures of benchmarks; name one of a RESULTS_DIR.")
        if broken := [name for name, each in content["benchmarks"].items() if not _is_whole(each)]:
            raise UserError(
                f"{file} has no whole figures of {broken[0]}; it is damaged, measure again or "
                "leave it out of COMPARE."
            )
        name = str(content.get("model", file.parent.name))
        if name in found:
            name = f"{name} ({file.parent.name})"
        if name in found:
            raise UserError(f"COMPARE names {file} twice, or two of one name; rename a folder.")
        found[name] = content["benchmarks"]
    return found


def _is_whole(figures: Any) -> bool:
    """Whether tables and plot find what they show of a benchmark of another model."""
    if not isinstance(figures, dict) or not isinstance(figures.get("settings", {}), dict):
        return False
    total = figures.get(TOTAL)
    if not isinstance(total, dict):
        return False
    interval = total.get("interval", [0, 0])
    value = total.get("accuracy", total.get(str(total.get("main", ""))))
    numbers = [value, total.get("chance", 0), *(interval if isinstance(interval, list) else [None])]
    return len(numbers) == 4 and all(
        isinstance(each, int | float) and math.isfinite(each) for each in numbers
    )


def write_report(
    folder: Path, model: str, figures: Mapping[str, Any], others: Mapping[str, Figures]
) -> None:
    """Writes figures, tables and plot.

    Args:
      folder: where to.
      model: name of the model that was measured.
      figures: its figures.
      others: those of models that it is compared with, by name.
    """
    write_json(folder / FIGURES, {"model": model, **figures})
    own = f"{model} (this one)" if model in others else model
    models = {**others, own: figures["benchmarks"]}
    write_atomically(folder / TABLES, tables.markdown(models, own))
    plots.bars(models, folder / PLOT)
