"""Checksums of the files of a checkpoint, so that damage is found before it is trained on.

Orbax notices most files that are cut short, and few bits that are flipped. `checksums.json` lies in
the folder of every item of a checkpoint and appears with it, since it is written before orbax gives
the checkpoint its name. CRC-32 finds any accidental change that matters, at several times the speed
of a cryptographic digest.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

FILE = "checksums.json"
CHUNK_BYTES = 1 << 20
THREADS = min(8, os.cpu_count() or 1)
"""Reading and CRC-32 run outside of Python's lock."""


class TreeHandler(ocp.PyTreeCheckpointHandler):
    """Orbax's handler of trees, which also writes `checksums.json`."""

    def finalize(self, directory: epath.Path) -> None:
        """Finishes the item, in the background, on the first process."""
        super().finalize(directory)
        write(directory)


class JsonHandler(ocp.JsonCheckpointHandler):
    """Orbax's handler of JSON, which also writes `checksums.json`."""

    def finalize(self, directory: epath.Path) -> None:
        """Finishes the item, in the background, on the first process."""
        super().finalize(directory)
        write(directory)


# Orbax finds the handler of an item by the class of its arguments.


@ocp.args.register_with_handler(TreeHandler, for_save=True)
class TreeSave(ocp.args.PyTreeSave):
    """How a tree is saved with checksums."""


@ocp.args.register_with_handler(TreeHandler, for_restore=True)
class TreeRestore(ocp.args.PyTreeRestore):
    """How a tree is restored."""


@ocp.args.register_with_handler(JsonHandler, for_save=True)
class JsonSave(ocp.args.JsonSave):
    """How JSON is saved with checksums."""


@ocp.args.register_with_handler(JsonHandler, for_restore=True)
class JsonRestore(ocp.args.JsonRestore):
    """How JSON is restored."""


def write(folder: str | os.PathLike[str]) -> None:
    """Writes `checksums.json` of all files below a folder."""
    root = Path(folder)
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != FILE)
    with ThreadPoolExecutor(THREADS) as threads:
        sums = list(threads.map(_crc32, files))
    entries = {
        path.relative_to(root).as_posix(): {"bytes": path.stat().st_size, "crc32": crc}
        for path, crc in zip(files, sums, strict=True)
    }
    (root / FILE).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def find_damage(
    folder: str | os.PathLike[str], part: tuple[int, int] = (0, 1), contents: bool = True
) -> str | None:
    """The first file that is not as `checksums.json` says, in words.

    Args:
      folder: an item of a checkpoint.
      part: `(i, n)`: of the files, only every n-th from the i-th on, so that n processes share the
        work.
      contents: read the files; without it their sizes alone are compared.

    Returns:
      What is wrong; None if nothing is, or if the folder has no checksums, as those written by
      older versions.
    """
    root = Path(folder)
    try:
        entries = json.loads((root / FILE).read_text(encoding="utf-8"))
        files = sorted((str(name), int(e["bytes"]), int(e["crc32"])) for name, e in entries.items())
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{FILE} is unreadable"

    def check(file: tuple[str, int, int]) -> str | None:
        name, size, crc = file
        path = root / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        return f"the content of {name} has changed" if contents and _crc32(path) != crc else None

    index, count = part
    with ThreadPoolExecutor(THREADS) as threads:
        return next(filter(None, threads.map(check, files[index::count])), None)


def handlers() -> Mapping[str, Any]:
    """Orbax's handlers of the items of a checkpoint."""
    return {"state": TreeHandler(), "data": JsonHandler()}


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    return crc
