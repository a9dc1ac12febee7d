"""Rows of local files of any kind, by subject and split.

What a folder holds is found out: JSON lines, CSV, Parquet, the Arrow files of Hugging Face
`datasets`, or a data set that TFDS prepared. Nothing is downloaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from openba_jax.errors import UserError
from openba_jax.evaluation.sources import arrow_files, csv_files, tfds_folder

Rows = Iterator[tuple[str, Mapping[str, Any]]]
"""Where a row stands, for messages, and its fields."""


class Table(NamedTuple):
    """The rows of a subject and split.

    Attributes:
      subject: as the file or its folder is called; "" where neither says one.
      split: `train`, `dev`, `validation` or `test`; "" where nothing says one.
      rows: with their places.
    """

    subject: str
    split: str
    rows: list[tuple[str, Mapping[str, Any]]]


SPLITS = {
    "train": "train",
    "auxiliary_train": "train",
    "dev": "dev",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""How files and folders spell splits."""

_SPLIT = "|".join(sorted(SPLITS, key=len, reverse=True))
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_NO_SUBJECT = {"data", "default", "all"}
_METADATA = {"dataset_dict.json", "dataset_info.json", "state.json", "features.json"}


def _json_lines(file: Path) -> Rows:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            place = f"{file} line {number}"
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{place} is not JSON: {error}.") from error
            if not isinstance(fields, Mapping):
                raise UserError(f"{place} is no object; one with the fields of a question is.")
            yield place, fields


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _json_lines,
    ".csv": csv_files.rows,
    ".parquet": arrow_files.parquet_rows,
    ".arrow": arrow_files.arrow_rows,
}
_KINDS = {".json": "JSON", ".jsonl": "JSON lines", ".csv": "CSV", ".parquet": "Parquet"}
_KINDS |= {".arrow": "Arrow", ".tfds": "TFDS"}


def kind_of(source: Path) -> str:
    """What a folder, or a file, holds: `.json`, `.jsonl`, `.csv`, `.parquet`, `.arrow`, `.tfds`.

    Raises:
      UserError: it is not there, holds no questions, or files of several kinds.
    """
    if not source.exists():
        raise UserError(f"{source} is not there; name a folder or a file of questions.")
    if source.is_dir() and tfds_folder.is_tfds(source):
        return ".tfds"
    counts: dict[str, int] = {}
    for file in question_files(source):
        suffix = file.suffix.lower()
        counts[suffix] = counts.get(suffix, 0) + 1
    if not counts:
        known = ", ".join(f"*{suffix}" for suffix in _KINDS if suffix != ".tfds")
        raise UserError(f"{source} holds no question file ({known}, or a folder of TFDS).")
    if len(counts) > 1:
        found = ", ".join(f"{count} {_KINDS[suffix]}" for suffix, count in sorted(counts.items()))
        raise UserError(
            f"{source} holds question files of several kinds ({found}); name a folder of one kind."
        )
    return next(iter(counts))


def read_tables(source: Path, files: Sequence[Path]) -> list[Table]:
    """The rows of a folder or a file that is not of OpenBA's JSON format.

    Args:
      source: the folder or the file.
      files: those of `question_files` that are read.

    Raises:
      UserError: a file cannot be read, is not UTF-8 or damaged, two are of one subject and split
        and no shards, or a package is missing.
    """
    kind = kind_of(source)
    if kind == ".tfds":
        return [Table("", SPLITS.get(name, name), rows) for name, rows in tfds_folder.read(source)]
    tables: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for file in files:
        subject, split = subject_and_split(file, source)
        try:
            rows = list(_READERS[kind](file))
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8; convert it.") from error
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error
        if not rows:
            raise UserError(f"{file} holds no question.")
        if (subject, split) in tables and not _SHARD.search(file.stem):
            raise UserError(
                f"{source} has two files of {' '.join(filter(None, (subject, split)))}, of which "
                f"{file} is one; keep one of them."
            )
        tables.setdefault((subject, split), []).extend(rows)
    return [Table(subject, split, rows) for (subject, split), rows in tables.items()]


def subject_and_split(file: Path, source: Path) -> tuple[str, str]:
    """What the names of a file and of the folders above it, up to `source`, say."""
    inside = file.relative_to(source) if source.is_dir() else Path(file.name)
    subject = split = ""
    for part in [*inside.parts[:-1], _SHARD.sub("", inside.stem)]:
        if part.lower() in SPLITS:
            split = SPLITS[part.lower()]
        elif match := re.fullmatch(rf"(.+)[-_.]({_SPLIT})", part, re.IGNORECASE):
            subject, split = match[1], SPLITS[match[2].lower()]
        elif match := re.fullmatch(rf"({_SPLIT})[-_.].*", part, re.IGNORECASE):
            split = SPLITS[match[1].lower()]
        elif part.lower() not in _NO_SUBJECT:
            subject = part
    return subject, split


def question_files(source: Path) -> list[Path]:
    """The files of a known kind in a folder and below it, in order; or the file itself."""
    if source.is_file():
        return [source]
    files = (file for file in source.rglob("*") if file.suffix.lower() in _KINDS and file.is_file())
    return sorted(file for file in files if file.name not in _METADATA)
