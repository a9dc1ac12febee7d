"""Every picture at three sizes, names Latin and Chinese: nothing missing, cut off or hidden."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from openba_jax import sweep
from openba_jax.evaluation.report import plots as evaluation_plots
from openba_jax.plotting import fonts, picture
from openba_jax.report import plots as report_plots
from openba_jax.report import runs
from openba_jax.search import plots as search_plots
from openba_jax.search.budget import PARAMETERS
from openba_jax.staged import plots as staged_plots
from openba_jax.staged.plots import Curve
from openba_jax.study import plots as study_plots
from openba_jax.study.summary import Results
from openba_jax.training.records import metrics, rates_plot

NAMES = ["stage1_layers", "第二阶段_宽度", "stage3_heads", "第四阶段_词表"]


def _losses(names: list[str], folder: Path) -> None:
    steps = np.arange(0, 100, 10)
    curves = [
        Curve(
            names[0],
            0,
            steps * 1000,
            6 * np.exp(-steps / 30) + 1,
            [0, 90_000],
            [7, 1.3],
            pieces=900,
        )
    ]
    curves += [
        Curve(
            name,
            90_000 + number * 20_000,
            steps * 200,
            1.5 * np.exp(-steps / 40) + 1,
            [0, 18_000],
            [2.6, 1.2],
            pieces=900 if number < 2 else 640,
        )
        for number, name in enumerate(names[1:])
    ]
    for control, end in (("all_at_once", 1.2), ("from_scratch 从头训练", 1.25)):
        losses = 3 * np.exp(-steps / 20) + end
        curve = Curve(control, 90_000, steps * 600, losses, [0, 54_000], [4, end], True, 640)
        curves.append(curve)
    staged_plots.plot_losses(curves, folder / "losses.png")


def _losses_of_a_given_ancestor(names: list[str], folder: Path) -> None:
    steps = np.arange(0, 100, 10)
    curves = [Curve(names[0], 0, [], [], [0], [1.1], pieces=900)]
    for number, name in enumerate((*names[1:], "random_cut 随机")):
        control, losses = number == len(names) - 1, 6 * np.exp(-steps / 30) + 1.3
        start = 0 if control else 20_000 * number
        curves.append(Curve(name, start, steps * 200, losses, [0], [7], control, 900))
    staged_plots.plot_losses(curves, folder / "losses.png")


def _coverage(names: list[str], folder: Path) -> None:
    counts = (1e6 / np.arange(1, 400)).astype(int)
    staged_plots.plot_coverage(counts, 150, folder / "coverage.png")


def _records(folder: Path, split: str, records: list[dict[str, float]]) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / metrics.METRICS).open("a") as file:
        for step, record in enumerate(records):
            file.write(json.dumps({"split": split, "step": 10 * step, **record}) + "\n")


def _rates(names: list[str], folder: Path) -> None:
    denoisers = [f"{name}{number}" for number in range(2) for name in names][:7]
    records = []
    for step in range(12):
        record: dict[str, float] = {}
        for number, name in enumerate(denoisers):
            record[f"rate/{name}"] = 0.6 / 2**number * (1 + 0.01 * step)
            record[f"loss/{name}"] = 2 + 0.001 * number - 0.05 * step
            record[f"target/{name}"] = 1.5
        records.append(record)
    _records(folder, rates_plot.SPLIT, records)
    rates_plot.plot_rates(folder)


def _sweep(names: list[str], folder: Path) -> None:
    for number, name in enumerate(names):
        losses = [{"loss": 4 / (1 + number + step)} for step in range(8)]
        _records(folder / name, "train", losses)
        _records(folder / name, "eval", losses[:2])
    sweep._plot(folder, names, "warmup_cosine.peak and MIXTURE_OR_TASK_NAME")


def _report(names: list[str], folder: Path) -> None:
    for number, name in enumerate(names):
        losses = [{"loss": 4 / (1 + number + step), "grad_norm": 1.0 + number} for step in range(8)]
        _records(folder / name, "train", losses)
        _records(folder / name, "eval", [{**each, "accuracy": 0.5} for each in losses[:2]])
    found = runs.read_runs([folder / name for name in names])
    report_plots.plot(found, folder / "report.png", runs.STEPS)


def _bars(names: list[str], folder: Path) -> None:
    total = {"accuracy": 0.5, "interval": (0.4, 0.61), "chance": 0.25, "count": 40, "right": 20}
    benchmarks = [f"{label}:ppl_5" for label in ("mmlu", "cmmlu", "ceval", "arc_e", "piqa")]
    figures = {label: {"total": total} for label in benchmarks}
    evaluation_plots.bars(dict.fromkeys(names, figures), folder / "figures.png")


def _search(names: list[str], folder: Path) -> None:
    found = [
        SimpleNamespace(
            name=name, cost=1e8 * (1 + n), losses={0: 5 - n, 50: 3 - n / 2}, loss=3 - n / 2
        )
        for n, name in enumerate(names)
    ]
    results = SimpleNamespace(
        budget=SimpleNamespace(kind=PARAMETERS),
        checked=found,
        pareto=names[:2],
        ancestor=SimpleNamespace(cost=6e8, loss=1.1),
        limit=4.5e8,
    )
    search_plots.plot(results, folder / "search.png")  # type: ignore[arg-type]


def _study(names: list[str], budgets: tuple[int, ...]) -> Results:
    at = [n / 4 for n in range(5)]
    cells = [
        {
            "recipe": name,
            "tokens": tokens,
            "seed": seed,
            "parameters": 300,
            "loss_before": 1.2,
            "loss_cut": 3.0,
            "loss": (losses := [3 / (1 + t + 0.1 * n + 0.05 * seed) for t in at])[-1],
            "curves": [{"start": 0, "tokens": [t * tokens for t in at], "losses": losses}],
        }
        for n, name in enumerate(names)
        for tokens in budgets
        for seed in range(3)
    ]
    return Results({"loss": 1.2}, cells, names, names[0])


def _curves(names: list[str], folder: Path) -> None:
    results = _study(names, (400_000, 1_600_000, 6_400_000))
    study_plots.plot_curves(results, folder / "curves.png")


def _ends(names: list[str], folder: Path) -> None:
    study_plots.plot_ends(_study(names, (400_000, 1_600_000)), folder / "ends.png")


def _ends_of_one(names: list[str], folder: Path) -> None:
    study_plots.plot_ends(_study(names, (400_000,)), folder / "ends_of_one.png")


DRAWINGS = {
    draw.__name__.strip("_"): draw
    for draw in (
        *(_losses, _losses_of_a_given_ancestor, _coverage, _rates, _sweep, _bars, _search),
        *(_report, _curves, _ends, _ends_of_one),
    )
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved; a glyph that is missing is an error."""
    figures: list[Figure] = []
    save = Figure.savefig

    def saved(figure: Figure, *arguments: Any, **named: Any) -> None:
        figures.append(figure)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            save(figure, *arguments, **named)

    monkeypatch.setattr(Figure, "savefig", saved)
    return figures


