"""The picture of a fit: where the memory of a device goes, and what a step's time is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openba_jax.files import atomic_path
from openba_jax.fit.fitting import Fit

_PARTS = {
    "parameters": "#0072B2",
    "optimizer": "#56B4E9",
    "other_arguments": "#999999",
    "outputs": "#CC79A7",
    "temporaries": "#E69F00",
    "code": "#000000",
}
"""Parts of the memory, in Okabe and Ito's colours, which colour-blind readers can tell apart."""


def plot(fits: Sequence[Fit], path: Path) -> None:
    """Draws a bar of memory and a bar of time for each step that was compiled."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [_label(each) for each in fits]
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(11.0, 1.6 + 0.4 * len(fits)), sharey=True, layout="constrained"
    )
    starts = [0.0] * len(fits)
    for part, color in _PARTS.items():
        sizes = [getattr(each.memory, part) / 2**30 for each in fits]
        left.barh(names, sizes, left=starts, color=color, label=part.replace("_", " "))
        starts = [start + size for start, size in zip(starts, sizes, strict=True)]
    limit = fits[0].memory.limit / 2**30
    left.axvline(limit, color="black", linewidth=1.0, linestyle=":")
    left.set_xlabel(f"GiB on a device; dotted: a {fits[0].chips.chip.name} has {limit:.1f}")
    left.invert_yaxis()
    for part, color in (("computing", "#009E73"), ("communicating", "#D55E00")):
        seconds = [getattr(each.roofline, part) if each.roofline else 0.0 for each in fits]
        starts = [
            each.roofline.computing if each.roofline and part == "communicating" else 0.0
            for each in fits
        ]
        right.barh(names, seconds, left=starts, color=color, label=part)
    right.set_xlabel("seconds of a step by the roofline")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    if fits[0].stand_in:
        figure.suptitle("compiled for CPU devices, for want of the chip's compiler", fontsize=9)
    with atomic_path(path) as file:
        figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)


def _label(found: Fit) -> str:
    mesh = "x".join(map(str, found.mesh))
    parts = f" / {found.accumulation}" if found.accumulation > 1 else ""
    return f"{found.step} {mesh}, {found.batch}{parts}, {found.remat}"
