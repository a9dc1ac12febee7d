"""Rows of CSV files, with a header or, as those of MMLU, without."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openba_jax.errors import UserError

_HEADERLESS = ("question", "A", "B", "C", "D", "answer")
"""The columns of MMLU's files."""

_QUESTION_COLUMNS = {"question", "goal", "query"}


def rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields where a row stands, and its fields.

    Raises:
      UserError: the columns are not known, or a row has more or fewer of them.
    """
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        names: tuple[str, ...] | None = None
        try:
            for number, cells in enumerate(reader, start=1):
                if not cells:
                    continue
                if names is None:
                    names = _header(cells, file)
                    if names is not _HEADERLESS:
                        continue
                place = f"{file} row {number}"
                if len(cells) != len(names):
                    raise UserError(
                        f"{place} has {len(cells)} columns where {len(names)} are expected: "
                        f"{', '.join(names)}."
                    )
                yield place, dict(zip(names, cells, strict=True))
        except csv.Error as error:
            raise UserError(f"{file} line {reader.line_num} is not CSV: {error}.") from error


def _header(cells: list[str], file: Path) -> tuple[str, ...]:
    if _QUESTION_COLUMNS & {cell.strip().lower() for cell in cells}:
        return tuple(cell.strip() for cell in cells)
    if len(cells) == len(_HEADERLESS) and cells[-1].strip() in tuple("ABCD"):
        return _HEADERLESS
    raise UserError(
        f"{file} begins with {', '.join(cells)[:80]!r}, which is neither a header with a column "
        f"'question' or 'goal' nor, without a header, {', '.join(_HEADERLESS)}."
    )