def _texts(figure: Figure) -> list[tuple[str, Any, bool]]:
    """What is written, where, and whether it is level."""
    figure.draw_without_rendering()
    # Ticks beyond the limits of an axis are not drawn.
    hidden = [
        tick.label1
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for low, high in [sorted(axis.get_view_interval())]
        for tick in axis.get_major_ticks()
        if not low <= tick.get_loc() <= high
    ]
    found = [text for text in figure.findobj(Text) if text.get_text().strip()]
    found = [t for t in found if t.get_visible() and not any(t is each for each in hidden)]
    # Of the text of an annotation, without its arrow.
    return [(t.get_text(), Text.get_window_extent(t), t.get_rotation() == 0) for t in found]


@pytest.mark.parametrize("width", [6.0, 9.0, 16.0])
@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_all_that_is_written_can_be_read(
    draw: Any,
    width: float,
    tmp_path: Path,
    drawn: list[Figure],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chinese = "从头训练词表"
    if width < 9 and fonts.spelt(chinese, fonts.families(chinese)) != chinese:
        pytest.skip(
            "no font has Chinese, whose codes fill a narrow picture; install fonts-noto-cjk"
        )
    monkeypatch.setattr(picture, "WIDTH", width)
    monkeypatch.setattr(picture, "DPI", 50)
    draw(NAMES, tmp_path)
    (figure,) = drawn
    texts = _texts(figure)
    whole = figure.bbox
    for text, box, _ in texts:
        inside = min(box.x0, box.y0, whole.x1 - box.x1, whole.y1 - box.y1)
        assert inside > -1, f"{text!r} is cut off"
    level = [(text, box) for text, box, is_level in texts if is_level]
    for (one, first), (two, second) in itertools.combinations(level, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        along = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert min(across, along) < 1.5, f"{one!r} and {two!r} overlap"
    (file,) = tmp_path.glob("*.png")
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_axes_say_what_they_are(draw: Any, tmp_path: Path, drawn: list[Figure]) -> None:
    draw(NAMES, tmp_path)
    for axes in drawn[0].axes:
        assert axes.get_title("left")
        for axis in (axes.xaxis, axes.yaxis):
            assert axis.get_scale() == "log" or "log scale" not in axis.get_label_text()
        shared = axes.get_shared_y_axes().get_siblings(axes)
        if axes.get_yscale() == "log":
            assert any("log scale" in each.get_ylabel() for each in shared)


def test_losses_of_other_vocabularies_are_marked_and_controls_differ(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    _losses(NAMES, tmp_path)
    left, right = drawn[0].axes
    assert left.get_title("left") == "Training of\nstage1_layers"
    dots = [line for line in right.lines if line.get_marker() == "o"]
    assert [line.get_fillstyle() for line in dots] == ["full"] * 2 + ["none"] * 3
    lines = [line for line in right.lines if line.get_marker() == "None"]
    runs = {(line.get_color(), line.get_linestyle()) for line in lines if len(line.get_xdata()) > 2}
    assert len({color for color, _ in runs}) == len({dash for _, dash in runs}) == len(runs) == 3
    labels = [text.get_text() for text in drawn[0].legends[0].texts]
    named = "from_scratch 从头训练"
    named = fonts.spelt(named, fonts.families(named))  # Codes, where no font is installed.
    assert labels[:3] == ["stage by stage", "all_at_once", named]
    assert "not comparable" in labels[-1]


def test_characters_that_no_font_has_are_spelt_out(
    tmp_path: Path,
    drawn: list[Figure],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda: ["DejaVu Serif"])
    with caplog.at_level("WARNING"):
        _ends_of_one(NAMES, tmp_path)
    names = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert names[3] == r"\u7b2c\u56db\u9636\u6bb5_\u8bcd\u8868"
    assert "no installed font has" in caplog.text
    assert "fonts-noto-cjk" in caplog.text


def test_every_installed_font_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    has = {fonts.LATIN: "ab", "One": "词", "Two": "x表"}
    monkeypatch.setattr(fonts, "_installed", lambda: ["One", "Two"])
    monkeypatch.setattr(fonts, "_characters", lambda name: frozenset(has[name]))
    assert fonts.families("ab") == [fonts.LATIN]
    assert fonts.families("a表") == [fonts.LATIN, "Two"]
    assert fonts.families("词表?") == [fonts.LATIN, "One", "Two"]
    assert fonts.spelt("a词😀", [fonts.LATIN, "One"]) == r"a词\U0001f600"


def test_a_picture_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    backend = matplotlib.get_backend(auto_select=False)
    with picture.picture(tmp_path / "a.png") as (_, (panel,)):
        panel.set_title("between $1 and $2")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend(auto_select=False) == backend


def test_a_picture_that_fails_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), picture.picture(tmp_path / "a.png"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
