"""Writing the memory-mapped token store, whose form `token_store` describes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from openba_jax.data.store.token_store import (
    CODES,
    HEADER,
    MAGIC,
    PAIRS_AT_ONCE,
    VERSION,
    TokenStore,
    paths_of,
)
from openba_jax.errors import UserError
from openba_jax.objectives.token_rows import Kind


class TokenStoreWriter:
    """Writes a store as a stream; its files appear, the index last, when `close` is reached.

    Lengths and pair numbers wait in files of their own, so memory does not grow with the store.
    Used as a context manager, an exception inside leaves no files behind.
    """

    def __init__(
        self, prefix: str | Path, dtype: np.dtype, resume: Mapping[str, int] | None = None
    ) -> None:
        """Opens `PREFIX.bin.tmp` and its companions.

        Args:
          prefix: of the files.
          dtype: of the elements.
          resume: a `mark` of a writer that did not come to its end: all that it wrote later is cut
            off, and the writing goes on.

        Raises:
          UserError: A token store cannot hold elements of this type.
          FileNotFoundError: The files that are to be resumed are not there, see `holds`.
        """
        self.dtype = np.dtype(dtype).newbyteorder("<")
        if self.dtype.str.replace("|", "<") not in CODES:
            raise UserError(f"a token store cannot hold elements of type {dtype}.")
        self._prefix = Path(prefix)
        self._index_path, self._data_path = paths_of(self._prefix)
        self._data_path.parent.mkdir(parents=True, exist_ok=True)
        if resume is not None and not _temporary(self._data_path).exists():
            self._data_path.replace(_temporary(self._data_path))  # It was killed while closing.
        mode = "wb" if resume is None else "r+b"
        self._files = {name: path.open(mode) for name, path in _unfinished(self._prefix).items()}
        for name, file in self._files.items():
            if resume is not None:
                file.truncate(resume[name])
                file.seek(resume[name])
        self._pairs = self._files["lengths"].tell() // 8
        # Hashed while it is written, `.bin` need not be read again.
        self._digest = hashlib.sha256()
        for block in self._read("data", 1 << 20):  # What a run before this one wrote.
            self._digest.update(block)

    @staticmethod
    def holds(prefix: str | Path, mark: Mapping[str, int]) -> bool:
        """Whether all that a writer had written at a mark is still there, to `resume`."""
        paths = _unfinished(Path(prefix))
        if mark.keys() != paths.keys():  # Of another version.
            return False
        if not paths["data"].exists():
            paths["data"] = paths_of(Path(prefix))[1]  # It was killed while closing.
        return all(path.is_file() and path.stat().st_size >= mark[k] for k, path in paths.items())

    @property
    def data_sha256(self) -> str:
        """The sha256 of `.bin`, as far as it is written."""
        return self._digest.hexdigest()

    def add_groups(self, groups: np.ndarray) -> None:
        """Appends groups of text: integers `[n, length]`."""
        count, length = groups.shape
        self.add_pairs("text", groups.ravel(), np.tile(np.array([length, 0], np.int32), count))

    def add_pairs(self, kind: Kind, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Appends pairs.

        Args:
          kind: of all of them.
          ids: integers `[tokens]`, sources and targets one after another.
          lengths: integers `[2 n]`, of source and target by turns.

        Raises:
          ValueError: An id does not fit the element type.
        """
        if ids.size:
            limits = np.iinfo(self.dtype)
            if ids.min() < limits.min or ids.max() > limits.max:
                raise ValueError(f"ids {ids.min()}..{ids.max()} do not fit {self.dtype.name}.")
        count = len(lengths) // 2
        self._write_data(ids.astype(self.dtype).tobytes())
        self._files["lengths"].write(lengths.astype("<i4").tobytes())
        self._files[kind].write(np.arange(self._pairs, self._pairs + count, dtype="<i8").tobytes())
        self._pairs += count

    def add_store(self, store: TokenStore) -> None:
        """Appends all pairs of another store, in their order.

        Raises:
          UserError: The stores have different element types.
        """
        if store.dtype != self.dtype:
            raise UserError(
                f"{store.prefix} holds {store.dtype.name} and cannot be joined with "
                f"{self.dtype.name}; prepare both with one vocabulary."
            )
        for kind, pairs in store._pairs.items():
            for i in range(0, len(pairs), PAIRS_AT_ONCE):
                shifted = pairs[i : i + PAIRS_AT_ONCE] + self._pairs
                self._files[kind].write(shifted.astype("<i8").tobytes())
        self._files["lengths"].write(np.ascontiguousarray(store._lengths).data)
        with paths_of(store.prefix)[1].open("rb") as file:
            while block := file.read(1 << 20):
                self._write_data(block)
        self._pairs += len(store._lengths) // 2

    def mark(self) -> dict[str, int]:
        """Flushes to the disk and says how long each file is: where `resume` can go on."""
        for file in self._files.values():
            _flush(file)
        return {name: file.tell() for name, file in self._files.items()}

    def finish(self) -> None:
        """Gives the store its names, but keeps what `resume` needs until `discard`."""
        sizes = self.mark()
        code = CODES[self.dtype.str.replace("|", "<")]
        counts = [size // 8 for name, size in sizes.items() if name in ("text", "instructions")]
        with _temporary(self._index_path).open("wb") as index:
            index.write(HEADER.pack(MAGIC, VERSION, code, 2 * self._pairs, *counts))
            self._copy("lengths", index)
            end = 0
            for lengths in self._read("lengths", 4 * PAIRS_AT_ONCE):
                widths = np.frombuffer(lengths, "<i4").astype("<i8") * self.dtype.itemsize
                ends = end + np.cumsum(widths)
                index.write((ends - widths).astype("<i8").tobytes())
                end = int(ends[-1])
            self._copy("text", index)
            self._copy("instructions", index)
            _flush(index)
        for path in (self._data_path, self._index_path):
            _temporary(path).replace(path)

    def discard(self) -> None:
        """Removes all temporary files."""
        self.release()
        self.remove_unfinished(self._prefix)

    @staticmethod
    def remove_unfinished(prefix: str | Path) -> None:
        """Removes the temporary files of a writer that may have been killed."""
        index, data = paths_of(Path(prefix))
        # Earlier versions called the pair numbers of text `spans`.
        others = (_temporary(index), _temporary(data.with_suffix(".spans")))
        for path in (*_unfinished(Path(prefix)).values(), *others):
            path.unlink(missing_ok=True)

    def release(self) -> None:
        """Closes the files as they are."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # A full disk refuses what was not flushed.
                file.close()

    def close(self) -> None:
        """Finishes the store and leaves nothing else."""
        self.finish()
        self.discard()

    def __enter__(self) -> TokenStoreWriter:
        """Itself."""
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes, or after an exception removes what was written."""
        try:
            if error_type is None:
                self.finish()
        finally:
            self.discard()

    def _write_data(self, data: bytes) -> None:
        """Appends to `.bin`."""
        self._files["data"].write(data)
        self._digest.update(data)

    def _read(self, name: str, size: int) -> Iterator[bytes]:
        """One of the temporary files in blocks."""
        with Path(self._files[name].name).open("rb") as file:
            while block := file.read(size):
                yield block

    def _copy(self, name: str, index: IO[bytes]) -> None:
        """Puts one of the temporary files into the index."""
        for block in self._read(name, 1 << 20):
            index.write(block)


def _unfinished(prefix: Path) -> dict[str, Path]:
    """The files that are written until the store is whole."""
    _, data = paths_of(prefix)
    paths = {name: data.with_suffix(f".{name}") for name in ("lengths", "text", "instructions")}
    return {name: _temporary(path) for name, path in ({"data": data} | paths).items()}


def _temporary(path: Path) -> Path:
    """Where a file is written before it is whole."""
    return path.with_name(path.name + ".tmp")


def _flush(file: IO[bytes]) -> None:
    """Waits until the file is on the disk."""
    file.flush()
    os.fsync(file.fileno())
