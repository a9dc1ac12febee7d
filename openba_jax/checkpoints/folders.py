"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openba_jax.errors import UserError
from openba_jax.files import only_process, room_on_disk


def require_free(target: Path) -> None:
    """Raises a `UserError` unless `target` can be made: it is not there, or an empty folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already; name a new folder or remove it.")
    above = next(parent for parent in target.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"{target} cannot be made: {above} is a file.")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, renamed to `target` at the end and removed on any error.

    It is called `TARGET.openba_tmp`; what a killed process has left there is removed first.

    Raises:
      UserError: `target` cannot be made, another process is making it, or the disk is full.
    """
    target = Path(target)
    require_free(target)
    target = target.absolute()
    work = target.with_name(f"{target.name}.openba_tmp")
    with only_process(work), room_on_disk(target):
        if work.exists():
            shutil.rmtree(work)
        work.mkdir()
        try:
            yield work
            for file in work.rglob("*"):
                _sync(file)
            if target.exists():
                target.rmdir()
            work.rename(target)
            _sync(target.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
