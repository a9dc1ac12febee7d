"""The picture of a fit: where the memory of a device goes, and what a step's time is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openba_jax.fit.fitting import Fit
from openba_jax.plotting.picture import COLORS, MARK, legend_below, picture, titles

_MEMORY = ("parameters", "optimizer", "other_arguments", "outputs", "temporaries", "code")
_TIME = ("computing", "communicating")


def plot(fits: Sequence[Fit], path: Path) -> None:
    """Draws a bar of memory and a bar of time for each step that was compiled."""
    names = [_label(each) for each in fits]
    with picture(path, height=0.2 + 0.045 * len(fits), ncols=2, sharey=True) as (figure, panels):
        memory, time = panels
        sizes = [[getattr(each.memory, part) / 2**30 for each in fits] for part in _MEMORY]
        handles = _bars(memory, names, _MEMORY, sizes, COLORS)
        limit = fits[0].memory.limit / 2**30
        chip = fits[0].chips.chip.name
        line: dict[str, Any] = {"color": MARK, "linestyle": ":", "linewidth": 0.8}
        handles.append(memory.axvline(limit, label=f"{chip}: {limit:.1f} GiB", **line))
        memory.set_xlabel("GiB on a device")
        memory.invert_yaxis()
        seconds = [
            [getattr(each.roofline, part) if each.roofline else 0.0 for each in fits]
            for part in _TIME
        ]
        handles += _bars(time, names, _TIME, seconds, ("#009E73", "#D55E00"))
        time.set_xlabel("seconds of a step by the roofline")
        compiled = "CPU devices, no figure of the chip" if fits[0].stand_in else chip
        titles(panels, [f"Memory, compiled for {compiled}", "Time"])
        legend_below(figure, handles)


def _bars(
    panel: Any,
    names: Sequence[str],
    parts: Sequence[str],
    values: Sequence[Sequence[float]],
    colors: Sequence[str],
) -> list[Any]:
    """Draws parts of bars one behind the other; returns their handles."""
    starts, handles = [0.0] * len(names), []
    for part, widths, color in zip(parts, values, colors, strict=False):
        label = part.replace("_", " ")
        handles.append(panel.barh(names, widths, left=starts, color=color, label=label))
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    return handles


def _label(found: Fit) -> str:
    mesh = "x".join(map(str, found.mesh))
    parts = f" / {found.accumulation}" if found.accumulation > 1 else ""
    return f"{found.step} {mesh}, {found.batch}{parts}, {found.remat}"
