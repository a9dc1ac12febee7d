"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openba_jax.errors import UserError
from openba_jax.files import explain_full_disk, only_process, sync
from openba_jax.paths import check_output_folder

_WORK = ".openba_tmp"
_LOCK = f"{_WORK}.lock"


def require_free(target: Path) -> Path:
    """Checks that `target` can be made: it is not there, or an empty folder.

    Returns:
      The absolute path of the folder, links resolved.

    Raises:
      UserError: `target` holds something, is no folder, or cannot be made or written.
    """
    place = check_output_folder(target)
    # What a killed `new_folder` left is nobody's.
    if place.is_dir() and any(path.name not in (_WORK, _LOCK) for path in place.iterdir()):
        raise UserError(f"{target} exists already; name a new folder or an empty one.")
    return place


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target` at the end and is removed on any error.

    It is called `TARGET.openba_tmp` and renamed. Where `target` is there already and empty, it may
    be a mount point, the end of a link or a shell's working folder, and is not replaced: the folder
    is `TARGET/.openba_tmp` then, and what it holds is moved up, folders and `config.json` last,
    without which no reader takes the target for a checkpoint. What a killed process has left of
    either is removed first.

    Raises:
      UserError: `target` cannot be made, another process is making it, or the disk is full.
    """
    place = require_free(target)
    inside = place.is_dir()
    work = place / _WORK if inside else place.with_name(f"{place.name}{_WORK}")
    with only_process(work), explain_full_disk(target):
        if work.exists():
            shutil.rmtree(work)
        work.mkdir()
        try:
            yield work
            for file in work.rglob("*"):
                sync(file)
            if inside:
                for file in sorted(
                    work.iterdir(), key=lambda f: (f.is_dir(), f.name == "config.json")
                ):
                    file.rename(place / file.name)
                sync(place)
            else:
                work.rename(place)
            sync(place.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)
