"""Sources of text cut in chunks of about a mebibyte, the units of work of `prepare`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from openba_jax.data.documents import Item, read_items

CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Source:
    """Files that belong together; groups of text never span sources.

    Attributes:
      name: how manifests and reports call it.
      files: paths, URLs or patterns, see `inputs.expand`.
      weight: its share of the examples that a training run draws, in ratio to the other sources;
        None leaves it to the number of its examples.
    """

    name: str
    files: Sequence[str | Path]
    weight: float | None = None


@dataclasses.dataclass(frozen=True)
class Position:
    """How far the reading has come; JSON of its fields is all that resuming needs.

    Attributes:
      source: number of the source, from 0.
      file: number of the file in the source.
      item: items of the file already read.
      in_batch: items of the batch already read.
    """

    source: int = 0
    file: int = 0
    item: int = 0
    in_batch: int = 0


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Consecutive items of one file.

    Attributes:
      source: number of the source.
      path: the file.
      start: items of the file in front.
      items: lines or rows.
      batch_ends: after how many of the items a batch ends.
      read: bytes of the file that were read for it.
      after: where the next chunk begins.
    """

    source: int
    path: str
    start: int
    items: Sequence[Item]
    batch_ends: Sequence[int]
    read: int
    after: Position


def read_chunks(
    sources: Sequence[Sequence[str]],
    columns: Sequence[str],
    batch_size: int | None,
    start: Position,
) -> Iterator[Chunk]:
    """Cuts sources in chunks; where they are cut does not hang on where the reading started.

    Args:
      sources: the files of each.
      columns: those of tables that are needed.
      batch_size: lines of a batch, blank ones not counted; the end of a source always ends one.
      start: the first chunk's beginning.

    Raises:
      UserError: a file cannot be read or is damaged.
    """
    position = start
    while position.source < len(sources):
        files = sources[position.source]
        last = position.file == len(files) - 1
        for chunk in _read_file(files[position.file], last, columns, batch_size, position):
            yield chunk
            position = chunk.after


def _read_file(
    path: str, last: bool, columns: Sequence[str], batch_size: int | None, start: Position
) -> Iterator[Chunk]:
    """The chunks of one file; the end of the `last` one ends a batch."""
    items: list[Item] = []
    ends: list[int] = []
    size, first, in_batch, read = 0, start.item, start.in_batch, 0
    seen: int | None = None  # Bytes that chunks before told of, known with the first item.
    for number, item, read in read_items(path, start.item, columns):
        if seen is None:
            seen = read if start.item else 0
        items.append(item)
        size += _size(item)
        in_batch += not (isinstance(item, bytes) and item.isspace())
        if in_batch == batch_size:
            ends.append(len(items))
            in_batch = 0
        if size >= CHUNK_BYTES:
            after = dataclasses.replace(start, item=number, in_batch=in_batch)
            yield Chunk(start.source, path, first, items, ends, read - seen, after)
            items, ends, size, first, seen = [], [], 0, number, read
    if last:
        ends.append(len(items))
        after = Position(start.source + 1)
    else:
        after = Position(start.source, start.file + 1, in_batch=in_batch)
    yield Chunk(start.source, path, first, items, ends, read - (seen or 0), after)


def _size(item: Item) -> int:
    """About how many bytes an item holds."""
    return len(item) if isinstance(item, bytes) else sum(len(str(v)) for v in item.values())
