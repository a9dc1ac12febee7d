"""How wide a text is on a terminal."""

from __future__ import annotations

import unicodedata


def columns(text: str) -> int:
    """Columns that a text takes on a terminal, where Chinese characters take two."""
    return sum(1 + (unicodedata.east_asian_width(character) in "FW") for character in text)
