"""The steps that a run takes, as the runners make them, to be compiled for devices of any kind.

Nothing is allocated: parameters, state and batch are shapes, types and shardings.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from openba_jax.data.layouts import LAYOUTS, Part
from openba_jax.evaluation.loss import make_eval_step
from openba_jax.inference.decoding import generate
from openba_jax.models.base import Model
from openba_jax.models.counting import train_flops_per_example
from openba_jax.parallel import sharding
from openba_jax.pruning.criteria.gradients import effects_of
from openba_jax.training import train_step
from openba_jax.training.optimizer import Optimizer


@dataclasses.dataclass(frozen=True)
class Workload:
    """What a step works on, whatever the devices.

    Attributes:
      model: the model; `remat_policy` of its configuration is that of the run.
      optimizer: the optimizer.
      lengths: positions of inputs and of targets; a decoder's row has as many as both.
      batch: rows of a step, of all devices together.
      accumulation: micro-batches of a training step.
      skip_not_finite: see `training.train_step.make_train_step`.
      new_tokens: longest answer when it decodes.
    """

    model: Model
    optimizer: Optimizer
    lengths: tuple[int, int]
    batch: int
    accumulation: int = 1
    skip_not_finite: bool = False
    new_tokens: int = 128


class Lowered(NamedTuple):
    """A step that can be compiled.

    Attributes:
      lowered: of `jax.jit`.
      parameters: bytes of parameters on a device, without padding.
      optimizer: bytes of the optimizer's state on a device.
      model_flops: of the step on all devices, without recomputation.
    """

    lowered: jax.stages.Lowered
    parameters: int
    optimizer: int
    model_flops: float


def abstract_batch(
    model: Model, lengths: tuple[int, int], rows: int, placed: NamedSharding | None
) -> dict[str, Any]:
    """Shapes of a batch of the model's layout, `[rows, ...]`, lying as `placed` says."""
    samples = {
        name: np.ones((1, length), np.int32)
        for name, length in zip(("inputs", "targets"), lengths, strict=True)
    }
    row = LAYOUTS[model.layout].plain([Part(np.arange(1), samples)], 1, lengths)
    return {
        name: jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype, sharding=placed)
        for name, array in row.items()
    }


def training(work: Workload, mesh: Mesh) -> Lowered:
    """The step of `openba-train`.

    Raises:
      UserError: the batch does not divide over the devices.
    """
    train_step.check_batch_size(work.batch, work.accumulation, mesh)
    state = train_step.abstract_state(work.model, work.optimizer, mesh)
    step: Any = train_step.make_train_step(
        work.model,
        work.optimizer,
        mesh,
        accumulation=work.accumulation,
        skip_not_finite=work.skip_not_finite,
    )
    batch = abstract_batch(work.model, work.lengths, work.batch, sharding.batch_sharding(mesh))
    return Lowered(
        step.lower(state, batch),
        bytes_on_device(state.params),
        bytes_on_device(state.opt_state),
        work.batch * train_flops_per_example(work.model, *work.lengths),
    )


def evaluating(work: Workload, mesh: Mesh) -> Lowered:
    """The step that measures the loss.

    Raises:
      UserError: the batch does not divide over the devices.
    """
    train_step.check_batch_size(work.batch, 1, mesh)
    params = placed_params(work.model, mesh)
    step: Any = make_eval_step(work.model, mesh)
    batch = abstract_batch(work.model, work.lengths, work.batch, sharding.batch_sharding(mesh))
    flops = work.batch * work.model.forward_flops(*work.lengths)
    return Lowered(step.lower(params, batch), bytes_on_device(params), 0, flops)


def decoding(work: Workload, mesh: Mesh) -> Lowered:
    """Greedy decoding of `new_tokens`, the inputs read first."""
    model = work.model
    params = placed_params(model, mesh)

    def answer(params: Any, inputs: jax.Array) -> jax.Array:
        rng = jax.random.key(0)
        return generate(model, params, inputs, rng, max_new_tokens=work.new_tokens)

    everywhere = sharding.replicated(mesh)
    inputs = jax.ShapeDtypeStruct((work.batch, work.lengths[0]), jnp.int32, sharding=everywhere)
    step: Any = sharding.jit_on_mesh(answer, mesh)
    flops = model.forward_flops(work.lengths[0], 1) + sum(
        model.decode_flops(work.lengths[0], position) for position in range(1, work.new_tokens)
    )
    return Lowered(step.lower(params, inputs), bytes_on_device(params), 0, work.batch * flops)


def scoring(work: Workload, mesh: Mesh) -> Lowered:
    """The pass of `openba-score` by gradients over one batch: all axes at once, no optimizer.

    Raises:
      UserError: the batch does not divide over the devices.
    """
    train_step.check_batch_size(work.batch, 1, mesh)
    model = work.model.replace(scan_layers=True, param_dtype="float32")
    params = placed_params(model, mesh)
    everywhere = sharding.replicated(mesh)
    effects = effects_of(model, model.axes.keys)
    step: Any = sharding.jit_on_mesh(effects, mesh, out_shardings=everywhere)
    batch = abstract_batch(model, work.lengths, work.batch, sharding.batch_sharding(mesh))
    flops = work.batch * train_flops_per_example(model, *work.lengths)
    return Lowered(step.lower(params, batch), bytes_on_device(params), 0, flops)


STEPS: dict[str, Callable[[Workload, Mesh], Lowered]] = {
    "train": training,
    "evaluate": evaluating,
    "decode": decoding,
    "score": scoring,
}
"""By name."""


def placed_params(model: Model, mesh: Mesh) -> Any:
    """Shapes and types of the parameters, as they lie on the mesh."""
    params = model.abstract_params()
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        params,
        sharding.param_shardings(model.logical_axes(), params, mesh),
    )


def bytes_on_device(tree: Any) -> int:
    """Bytes that each device holds of a tree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


@functools.lru_cache(maxsize=16)
def kept_for_backward(model: Model, lengths: tuple[int, int]) -> float:
    """Bytes that the forward pass of one row keeps for the backward pass, before any compiler.

    What remains when two rows are compared with one, so that parameters do not count.
    """

    def kept(rows: int) -> int:
        def forward(params: Any, batch: Any) -> Any:
            def loss(params: Any) -> jax.Array:
                return jnp.sum(model.hidden(params, batch, rng).astype(jnp.float32))

            rng = jax.random.key(0) if model.config.uses_dropout else None
            return jax.vjp(loss, params)[1]

        batch = abstract_batch(model, lengths, rows, None)
        found = jax.eval_shape(forward, model.abstract_params(), batch)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(found))

    return float(kept(2) - kept(1))
