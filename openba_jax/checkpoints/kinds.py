"""What a path holds that is no checkpoint, told by the names of files; nothing is read.

Formats of checkpoints tell themselves (`registry`). These are for people who have named the wrong
folder, and for `openba-inspect`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Kind(NamedTuple):
    """Something that is no checkpoint.

    Attributes:
      name: in one word.
      words: with its article, for messages.
      recognises: whether a path is of this kind; a prefix of files need not exist itself.
    """

    name: str
    words: str
    recognises: Callable[[Path], bool]


def store_prefix(path: Path) -> Path | None:
    """The prefix of a token store, of which `path` is the prefix or a file; None if it is none."""
    prefixes = [path] if path.suffix not in (".bin", ".idx") else [path, path.with_suffix("")]
    return next(
        (each for each in prefixes if all(_beside(each, s).is_file() for s in (".bin", ".idx"))),
        None,
    )


def _beside(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)


def _holds(*names: str) -> Callable[[Path], bool]:
    return lambda path: any((path / name).is_file() for name in names)


def _ends(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.is_file() and path.suffix in suffixes


# The files are those by which their commands know them again.
KINDS = (
    Kind("pipeline", "a folder of openba-pipeline", _holds("pipeline.gin")),
    Kind("study", "a folder of openba-study", _holds("study.gin")),
    Kind("search", "a folder of openba-search", _holds("search.gin")),
    Kind(
        "sweep",
        "a folder of openba-sweep",
        lambda path: (path / "sweep.json").is_file() or any(path.glob("*.started")),
    ),
    Kind("answers", "a folder of a teacher's answers", _holds("answers.json")),
    Kind(
        "store",
        "a token store",
        lambda path: bool(path.name) and store_prefix(path) is not None,
    ),
    Kind("scores", "a file of scores", _ends(".npz")),
    Kind(
        "tokenizer",
        "a tokenizer",
        lambda path: path.is_file() and (path.suffix == ".model" or path.name == "tokenizer.json"),
    ),
    Kind(
        "weights",
        "one file of a checkpoint, whose folder is to be named",
        _ends(".safetensors", ".pt", ".pth", ".bin"),
    ),
    Kind("unfinished", "a model folder without a finished checkpoint", _holds("config.json")),
)
"""The first that recognises a path tells what it is."""


def other_kind(path: Path) -> Kind | None:
    """What a path is that is no checkpoint, None if that cannot be told."""
    return next((kind for kind in KINDS if kind.recognises(path)), None)
