"""Folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openba_jax.errors import UserError


def require_free(target: Path) -> None:
    """Raises a `UserError` unless `target` is not there, or an empty folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already; name a new folder or remove it.")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, renamed to `target` at the end and removed on any error.

    Raises:
      UserError: `target` exists and is not empty, or the disk is full.
    """
    target = Path(target)
    require_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{target} cannot be made: {error.filename} is a file.") from error
    work = target.parent / f"{target.name}.tmp-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        for file in work.rglob("*"):
            _sync(file)
        if target.exists():
            target.rmdir()
        work.rename(target)
        _sync(target.parent)
    except (OSError, ValueError) as error:
        # tensorstore makes a ValueError of it.
        if getattr(error, "errno", None) == errno.ENOSPC or "RESOURCE_EXHAUSTED" in str(error):
            raise UserError(f"No space left on the disk of {target}.") from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
