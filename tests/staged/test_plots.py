"""The plots of a staged run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openba_jax.staged import plots
from openba_jax.staged.plots import Curve


def test_plots_mark_every_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    save = plots._save
    monkeypatch.setattr(
        plots, "_save", lambda figure, path: (drawn.append(figure), save(figure, path))
    )
    curves = [
        Curve("ancestor", 0, [40, 80], [2.0, 1.0], [0, 80], [6.0, 1.0]),
        Curve("cut", 80, [10, 20], [1.5, 1.2], [0, 20], [2.0, 1.2]),
        Curve("at_once", 80, [20], [1.4], [0, 20], [5.0, 1.4], control=True),
    ]
    plots.plot_losses(curves, tmp_path / "losses.png")
    plots.plot_coverage(np.array([5, 3, 2]), 2, tmp_path / "coverage.png")
    (ancestor, losses), (coverage,) = (figure.axes for figure in drawn)
    assert len(ancestor.lines) == 2
    assert {text.get_text().strip() for text in losses.texts} == {"cut", "at_once"}
    assert [text.get_text().strip() for text in coverage.texts] == ["2 pieces: 80.00%"]
    for name in ("losses.png", "coverage.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.tmp"))
