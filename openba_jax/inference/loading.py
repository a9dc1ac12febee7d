"""A model folder on a mesh, ready to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from openba_jax.checkpoints import model_folder, training_state
from openba_jax.checkpoints.registry import check_is_model_folder
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.errors import UserError
from openba_jax.models.axes import Leaf, flatten, unflatten
from openba_jax.models.base import Model, Params
from openba_jax.parallel import sharding


class PlacedModel(NamedTuple):
    """A model that is to be used within `sharding.use_mesh(mesh)`.

    Attributes:
      model: the model.
      params: its parameters, on the mesh.
      vocabulary: its tokenizer.
      mesh: the mesh.
    """

    model: Model
    params: Params
    vocabulary: Vocabulary
    mesh: Mesh

    def rows(self, batch_size: int) -> int:
        """`batch_size`, rounded up to what the mesh divides."""
        parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        return -(-batch_size // parts) * parts


def load(model_dir: str | Path, mesh_shape: Sequence[int]) -> PlacedModel:
    """Reads a model folder, or `DIR/checkpoints/<step>`, onto a `data x fsdp x model` mesh.

    Raises:
      UserError: the folder is of another format, something in it is missing or damaged, tokenizer
        and model do not fit, a parameter is not finite, or the mesh does not fit the devices.
    """
    check_is_model_folder(model_dir)
    mesh = sharding.make_mesh(mesh_shape)
    folder, _ = model_folder.split_path(model_dir)
    model = model_folder.load_model(folder)
    if (tokenizer := model_folder.tokenizer_path(folder)) is None:
        raise UserError(
            f"{model_dir} has no tokenizer; put tokenizer.model or tokenizer.json there."
        )
    vocabulary = open_vocabulary(tokenizer)
    vocabulary.check_rows(model.config.vocab_size)
    shardings = sharding.param_shardings(model.logical_axes(), model.abstract_params(), mesh)
    params = training_state.restore_params(model_dir, model, shardings)
    return PlacedModel(model, params, vocabulary, mesh)


def unrolled(placed: PlacedModel) -> PlacedModel:
    """The model with every layer's parameters apart.

    A step that reads one token spends its time on reading weights, and a scan copies those of
    every layer out of the stack first. The stacks that are taken apart are deleted, so that
    `placed` cannot be used any more.
    """
    model = placed.model
    if not model.config.scan_layers:
        return placed
    apart = model.replace(scan_layers=False)
    shardings = sharding.param_shardings(apart.logical_axes(), apart.abstract_params(), placed.mesh)
    where, stacked, params = flatten(shardings), flatten(placed.params), {}
    for path in model.axes.paths:
        layers = model.axes.layers(path)
        if layers == [None]:
            params[path] = stacked[path]
            continue
        for place, layer in enumerate(layers):
            name = Leaf(path, layer).unrolled
            params[name] = jax.device_put(stacked[path][place], where[name])
        stacked[path].delete()
    return placed._replace(model=apart, params=unflatten(params))
