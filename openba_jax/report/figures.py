"""Figures as all reports have them; matplotlib is imported when one is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openba_jax.files import atomic_path

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

STYLES = ("-", "--", ":", "-.")


def figure(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A figure, and its panels `[rows, columns]`.

    Args:
      rows: of panels.
      columns: of panels.
      size: of the figure, in inches.
      **options: of `pyplot.subplots`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made, panels = pyplot.subplots(
        rows, columns, squeeze=False, figsize=size, layout="constrained", **options
    )
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", linewidth=0.3)
    return made, panels


def save(made: Any, path: Path) -> None:
    """Writes a figure as PNG, and forgets it."""
    from matplotlib import pyplot

    with atomic_path(path) as file:
        made.savefig(file, format="png", dpi=120)
    pyplot.close(made)
