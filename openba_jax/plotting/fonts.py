"""Names in any script: a font that has their characters is found, or they are spelt out."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from absl import logging

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATIN = "DejaVu Sans"
"""Comes with matplotlib."""

PREFERRED = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans GB", "Heiti SC"),
    *("Microsoft YaHei", "SimHei", "Noto Sans CJK JP", "Droid Sans Fallback", "Arial Unicode MS"),
)
"""Fonts with Chinese characters, asked before all others."""


def families(text: str) -> list[str]:
    """Installed fonts that have, together, as many characters of a text as there are to be had.

    Matplotlib takes each character from the first of them that has it.
    """
    missing = set(text) - {"\n"} - _characters(LATIN)
    found = [LATIN]
    for name in _installed():
        if not missing:
            break
        if missing & _characters(name):
            found.append(name)
            missing -= _characters(name)
    return found


def spelt(text: str, fonts: list[str]) -> str:
    r"""The text with every character that no font has as its code: `\u8bcd`."""
    known = {"\n"}.union(*map(_characters, fonts))
    return "".join(
        char if char in known else char.encode("unicode_escape").decode() for char in text
    )


def fit(figure: Figure) -> None:
    """Gives every text of a figure fonts that have its characters, and spells out the others."""
    from matplotlib.text import Text

    lacking: set[str] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            names = [label.get_text() for label in axis.get_majorticklabels()]
            fonts = families("".join(names))
            drawn = [spelt(name, fonts) for name in names]
            if drawn != names:
                axis.set_ticks(axis.get_majorticklocs(), drawn)
                lacking |= set("".join(names)) - set("".join(drawn))
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        written = text.get_text()
        fonts = families(written)
        if len(fonts) > 1:
            text.set_fontfamily(fonts)
        if (drawn_text := spelt(written, fonts)) != written:
            text.set_text(drawn_text)
            lacking |= set(written) - set(drawn_text)
    if lacking:
        logging.warning(
            "no installed font has %s: pictures show codes instead; a font such as Noto Sans CJK "
            "(the package fonts-noto-cjk of Debian and Ubuntu) has Chinese characters.",
            "".join(sorted(lacking)),
        )


@functools.cache
def _installed() -> list[str]:
    """Names of the installed fonts, those preferred first."""
    from matplotlib.font_manager import fontManager

    # Matplotlib's Last Resort has a box for every character.
    names = sorted({font.name for font in fontManager.ttflist if "Last Resort" not in font.name})
    return [n for n in PREFERRED if n in names] + [n for n in names if n not in PREFERRED]


@functools.cache
def _characters(name: str) -> frozenset[str]:
    """The characters that a font has."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family=[name]), fallback_to_default=False))
    return frozenset(map(chr, font.get_charmap()))
