"""Text corpora as streams of records: JSON lines, parquet and plain text.

A file is first cut in items, lines of bytes or rows of a table, which is quick and needs to know
nothing; an item becomes a record where there is time for it, in `prepare`'s worker processes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from openba_jax.data.inputs import (
    Progress,
    input_size,
    open_raw,
    optional,
    plain_name,
    unpacked,
)
from openba_jax.errors import UserError

Record = dict[str, Any]
Item = bytes | Record
Form = Literal["json", "parquet", "text"]

_ROWS_AT_ONCE = 1000


@functools.lru_cache(maxsize=64)
def form_of(path: str) -> Form:
    """What a file holds, by its name: `.jsonl` and `.json`, `.parquet`, all others plain text."""
    name = plain_name(path)
    if name.endswith((".jsonl", ".json")):
        return "json"
    return "parquet" if name.endswith(".parquet") else "text"


def read_items(
    path: str, start: int = 0, columns: Sequence[str] = ()
) -> Iterator[tuple[int, Item, int]]:
    """The lines or rows of a file.

    Args:
      path: local, or a URL for fsspec.
      start: so many items are left out, to go on behind them.
      columns: those of a table that are needed, if it has them; without, all.

    Yields:
      Its number, from 1, the item, and how many bytes of the file, as it lies on the disk, were
      read up to here.

    Raises:
      UserError: the file cannot be read or is damaged.
    """
    with open_raw(path) as raw:
        if form_of(path) == "parquet":
            yield from _rows(path, raw, start, columns)
            return
        with unpacked(path, raw) as file:
            position = 0
            for number, line in enumerate(file, 1):
                # Asking the file takes as long as reading the line.
                position = position + len(line) if file is raw else raw.tell()
                if number > start:
                    yield number, line, position


def parse(path: str, number: int, item: Item, text_column: str) -> Record | None:
    """The record of an item; None for a blank line of JSON lines.

    A line of plain text becomes `{text_column: line}`.

    Raises:
      UserError: a line is not UTF-8, or no JSON object.
    """
    if isinstance(item, dict):
        return item
    try:
        text = item.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{place(path, number)} is not UTF-8; convert or remove it.") from error
    if form_of(path) == "text":
        return {text_column: text.rstrip("\r\n")}
    return _json(text, path, number) if text and not text.isspace() else None


def place(path: str, number: int) -> str:
    """How messages name an item."""
    return f"{path} {'row' if form_of(path) == 'parquet' else 'line'} {number}"


def read_records(
    files: Sequence[str | Path],
    text_column: str = "text",
    progress: Progress | None = None,
    on_bad: Callable[[UserError], object] | None = None,
) -> Iterator[tuple[str, Record]]:
    """The records of some files, in order.

    `.jsonl` and `.json` files hold one JSON object per line, `.parquet` files rows, all others are
    plain text with one document per line, which becomes `{text_column: line}`. Compressed files
    are unpacked (`inputs`). Blank lines are no records in JSON lines, and empty documents in plain
    text.

    Args:
      files: paths.
      text_column: the column that a line of plain text stands in.
      progress: told how many bytes of the files, as they lie on the disk, were read.
      on_bad: told of lines that cannot be read, which are then left out.

    Yields:
      `FILE line N`, for messages, and the record.

    Raises:
      UserError: a file is missing or damaged; without `on_bad` also: a line is not UTF-8, or not a
        JSON object.
    """
    for path in map(str, files):
        seen = 0
        for number, item, position in read_items(path):
            if progress is not None and position > seen:
                progress(position - seen)
                seen = position
            try:
                record = parse(path, number, item, text_column)
            except UserError as error:
                if on_bad is None:
                    raise
                on_bad(error)
                continue
            if record is not None:
                yield place(path, number), record


class MissingColumnError(UserError):
    """A record has no column of that name."""


def column(record: Record, name: str, place: str) -> str:
    """A text column of a record.

    Raises:
      MissingColumnError: it is missing.
      UserError: it holds no text.
    """
    if name not in record:
        raise MissingColumnError(
            f"{place} has no column {name!r}; it has {', '.join(map(repr, record))}."
        )
    if not isinstance(record[name], str):
        raise UserError(f"{place} has no text in column {name!r} but {record[name]!r:.50}.")
    return record[name]


def _json(text: str, path: str, number: int) -> Record:
    """One line of JSON."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place(path, number)} is not JSON: {error}.") from error
    if not isinstance(record, dict):
        raise UserError(f"{place(path, number)} is not a JSON object but {text.strip():.50}.")
    if "\\u" in text:
        try:
            json.dumps(record, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"{place(path, number)} has half of a surrogate pair, which is no text; mend or "
                "remove it."
            ) from error
    return record


def _rows(
    path: str, raw: IO[bytes], start: int, columns: Sequence[str]
) -> Iterator[tuple[int, Record, int]]:
    """The rows of a parquet file; row groups before `start` are not read."""
    arrow = optional("pyarrow", "parquet", path)
    parquet = optional("pyarrow.parquet", "parquet", path)
    size = input_size(path)
    try:
        with unpacked(path, raw) as file, parquet.ParquetFile(file) as table:
            wanted = [name for name in table.schema_arrow.names if name in columns] or None
            number, total = 0, table.metadata.num_rows
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                if number + rows <= start:
                    number += rows
                    continue
                for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=wanted):
                    for record in batch.to_pylist():
                        number += 1
                        if number > start:
                            yield number, record, size * number // total
    except arrow.ArrowException as error:
        raise UserError(f"{path} is not a whole parquet file: {error}.") from error
