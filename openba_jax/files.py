"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from openba_jax.errors import UserError


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Writes a file by `atomic_path`; text is UTF-8."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON by `atomic_path`.

    Raises:
      UserError: a number in it is NaN or infinite.
    """
    write_atomically(path, json_text(value, path, indent=2) + "\n")


def json_text(value: Any, where: object, indent: int | None = None) -> str:
    """The JSON of a value, which JSON's own readers take: without NaN and infinite numbers.

    Args:
      value: dicts, lists, texts and numbers.
      where: what the JSON is for, for the message.
      indent: blanks per level; None: one line.

    Raises:
      UserError: a number in it is NaN or infinite; the message names its key.
    """
    for key, number in _numbers(value, ""):
        if not math.isfinite(number):
            raise UserError(f"{where}: {key} is {number}, which is no figure; nothing is written.")
    return json.dumps(value, indent=indent, allow_nan=False)


def _numbers(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """The floating-point numbers in a JSON value, by keys such as `rows[2].loss`."""
    if isinstance(value, float):
        yield key or "the value", value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _numbers(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _numbers(item, f"{key}[{number}]")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Where to write a file: `PATH.tmp`, flushed to the disk and renamed to `path` at the end.

    On any error it is removed, and what was at `path` stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network disks and mounted buckets cannot flush a folder; they keep names at once.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def reject_lfs_pointer(file: Path) -> None:
    """Checks that a file is there itself, and not the pointer that Git LFS keeps in its place.

    Raises:
      UserError: it is a pointer.
    """
    if not file.is_file():
        return
    with file.open("rb") as stream:
        if stream.read(len(_LFS)) == _LFS:
            raise UserError(
                f"{file} is a pointer of Git LFS and not the file itself; run `git lfs pull` in "
                "its folder."
            )


_LFS = b"version https://git-lfs"


@contextlib.contextmanager
def only_process(output: Path) -> Iterator[None]:
    """Within it no other process writes `output`; `OUTPUT.lock` is there so long.

    The system lets go of the lock when its process ends, however that comes about. On a disk that
    has no locks there is a warning instead.

    Raises:
      UserError: another one does.
    """
    output = output.resolve()  # One lock, whatever links and spellings lead there.
    lock = output.with_name(output.name + ".lock")
    with _folders_for(lock), lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been another's until now, and removed by it: a third has a new one.
            free = lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat())
        except BlockingIOError:
            free = False
        except OSError as error:  # Mounted buckets and some network disks have no locks.
            logging.warning(
                "%s cannot be locked (%s): see to it that nothing else writes there.",
                output,
                error.strerror,
            )
            free = True
        if not free:
            file.seek(0)
            raise UserError(
                f"another process is writing {output} ({file.read() or 'just started'}); wait for "
                "it or stop it."
            )
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextlib.contextmanager
def _folders_for(path: Path) -> Iterator[None]:
    """Within it the folders above a path are there; those that were made and stayed empty go."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # It is in use.
                folder.rmdir()


@contextlib.contextmanager
def explain_full_disk(output: Path) -> Iterator[None]:
    """Within it a full disk ends in one sentence.

    Raises:
      UserError: the disk, or what the user may have of it, is full.
    """
    try:
        yield
    except (OSError, ValueError) as error:  # The latter comes from tensorstore.
        if not any(phrase in str(error) for phrase in _FULL):
            raise
        raise UserError(
            f"the disk is full while {output} is written; make room and start again, what was "
            "complete before is intact."
        ) from error


_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


def sha256(path: str | Path, progress: Callable[[int], object] | None = None) -> str:
    """The sha256 of a file, in hexadecimal; `progress` is told the bytes of each chunk read."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest()
