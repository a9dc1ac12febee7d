"""An ancestor that is there already: a checkpoint of any format, which a run starts from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from openba_jax.checkpoints import checksums, model_folder
from openba_jax.checkpoints.checkpoint import total_bytes
from openba_jax.checkpoints.folders import new_folder
from openba_jax.checkpoints.formats.native import Native
from openba_jax.checkpoints.inspection import InspectedCheckpoint
from openba_jax.checkpoints.registry import FORMATS, detect, open_checkpoint
from openba_jax.cli.progress import show_progress
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.errors import UserError
from openba_jax.language import told
from openba_jax.models.base import Model
from openba_jax.paths import local
from openba_jax.pruning.plan import Plan
from openba_jax.pruning.saved_plan import plan_of

_ENDS = 1 << 20
"""Bytes at both ends of a file that tell it from another; a training changes all of its tensors."""


@dataclasses.dataclass(frozen=True)
class Ancestor:
    """A checkpoint that a run starts from.

    Attributes:
      path: where it lies: a model folder, `DIR/checkpoints/<step>`, or a folder or file of another
        format.
      model: the model.
      plan: what was cut from it before; an identity if nothing was.
      tokenizer: the file of its tokenizer.
    """

    path: Path
    model: Model
    plan: Plan
    tokenizer: Path

    @property
    def native(self) -> bool:
        """Whether it is a model folder, which is used where it lies."""
        return Native().recognises(self.path)

    @property
    def vocabulary(self) -> Vocabulary:
        """Its vocabulary."""
        return open_vocabulary(self.tokenizer)

    def identity(self) -> str:
        """What tells this checkpoint from another one, see `identity_of`."""
        return identity_of(self.path, [self.tokenizer])

    def convert(self, folder: Path) -> None:
        """Writes a model folder of it, layer by layer.

        Raises:
          UserError: a parameter is not finite, or the disk is full; nothing is written then.
        """
        opened = open_checkpoint(self.path)
        with (
            show_progress(
                told("converting {path}", path=self.path), total_bytes(opened), "B"
            ) as advance,
            new_folder(folder) as work,
        ):
            checkpoint = InspectedCheckpoint(opened, advance=advance)
            FORMATS[Native.name].write(checkpoint, work)
            if found := checkpoint.warnings():
                raise UserError(f"{self.path}: {found[0].rstrip('.')}; start from a sound model.")


def identity_of(path: Path, beside: Sequence[Path] = ()) -> str:
    """What tells a checkpoint from another one: its step and a digest of what it holds.

    A model folder is told by the checksums that lie in it. Of another format all files count, by
    their sizes and by what stands at both ends of each.

    Args:
      path: of the checkpoint.
      beside: other files that count.
    """
    digest = hashlib.sha256()
    if Native().recognises(path):
        folder, step = model_folder.split_path(path)
        step = model_folder.existing_step(folder, step)
        place = folder / model_folder.CHECKPOINTS / str(step)
        described = (folder / model_folder.CONFIG, folder / model_folder.PLAN)
        files = [file for file in described if file.exists()]
        listed = place / "state" / checksums.FILE
        # Checkpoints of older versions have no checksums.
        files += [listed] if listed.exists() else _files(place)
        where = f"step {step}, "
    else:
        files, where = _files(path), ""
    for file in (*files, *beside):
        _add(digest, file)
    return f"{where}sha256 {digest.hexdigest()[:16]}"


def open_ancestor(named: str) -> Ancestor:
    """Opens a checkpoint as an ancestor; no tensor is read.

    Args:
      named: its path.

    Raises:
      UserError: it is no checkpoint, is damaged, or has no tokenizer that its model can use.
    """
    path = Path(local(named))
    found = detect(path)
    checkpoint = found.open(path)
    if checkpoint.tokenizer is None:
        raise UserError(
            f"the ancestor {path} has no tokenizer; put tokenizer.model or tokenizer.json there."
        )
    model_folder.check_tokenizer_kind(checkpoint.model, checkpoint.tokenizer)
    plan = plan_of(checkpoint, path) or Plan.identity(checkpoint.model, str(path))
    return Ancestor(path, checkpoint.model, plan, Path(checkpoint.tokenizer))


def _files(place: Path) -> list[Path]:
    """The files of a checkpoint, in a fixed order."""
    return [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())


def _add(digest: hashlib._Hash, file: Path) -> None:
    size = file.stat().st_size
    digest.update(f"{file.name} {size}\n".encode())
    with file.open("rb") as stream:
        digest.update(stream.read(_ENDS))
        if size > 2 * _ENDS:
            stream.seek(-_ENDS, 2)
        digest.update(stream.read(_ENDS))
