"""Checks of where a token store is to be written, before any work is done."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from openba_jax.errors import UserError
from openba_jax.paths import check_output_file, local, reject_overlap

_SUFFIXES = (".bin", ".idx", ".json", ".counts.txt", ".progress")


def reject_store(prefix: str | Path, target: Path) -> None:
    """Checks that writing a file cannot change a token store, which is known by its prefix.

    Raises:
      UserError: the file is one of the store's, or may be one.
    """
    place = local(prefix)
    for suffix in _SUFFIXES:
        reject_overlap(place.with_name(place.name + suffix), target, "token store")


def check_output(prefix: str | Path, sources: Iterable[str | Path] = ()) -> Path:
    """Checks that the files of a store can be written at a prefix.

    Args:
      prefix: of the files.
      sources: files that are only read.

    Returns:
      The prefix, with `~` expanded and the links of its folder followed.

    Raises:
      UserError: The prefix is an address such as `s3://bucket/store`.
      UserError: The prefix ends in no name, so that it is a folder.
      UserError: A link, a folder, a device or a pipe is in the place of one of the files.
      UserError: A file of the store would replace one of the sources.
    """
    place = local(prefix)
    if str(prefix).endswith(("/", "/.")) or place.name in ("", ".."):
        raise UserError(
            f"output {prefix} is a folder; add a name that the files of the store begin with."
        )
    sources = list(sources)
    for suffix in _SUFFIXES:
        path = place.with_name(place.name + suffix)
        if path.is_symlink():
            raise UserError(f"{path} is a link and would be replaced; remove it or name another.")
        path = check_output_file(path)
        for source in sources:
            reject_overlap(source, path, "input")
    return path.with_name(place.name)
