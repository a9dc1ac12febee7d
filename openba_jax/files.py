"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import logging

from openba_jax.errors import UserError


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Writes beside `path`, flushes to the disk and renames; text is UTF-8."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def only_process(output: Path) -> Iterator[None]:
    """Within it no other process writes `output`; `OUTPUT.lock` is there so long.

    The system lets go of the lock when its process ends, however that comes about. On a disk that
    has no locks there is a warning instead.

    Raises:
      UserError: another one does.
    """
    lock = output.with_name(output.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+", encoding="utf-8") as file:
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
def room_on_disk(output: Path) -> Iterator[None]:
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
