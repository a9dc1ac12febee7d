"""Opens a checkpoint of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from openba_jax.checkpoints.formats import native, t5x
from openba_jax.checkpoints.formats.huggingface import open_huggingface, read_json
from openba_jax.checkpoints.formats.megatron import is_megatron, open_megatron
from openba_jax.checkpoints.formats.native_arrays import open_native
from openba_jax.checkpoints.streaming import Source
from openba_jax.errors import UserError
from openba_jax.models.openba.config import OpenBAConfig

Kind = Literal["native", "huggingface", "megatron", "t5x"]


def detect(path: Path) -> Kind:
    """What kind of checkpoint a folder is.

    Raises:
      UserError: none of those that are known.
    """
    if not path.is_dir():
        raise UserError(f"{path} is no folder; name the folder of a checkpoint.")
    folder, _ = native.split_path(path)
    if (folder / native.CHECKPOINTS).is_dir():
        return "native"
    config = path / "config.json"
    if config.is_file() and "model_type" in read_json(config):
        return "huggingface"
    if is_megatron(path):
        return "megatron"
    if t5x.is_checkpoint(path) or t5x.steps(path):
        return "t5x"
    raise UserError(
        f"{path} is no checkpoint that is known: no model folder (checkpoints/), no Hugging Face "
        "folder (config.json with model_type), no Megatron folder (mp_rank_00), no T5X folder "
        "(checkpoint_<step>)."
    )


def open_checkpoint(path: Path, config: OpenBAConfig | None = None) -> Source:
    """Opens a checkpoint of any kind; no tensor is read.

    Args:
      path: its folder.
      config: the model's configuration, for T5X, which saves none.

    Raises:
      UserError: it is none, or it is damaged.
    """
    kind = detect(path)
    if config is not None and kind != "t5x":
        raise UserError(f"{path} has a configuration of its own; one is given for T5X only.")
    if kind == "native":
        return open_native(path)
    if kind == "huggingface":
        return open_huggingface(path)
    if kind == "megatron":
        return open_megatron(path)
    return t5x.open_t5x(path, config)
