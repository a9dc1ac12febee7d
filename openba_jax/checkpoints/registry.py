"""The formats of checkpoints: a new one is a module in `formats/` and one line here."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Protocol

from openba_jax.checkpoints import kinds
from openba_jax.checkpoints.checkpoint import Checkpoint
from openba_jax.checkpoints.formats.gguf import Gguf
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.formats.megatron import Megatron
from openba_jax.checkpoints.formats.native import Native
from openba_jax.checkpoints.formats.t5x import T5X
from openba_jax.errors import UserError
from openba_jax.models.config import ModelConfig

_MOST_NAMED = 5  # Checkpoints that a message names.


class Format(Protocol):
    """A way to lay a model down on disk."""

    @property
    def name(self) -> str:
        """Name of the format."""

    @property
    def description(self) -> str:
        """How a folder of it is recognised, in words."""

    def recognises(self, path: Path) -> bool:
        """Whether a folder is of this format."""

    def open(self, path: Path) -> Checkpoint:
        """Opens a folder; no tensor is read.

        Raises:
          UserError: it is damaged, or of no known family.
        """

    def write(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Writes a model into an empty folder, leaf by leaf.

        Raises:
          UserError: the format cannot express the model.
        """


FORMATS: dict[str, Format] = {
    each.name: each for each in (Native(), HuggingFace(), Megatron(), T5X(), Gguf())
}
"""In the order in which a folder is tried."""


def recognised(path: Path) -> Format | None:
    """The format of a folder; None if it is of none that is known."""
    return next((each for each in FORMATS.values() if each.recognises(path)), None)


def detect(path: Path) -> Format:
    """The format of a folder.

    Raises:
      UserError: it is of none that is known; the message says what it is instead, where that can be
        told, and names checkpoints that lie in it.
    """
    if found := recognised(path):
        return found
    kind, inside = kinds.other_kind(path), checkpoints_in(path)
    if kind is None and not path.exists():
        raise UserError(f"{path} is no folder or file; name a checkpoint.")
    known = ", no ".join(each.description for each in FORMATS.values())
    what = f"no checkpoint that is known: no {known}" if kind is None else kind.words
    if not inside:
        raise UserError(f"{path} is {what}{'' if kind is None else '; name a checkpoint'}.")
    named = ", ".join(map(str, inside[:_MOST_NAMED]))
    more = f" and {len(inside) - _MOST_NAMED} more" if len(inside) > _MOST_NAMED else ""
    raise UserError(f"{path} is {what}; the checkpoints in it are {named}{more}.")


def checkpoints_in(path: Path) -> list[Path]:
    """The checkpoints that lie in a folder, or in the `models/` of one, newest last."""
    places = [place for place in (path, path / "models") if place.is_dir()]
    folders = [folder for place in places for folder in place.iterdir() if folder.is_dir()]
    found = [folder for folder in folders if recognised(folder)]
    return sorted(found, key=lambda folder: (folder.stat().st_mtime, folder))


def open_checkpoint(path: Path, config: ModelConfig | None = None) -> Checkpoint:
    """Opens a checkpoint of any format; no tensor is read.

    Args:
      path: its folder.
      config: the model's configuration, for T5X, which saves none.

    Raises:
      UserError: it is none, it is damaged, or it has a configuration of its own and one is given.
    """
    found = detect(path)
    if config is None:
        return found.open(path)
    if found.name != T5X.name:
        raise UserError(f"{path} has a configuration of its own; one is given for T5X only.")
    return T5X(config=config).open(path)


def open_headers(path: Path) -> Checkpoint:
    """Opens a checkpoint of any format to look at it: its files are not compared with checksums.

    Raises:
      UserError: it is none, or what is looked at is damaged.
    """
    found = detect(path)
    return Native(verify=False).open(path) if found.name == Native.name else found.open(path)


def check_is_model_folder(path: str | Path) -> None:
    """Checks that a folder is a model folder, or a checkpoint in one.

    Raises:
      UserError: the folder is of another format, for which the message names the command that
        converts it, or of no format that is known.
    """
    reject_other_formats(path)
    detect(Path(path))


def reject_other_formats(path: str | Path) -> None:
    """Checks that a folder is no checkpoint of another format than the model folder's.

    Raises:
      UserError: it is one; the message names the command that converts it.
    """
    found = recognised(Path(path))
    if found is not None and found.name != Native.name:
        raise UserError(
            f"{path} is a {found.description}, and a model folder is needed; make one by "
            f"`{conversion(path, found)}`."
        )


def conversion(path: str | Path, found: Format) -> str:
    """The command that makes a model folder of a checkpoint of another format."""
    words = ["openba-convert", "to_native", f"--input={path}", "--output=FOLDER"]
    if found.name == Megatron.name:  # It has no place for one.
        words.append("--tokenizer=FILE")
    return " ".join(map(shlex.quote, words))
