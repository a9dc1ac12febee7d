"""The formats of checkpoints: a new one is a module in `formats/` and one line here."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from openba_jax.checkpoints.checkpoint import Checkpoint
from openba_jax.checkpoints.formats.gguf import Gguf
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.formats.megatron import Megatron
from openba_jax.checkpoints.formats.native import Native
from openba_jax.checkpoints.formats.t5x import T5X
from openba_jax.errors import UserError
from openba_jax.models.config import ModelConfig


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


def detect(path: Path) -> Format:
    """The format of a folder.

    Raises:
      UserError: it is of none that is known.
    """
    if not path.exists():
        raise UserError(f"{path} is no folder or file; name a checkpoint.")
    for each in FORMATS.values():
        if each.recognises(path):
            return each
    known = ", no ".join(each.description for each in FORMATS.values())
    raise UserError(f"{path} is no checkpoint that is known: no {known}.")


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


def check_is_model_folder(path: str | Path) -> None:
    """Checks that a folder is a model folder, or a checkpoint in one.

    Raises:
      UserError: the folder is of another format, for which the message names the command that
        converts it, or of no format that is known.
    """
    if not Native().recognises(Path(path)):
        found = detect(Path(path))
        raise UserError(
            f"{path} is a {found.description}, and a model folder is needed; make one by "
            f"`openba-convert to_native --input={path} --output=FOLDER`."
        )
