"""Input files wherever they lie and however they are compressed, as streams of bytes.

A path with `://` goes to fsspec (`s3://`, `gs://`, `https://` ...), which wants the package of that
protocol; all others are local and need neither. `.gz`, `.bz2` and `.xz` are unpacked by the
standard library, `.zst` by pyarrow.
"""

from __future__ import annotations

import bz2
import contextlib
import glob
import gzip
import hashlib
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from openba_jax.errors import UserError
from openba_jax.paths import address_or_local

Progress = Callable[[int], object]

_OPENERS: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def plain_name(path: str) -> str:
    """The path without the ending of a compression, which may be in capital letters."""
    for suffix in (*_OPENERS, ".zst"):
        if path.lower().endswith(suffix):
            path = path[: -len(suffix)]
    return path


def expand(patterns: Sequence[str | Path]) -> list[str]:
    """Paths with `~` expanded; those with `*`, `?` or `[` become the files that match, sorted.

    Raises:
      UserError: No file matches a pattern, or a path names no file that can be read twice.
    """
    paths: list[str] = []
    if not all(map(str, patterns)):
        raise UserError("the name of an input is empty; see whether there is a comma too many.")
    for pattern in map(address_or_local, patterns):
        if not glob.has_magic(pattern) or Path(pattern).is_file():
            paths.append(pattern)
            continue
        if "://" in pattern:
            system, path = _remote(pattern)
            found = [system.unstrip_protocol(name) for name in system.glob(path)]
        else:
            found = glob.glob(pattern, recursive=True)
        if not found:
            raise UserError(f"no file matches {pattern}.")
        paths += sorted(found)
    for path in paths:
        _check_file(path)
    return paths


def _check_file(path: str) -> None:
    """Raises a `UserError` where a path does not name a file that can be read twice."""
    if "://" in path:
        system, name = _remote(path)
        exists, is_file, is_folder = system.exists, system.isfile, system.isdir
    else:
        name, exists, is_file, is_folder = path, os.path.exists, os.path.isfile, os.path.isdir
    if is_file(name):
        return
    if is_folder(name):
        raise UserError(f"input {path} is a folder; name its files, such as '{path}/*.jsonl'.")
    if exists(name):
        raise UserError(f"input {path} is a stream and is read twice; write it to a file first.")
    raise UserError(f"input {path} does not exist.")


def input_size(path: str) -> int:
    """The bytes of a file, compressed as it is."""
    if "://" not in path:
        return Path(path).stat().st_size
    system, name = _remote(path)
    return int(system.size(name) or 0)


def input_sha256(path: str, progress: Progress | None = None) -> str:
    """The sha256 of a file, compressed as it is; `progress` is told the bytes of each chunk."""
    digest = hashlib.sha256()
    with open_raw(path) as raw:
        while chunk := raw.read(1 << 20):
            digest.update(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest()


@contextlib.contextmanager
def open_raw(path: str) -> Iterator[IO[bytes]]:
    """Opens a file as it lies there.

    Raises:
      UserError: The file cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        try:
            if "://" in path:
                system, name = _remote(path)
                raw = stack.enter_context(system.open(name, "rb"))
            else:
                raw = stack.enter_context(Path(path).open("rb"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path} cannot be read: {reason}.") from error
        yield raw


@contextlib.contextmanager
def unpacked(path: str, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    """What is inside an opened file, by the ending of its name.

    Raises:
      UserError: The file is damaged, cut off, or of another compression than its name says.
    """
    suffix = path[len(plain_name(path)) :].lower()
    opened: IO[bytes]
    if suffix in _OPENERS:
        opened = _OPENERS[suffix](raw)
    elif suffix == ".zst":
        arrow = optional("pyarrow", "compressed by zstd", path)
        stream = arrow.CompressedInputStream(arrow.PythonFile(raw, mode="r"), "zstd")
        opened = io.BufferedReader(stream, 1 << 20)
    else:
        yield raw
        return
    try:
        yield opened
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path} is not a whole {suffix} file: {error}.") from error
    except OSError as error:
        if error.errno is not None:  # The disk's, not the decompressor's.
            raise
        raise UserError(f"{path} is not a whole {suffix} file: {error}.") from error


def optional(package: str, what: str, path: str) -> Any:
    """Imports a package that only some inputs need.

    Raises:
      UserError: The package is not installed.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"{path} is {what}, which needs {package}; pip install 'openba_jax[data]'."
        ) from error


def _remote(path: str) -> tuple[Any, str]:
    """The file system of a URL and the path on it.

    Raises:
      UserError: The protocol is unknown, or its package is not installed.
    """
    fsspec = optional("fsspec", "a URL", path)
    try:
        system, name = fsspec.core.url_to_fs(path)
    except (ValueError, ImportError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    return system, name
