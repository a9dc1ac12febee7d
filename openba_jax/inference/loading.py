"""A model folder on a mesh, ready to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from openba_jax.checkpoints.formats import native
from openba_jax.data.vocabulary import Vocabulary
from openba_jax.errors import UserError
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.network import Params, abstract_params, logical_axes
from openba_jax.parallel import sharding


class Loaded(NamedTuple):
    """A model that is to be used within `sharding.use_mesh(mesh)`.

    Attributes:
      config: its configuration.
      params: its parameters, on the mesh.
      vocabulary: its tokenizer.
      mesh: the mesh.
    """

    config: OpenBAConfig
    params: Params
    vocabulary: Vocabulary
    mesh: Mesh

    def rows(self, batch_size: int) -> int:
        """`batch_size`, rounded up to what the mesh divides."""
        parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        return -(-batch_size // parts) * parts


def load(model_dir: str | Path, mesh_shape: Sequence[int]) -> Loaded:
    """Reads a model folder, or `DIR/checkpoints/<step>`, onto a `data x fsdp x model` mesh.

    Raises:
      UserError: something is missing or damaged, tokenizer and model do not fit, or the mesh does
        not fit the devices.
    """
    mesh = sharding.make_mesh(mesh_shape)
    folder, _ = native.split_path(model_dir)
    config = native.load_config(folder)
    if (tokenizer := native.tokenizer_path(folder)) is None:
        raise UserError(f"{model_dir} has no tokenizer.model; put the sentencepiece model there.")
    vocabulary = Vocabulary(tokenizer)
    vocabulary.check_rows(config.vocab_size)
    shapes = abstract_params(config)
    shardings = sharding.param_shardings(logical_axes(config), shapes, mesh)
    return Loaded(config, native.restore_params(model_dir, config, shardings), vocabulary, mesh)
