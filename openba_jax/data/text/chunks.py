"""Sources of text cut in chunks of about a mebibyte, the units of work of `prepare`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from openba_jax.data.text.documents import Block, read_blocks

CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class TextSource:
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
    """

    source: int = 0
    file: int = 0
    item: int = 0


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Consecutive items of one file.

    Attributes:
      source: number of the source.
      path: the file.
      start: items of the file in front.
      block: its lines or rows.
      read: bytes of the file that were read for it.
      after: where the next chunk begins.
    """

    source: int
    path: str
    start: int
    block: Block
    read: int
    after: Position

    @property
    def ends_source(self) -> bool:
        """Whether no more of the source comes behind it."""
        return self.after.source > self.source


def read_chunks(
    sources: Sequence[Sequence[str]], columns: Sequence[str], start: Position
) -> Iterator[Chunk]:
    """Cuts sources in chunks.

    Args:
      sources: the files of each.
      columns: those of tables that are needed.
      start: the first chunk's beginning.

    Yields:
      At least one chunk of each file, the last of which may be empty.

    Raises:
      UserError: A file cannot be read or is damaged.
    """
    position = start
    while position.source < len(sources):
        files = sources[position.source]
        path = files[position.file]
        for block, last, read in read_blocks(path, CHUNK_BYTES, position.item, columns):
            after = dataclasses.replace(position, item=last)
            yield Chunk(position.source, path, position.item, block, read, after)
            position = after
        if position.file + 1 < len(files):
            after = Position(position.source, position.file + 1)
        else:
            after = Position(position.source + 1)
        yield Chunk(position.source, path, position.item, b"", 0, after)
        position = after
