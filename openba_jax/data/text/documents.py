"""Text corpora as streams of records: JSON lines, parquet and plain text.

A file is first cut in blocks of whole lines or rows, which is quick and needs to know nothing;
their items become records where there is time for it, in `prepare`'s workers.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from openba_jax.data.text.open_files import (
    Progress,
    expand,
    input_size,
    open_raw,
    optional,
    plain_name,
    unpacked,
)
from openba_jax.errors import UserError

Record = dict[str, Any]
Item = bytes | Record
Table = Any  # `pyarrow.RecordBatch`, which need not be installed.
Block = bytes | Table
Form = Literal["json", "parquet", "text"]

_BLOCK_BYTES = 1 << 20
_MOST_ROWS = 1000
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_REFUSED = (
    *(".csv", ".tsv", ".xls", ".xlsx", ".ods", ".arrow", ".feather", ".orc", ".avro"),
    *(".zip", ".tar", ".tgz", ".7z", ".rar", ".lz4", ".br", ".z"),
    *(".pdf", ".doc", ".docx", ".odt", ".epub", ".html", ".htm", ".xml"),
    *(".pkl", ".npy", ".npz", ".bin", ".idx", ".model", ".safetensors"),
)
_decode_json = json.JSONDecoder().raw_decode


@functools.lru_cache(maxsize=64)
def form_of(path: str) -> Form:
    """What a file holds, by the ending of its name, in small or capital letters.

    `.jsonl`, `.ndjson` and `.json` hold JSON, `.parquet` a table, all others plain text.

    Raises:
      UserError: The ending is that of a form which is not read, such as `.csv`.
    """
    name = plain_name(path).lower()
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "json"
    if name.endswith(_REFUSED):
        raise UserError(
            f"input {path} is no plain text by its name, and {Path(name).suffix} files are not "
            "read; convert it to JSON lines (.jsonl), parquet or plain text (.txt)."
        )
    return "parquet" if name.endswith(".parquet") else "text"


def text_files(patterns: Sequence[str | Path]) -> list[str]:
    """The files that paths and patterns name, see `open_files.expand`.

    Raises:
      UserError: Nothing matches a pattern, or it names something that is no file.
      UserError: A file is named twice, or is of a form that is not read.
    """
    paths = expand(patterns)
    seen: dict[str, str] = {}
    for path in paths:
        form_of(path)
        place = path if "://" in path else os.path.realpath(path)
        if place in seen:
            raise UserError(f"input {path} is given twice, first as {seen[place]}; name it once.")
        seen[place] = path
    return paths


def read_blocks(
    path: str, size: int, start: int = 0, columns: Sequence[str] = ()
) -> Iterator[tuple[Block, int, int]]:
    """A file in blocks of whole lines or rows.

    Args:
      path: local, or a URL for fsspec.
      size: about so many bytes, unpacked, make a block.
      start: so many items are left out, to go on behind them.
      columns: those of a table that are needed, if it has them; without, all.

    Yields:
      The block, the number of its last item, counted from 1, and how many bytes of the file, as it
      lies on the disk, were read for it.

    Raises:
      UserError: The file cannot be read or is damaged.
    """
    with open_raw(path) as raw:
        if form_of(path) == "parquet":
            yield from _tables(path, raw, size, start, columns)
            return
        with unpacked(path, raw) as file:
            number = position = 0
            while block := file.read(size):
                block += file.readline()
                first, before, position = number, position, raw.tell()
                number += block.count(b"\n") + (not block.endswith(b"\n"))
                if number > start:
                    if first < start:
                        block = block.split(b"\n", start - first)[-1]
                    yield block, number, position - before


def items_of(block: Block) -> Sequence[Item]:
    """The lines of a block, without their ends, or its rows."""
    if not isinstance(block, bytes):
        rows: list[Record] = block.to_pylist()
        return rows
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def parse(
    path: str, number: int, item: Item, text_column: str, form: str | None = None
) -> Record | None:
    """The record of an item; None for a blank line of JSON lines.

    A line of plain text becomes `{text_column: line}`. The form is that of the path by default.

    Raises:
      UserError: The line is not UTF-8, or is no JSON object.
    """
    if isinstance(item, dict):
        return item
    try:
        text = item.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{place(path, number)} is not UTF-8; convert or remove it.") from error
    if (form or form_of(path)) == "text":
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

    `form_of` says what a file holds: one JSON object per line, rows, or plain text with one
    document per line, which becomes `{text_column: line}`. Compressed files are unpacked. Blank
    lines are no records in JSON lines, and empty documents in plain text.

    Args:
      files: paths.
      text_column: the column that a line of plain text stands in.
      progress: told how many bytes of the files, as they lie on the disk, were read.
      on_bad: told of lines that cannot be read, which are then left out.

    Yields:
      `FILE line N`, for messages, and the record.

    Raises:
      UserError: A file is missing or damaged.
      UserError: A line is not UTF-8, or is no JSON object, and there is no `on_bad`.
    """
    for path in map(str, files):
        for block, last, read in read_blocks(path, _BLOCK_BYTES):
            if progress is not None:
                progress(read)
            items = items_of(block)
            for number, item in enumerate(items, last - len(items) + 1):
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
      MissingColumnError: The record has no such column.
      UserError: The column holds no text.
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
        record = _loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place(path, number)} is not JSON: {error}.") from error
    if not isinstance(record, dict):
        raise UserError(f"{place(path, number)} is not a JSON object but {text.strip():.50}.")
    if _SURROGATE.search(text):
        try:
            json.dumps(record, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"{place(path, number)} has half of a surrogate pair, which is no text; mend or "
                "remove it."
            ) from error
    return record


def _loads(text: str) -> Any:
    """`json.loads`, without the third of its time that it takes for other forms of input."""
    try:
        value, end = _decode_json(text)
    except ValueError:
        end = -1
    return value if end == len(text) else json.loads(text)


def _tables(
    path: str, raw: IO[bytes], size: int, start: int, columns: Sequence[str]
) -> Iterator[tuple[Table, int, int]]:
    """The rows of a parquet file; row groups before `start` are not read."""
    arrow = optional("pyarrow", "parquet", path)
    parquet = optional("pyarrow.parquet", "parquet", path)
    bytes_of_file = input_size(path)
    try:
        with unpacked(path, raw) as file, parquet.ParquetFile(file) as table:
            wanted = [name for name in table.schema_arrow.names if name in columns] or None
            number, total = 0, table.metadata.num_rows
            for i in range(table.num_row_groups):
                group = table.metadata.row_group(i)
                if number + group.num_rows <= start:
                    number += group.num_rows
                    continue
                rows = size * group.num_rows // max(group.total_byte_size, 1)
                rows = min(max(rows, 1), _MOST_ROWS)
                for batch in table.iter_batches(rows, row_groups=[i], columns=wanted):
                    first = number
                    number += batch.num_rows
                    if number > start:
                        part = bytes_of_file * number // total - bytes_of_file * first // total
                        yield batch.slice(max(start - first, 0)), number, part
    except arrow.ArrowException as error:
        raise UserError(f"{path} is not a whole parquet file: {error}.") from error
