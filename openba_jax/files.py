"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from openba_jax.errors import UserError


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Writes beside `path`, flushes to the disk and renames; text is UTF-8."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextlib.contextmanager
def only_process(output: Path) -> Iterator[None]:
    """Within it no other process writes `output`; `OUTPUT.lock` is there so long.

    Raises:
      UserError: another one does.
    """
    lock = output.with_name(output.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is writing {output}; wait for it.") from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # The system lets go of it, after a kill, too.


def sha256(path: str | Path, progress: Callable[[int], object] | None = None) -> str:
    """The sha256 of a file, in hexadecimal; `progress` is told the bytes of each chunk read."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest()
