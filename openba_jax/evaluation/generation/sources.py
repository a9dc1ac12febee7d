"""Files of questions, the same for all benchmarks here: JSON lines, parquet, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openba_jax.data.text.documents import Record, column, read_records
from openba_jax.errors import UserError
from openba_jax.evaluation.benchmarks.base import TOTAL

TABLES = (".jsonl", ".ndjson", ".parquet")
"""Forms of files that have a record on each line or in each row."""


def files(source: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files of a folder with one of some endings, in order; or the file itself.

    Raises:
      UserError: there is none.
    """
    found = [source] if source.is_file() else sorted(source.glob("*")) if source.is_dir() else []
    found = [path for path in found if path.is_file() and path.name.lower().endswith(endings)]
    if not found:
        raise UserError(f"{source} holds no file of questions ({', '.join(endings)}).")
    return found


def subjects(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by subject.

    Raises:
      UserError: two are of one subject, or see `subject`.
    """
    found: dict[str, Path] = {}
    for path in paths:
        name = subject(path)
        if name in found:
            raise UserError(
                f"{found[name]} and {path} are both of the subject {name}; keep one of them."
            )
        found[name] = path
    return found


def subject(path: Path) -> str:
    """What the questions of a file are about: its name without endings.

    Raises:
      UserError: it is the name of the figures over all files.
    """
    name = path.name.partition(".")[0]
    if name == TOTAL:
        raise UserError(f"{path}: {TOTAL} is the name of the figures over all files; rename it.")
    return name


def records(path: Path) -> Iterator[tuple[str, Record]]:
    """The records of a file of one of the forms `TABLES`, and where each stands.

    Raises:
      UserError: the file cannot be read, a line is no JSON object, or there is no record.
    """
    empty = True
    for each in read_records([path]):
        empty = False
        yield each
    if empty:
        raise UserError(f"{path} holds no question.")


def filled(record: Record, name: str, place: str) -> str:
    """A column that has text which is not empty.

    Raises:
      UserError: there is no such column, or no text in it.
    """
    text = column(record, name, place)
    if not text.strip():
        raise UserError(f"{place} has an empty column {name!r}; fill or remove it.")
    return text


def read_json(path: Path) -> Any:
    """A whole JSON file.

    Raises:
      UserError: it cannot be read, or is no UTF-8 or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8; convert it.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}.") from error
