"""What a run must have in memory at the least, compared with what there is before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from openba_jax.models.base import Model
from openba_jax.parallel import memory
from openba_jax.training.train_step import TrainState

_HALVED = "keep parameters and moments in half the bytes by PARAM_DTYPE = 'bfloat16'"


def of_run(
    model: Model, abstract: TrainState, batch: Mapping[str, Any], rows: int
) -> dict[str, int]:
    """Bytes, by what they are for, as `memory.bytes_of` counts.

    Args:
      model: the model.
      abstract: shapes, types and shardings of the state.
      batch: a batch, for the lengths of its rows.
      rows: of a micro-batch, on one device.
    """
    params = memory.bytes_of(abstract.params)
    axes, size = model.axes, jnp.dtype(model.config.dtype).itemsize
    # With all else rematerialised, every layer still leaves its inputs for the backward pass.
    left = sum(
        axes.depth(stack)
        * batch[f"{stack}_input_tokens"].shape[1]
        * axes.sizes.get(f"{stack}/embed", axes.sizes.get("embed", 0))
        for stack in model.stacks
    )
    return {
        "parameters": params,
        "optimizer": memory.bytes_of(abstract.opt_state),
        "gradients": params,
        "activations": left * size * rows * memory.sharing(),
    }


def check(
    model: Model,
    abstract: TrainState,
    batch: Mapping[str, Any],
    batch_size: int,
    accumulation: int,
    mesh: Mesh,
) -> None:
    """Checks that a run can fit into memory.

    Raises:
      UserError: it cannot; the message has the figures and what would help.
    """
    rows = batch_size // (mesh.shape["data"] * mesh.shape["fsdp"] * accumulation)
    needs = of_run(model, abstract, batch, max(1, rows))
    if needs["activations"] * 2 > sum(needs.values()):
        remedy = "take a smaller BATCH_SIZE or more ACCUMULATION"
    else:
        remedy = "take a smaller model, or lay it over more devices by MESH_SHAPE"
    memory.require(needs, remedy, halved=_HALVED if model.config.param_dtype == "float32" else "")
