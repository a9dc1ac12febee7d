"""One look for all pictures: size, colours and dashes, logarithmic axes, legends, labels at lines.

Matplotlib is imported when the first picture is drawn, and its state is left as it was: a notebook
keeps its own way of showing figures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openba_jax.files import atomic_path
from openba_jax.plotting import fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

WIDTH = 9.0
"""Of a picture, in inches; heights are shares of it."""
SMALL = 8
"""Size of names and legends, in points."""
DPI = 130

# The palette of Okabe and Ito, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
DASHES = ("-", "--", "-.", ":")
MARK = "#777777"
"""Of what is not data: cuts, bounds, the model before."""


def look(number: int) -> dict[str, Any]:
    """Colour and dash of a line; the first 28 lines differ, neighbours in both."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": DASHES[number % len(DASHES)]}


@contextlib.contextmanager
def picture(
    path: str | Path, *, height: float = 0.5, widen: float = 1.0, **grid: Any
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure to draw in, which is written as a PNG at the end.

    Args:
      path: the file.
      height: of the figure, in widths of an ordinary one.
      widen: of the figure's width over that of an ordinary one.
      grid: of `Figure.subplots`; one panel without it.

    Yields:
      The figure, and its panels in rows.
    """
    import matplotlib
    from matplotlib.figure import Figure

    # A name with two dollar signs is no formula.
    with matplotlib.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(widen * WIDTH, height * WIDTH), layout="constrained")
        panels = list(figure.subplots(squeeze=False, **grid).flat)
        for panel in panels:
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(axis="y", linewidth=0.3)
        yield figure, panels
        fonts.fit(figure)
        with atomic_path(path) as file:
            figure.savefig(file, format="png", dpi=DPI, metadata={"Software": ""})


def logarithmic(panel: Axes, axis: str, label: str) -> None:
    """Makes the axis `x` or `y` logarithmic, with plain numbers, and says so in its label.

    Data that are drawn later may leave too few ticks: call it when all are drawn.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    one = getattr(panel, f"{axis}axis")
    panel.set(
        **{
            f"{axis}scale": "log",
            f"{axis}label": f"{label}\n(log scale)" if axis == "y" else f"{label} (log scale)",
        }
    )
    low, high = one.get_view_interval()
    if high > 30 * low:
        one.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    elif high > 2 * low:
        one.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)))
    else:
        one.set_major_locator(MaxNLocator(6))
    one.set_major_formatter(StrMethodFormatter("{x:g}"))
    one.set_minor_locator(NullLocator())


def titles(panels: Sequence[Axes], texts: Sequence[str]) -> None:
    """Sets the titles of panels side by side, above whatever is written over any of them."""
    figure = _laid_out(panels[0])
    over = [
        text.get_window_extent().y1 - panel.get_window_extent().y1
        for panel in panels
        for text in panel.texts
    ]
    pad = 6 + max([0.0, *over]) * 72 / figure.dpi
    for panel, text in zip(panels, texts, strict=True):
        panel.set_title(text, loc="left", fontsize=10, pad=pad)


def legend_below(figure: Figure, handles: Sequence[Any]) -> None:
    """Puts a legend under the panels, in as many columns as whole names leave room for."""
    for columns in range(min(len(handles), 6), 0, -1):
        legend = figure.legend(
            handles=handles,
            loc="outside lower left",
            ncols=columns,
            fontsize=SMALL,
            frameon=False,
            # Seven characters of a dash are needed to see it.
            handlelength=3.2,
        )
        fonts.fit(figure)
        if columns == 1 or legend.get_window_extent().width < figure.bbox.width:
            return
        legend.remove()


def label_ends(panel: Axes, lines: Sequence[Any], names: Sequence[str]) -> None:
    """Writes the name of each line beside its end; names that would touch are moved apart.

    Args:
      panel: with its data drawn and its scales set.
      lines: `Line2D`s.
      names: of the lines.
    """
    figure = _laid_out(panel)
    box = panel.get_window_extent()
    gap = 1.3 * SMALL * figure.dpi / 72 / box.height
    ends = [
        panel.transData.transform((line.get_xdata()[-1], line.get_ydata()[-1])) for line in lines
    ]
    shares = [min(max((y - box.y0) / box.height, 0.0), 1.0) for _, y in ends]
    order = sorted(range(len(lines)), key=shares.__getitem__)
    places: list[float] = []
    for number in order:
        places.append(max(shares[number], places[-1] + gap if places else 0.0))
    # What was pushed out at the top is pushed back, and pushes those below.
    bound = max(1.0, gap * (len(places) - 1))
    for number in reversed(range(len(places))):
        places[number] = min(places[number], bound)
        bound = places[number] - gap
    for number, place in zip(order, places, strict=True):
        panel.annotate(
            names[number],
            (1.0, shares[number]),
            (1.03, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=lines[number].get_color(),
            fontsize=SMALL,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": lines[number].get_color(),
                "linewidth": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )


def over_line(panel: Axes, x: float, text: str) -> Text:
    """Draws a dotted vertical line, and slantwise over it what it stands for."""
    panel.axvline(x, color=MARK, linewidth=0.8, linestyle=":")
    return panel.annotate(
        text,
        (x, 1.01),
        xycoords=("data", "axes fraction"),
        color="#333333",
        fontsize=SMALL,
        rotation=30,
        rotation_mode="anchor",
    )


def _laid_out(panel: Axes) -> Figure:
    """The figure of a panel, with its layout made, so that places can be asked for."""
    from matplotlib.figure import Figure

    figure = panel.get_figure(root=True)
    assert isinstance(figure, Figure)
    fonts.fit(figure)
    figure.draw_without_rendering()
    return figure
