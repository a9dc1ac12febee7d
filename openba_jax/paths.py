"""Paths as users write them: made local, compared, and checked before anything is written there."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from openba_jax.errors import UserError

PathLike = str | os.PathLike[str]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LONGEST_NAME = 230  # Of 255 bytes; temporary files and locks stand beside it with longer names.


def local(path: PathLike) -> Path:
    """A path with `~` expanded.

    Raises:
      UserError: the path is empty, is an address such as `gs://bucket/model`, names the home of an
        unknown user, or holds characters that no file name can.
    """
    text = os.fspath(path)
    if not text:
        raise UserError("a path is empty; name a file or a folder.")
    if _SCHEME.match(text):
        raise UserError(
            f"{text} is an address, and only local paths can be used; mount it or copy it to this "
            "machine, and name the path there."
        )
    try:
        if b"\0" in os.fsencode(text):
            raise UserError(f"{text!r} holds a NUL character; no path does.")
        return Path(text).expanduser()
    except UnicodeEncodeError as error:
        raise UserError(f"{text!r} is not text that can name a file; mend its spelling.") from error
    except RuntimeError as error:  # ~name, where there is no user of that name.
        raise UserError(f"{text} names a home that is not known; write the whole path.") from error


def address_or_local(path: PathLike) -> str:
    """A file of text to be read: an address, which fsspec opens, as it stands; else `local`."""
    text = os.fspath(path)
    return text if _SCHEME.match(text) else str(local(text))


def same_or_inside(path: PathLike, folder: PathLike) -> bool:
    """Whether `path` is `folder` or lies below it, whatever links and spellings lead there.

    Raises:
      UserError: links in one of the paths lead round in a circle.
    """
    place, above = _resolved(path), _resolved(folder)
    for each in (place, *place.parents):
        if each == above:
            return True
        try:
            # Other letter cases, mounts of the same folder and hard links have other names.
            if os.path.samefile(each, above):
                return True
        except OSError:  # One of the two is not there.
            continue
    return False


def reject_overlap(source: PathLike, target: PathLike, what: str) -> None:
    """Checks that writing `target` cannot change `source`, nor the other way round.

    Args:
      source: a file or folder that is read; an address overlaps with nothing here.
      target: a file or folder that is to be written.
      what: how the user names the source: a flag or a macro.

    Raises:
      UserError: one of the two is the other, or lies inside it.
    """
    if _SCHEME.match(os.fspath(source)):
        return
    target_in_source = same_or_inside(target, source)
    source_in_target = same_or_inside(source, target)
    if target_in_source or source_in_target:
        relation = "holds" if not target_in_source else "is" if source_in_target else "lies in"
        raise UserError(
            f"the output {target} {relation} {source}, the {what}, which is only read; name "
            "another output."
        )


def check_output_folder(path: PathLike) -> Path:
    """Checks that a folder can be made at `path`, or is there and can be written.

    Returns:
      The absolute path of the folder, links resolved.

    Raises:
      UserError: it is an address or a link to nothing, something that is no folder is there or
        above it, its name is too long, or it cannot be written.
    """
    place = _checked_place(local(path))
    if place.exists() and not place.is_dir():
        raise UserError(f"{path} is {_kind(place)}; name a folder.")
    if not place.name:
        raise UserError(f"{path} is the root of all files; name a folder below it.")
    _check_writable(place, path)
    return place


def check_output_file(path: PathLike) -> Path:
    """Checks that a file can be made at `path`, or is there and can be replaced.

    Returns:
      The absolute path of the file, links resolved.

    Raises:
      UserError: it is an address or a link to nothing, a folder, a device or a pipe is there, it is
        a mount point or what this process prints to, or it cannot be written.
    """
    place = _checked_place(local(path))
    if place.exists():
        if not place.is_file():
            raise UserError(f"{path} is {_kind(place)}; name a file.")
        if _is_mount_point(place):
            raise UserError(f"{path} is mounted by itself and cannot be replaced; name another.")
        if any(_is_descriptor(place, number) for number in (0, 1, 2)):
            raise UserError(f"{path} is what this command reads or prints to; name another file.")
    _check_writable(place.parent, path)
    return place


def _resolved(path: PathLike) -> Path:
    try:
        return local(path).resolve()
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} cannot be followed: its links lead round in a circle.") from error


def _checked_place(path: Path) -> Path:
    """The resolved path of something to be written.

    Raises:
      UserError: it is a link to nothing, or its name is too long.
    """
    place = _resolved(path)
    for each in (path, *path.parents):
        if each.is_symlink() and not each.exists():
            raise UserError(
                f"{each} is a link to {each.resolve()}, which does not exist; make or name that."
            )
    if len(os.fsencode(place.name)) > _LONGEST_NAME:
        raise UserError(f"the name {place.name} is too long; take one of {_LONGEST_NAME} bytes.")
    return place


def _check_writable(folder: Path, path: PathLike) -> None:
    """Checks that files and folders can be made in `folder`, which need not be there yet.

    Raises:
      UserError: something above is no folder, or the user may not write there.
    """
    above = next(each for each in (folder, *folder.parents) if each.exists())
    if not above.is_dir():
        raise UserError(f"{path} cannot be made: {above} is {_kind(above)}; name another place.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: you may not write in {above}.")


def _kind(path: Path) -> str:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISREG(mode):
        return "a file"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"


def _is_mount_point(file: Path) -> bool:
    """Whether a file is mounted by itself, as containers do; a rename over it fails."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:  # Other systems than Linux mount folders only.
        return False
    return str(file) in (line.split(" ")[4] for line in lines)


def _is_descriptor(file: Path, number: int) -> bool:
    """Whether a file is an open descriptor of this process, such as standard output."""
    try:
        return os.path.samestat(os.fstat(number), file.stat())
    except OSError:  # The descriptor is closed.
        return False
