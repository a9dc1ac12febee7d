"""One step of training, compiled; no data and no files here.

Losses and gradients are summed over micro-batches and divided once, by the weight of the whole
batch, so that accumulation changes nothing but memory.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Protocol, cast

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from openba_jax.errors import UserError
from openba_jax.models.base import Model
from openba_jax.nn.losses import Loss, token_cross_entropy
from openba_jax.parallel import sharding as sharding_lib
from openba_jax.training.optimizer import Optimizer

MAX_PROGRAMS = 4
"""Compiled programs kept, so that what trains again in one process need not compile again."""

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """All that a step changes.

    Attributes:
      step: int32 scalar, number of steps taken.
      params: the parameters, in `config.param_dtype`.
      opt_state: the state of the optax transformation.
    """

    step: Any
    params: Any
    opt_state: Any


class StepLoss(Protocol):
    """What a step minimises; hashable, since compiled programs are kept by it."""

    def __hash__(self) -> int:
        """Equal losses are the same program."""

    def shardings(self, mesh: Mesh) -> tuple[Any, ...]:
        """Of the arrays that it reads besides parameters and batch: trees of shardings."""

    def __call__(
        self,
        model: Model,
        params: Any,
        batch: Batch,
        dropout_rng: jax.Array | None,
        step: jax.typing.ArrayLike,
        constants: tuple[Any, ...],
    ) -> tuple[jax.Array, Metrics]:
        """Sums over target tokens, not means: what is accumulated is divided once.

        Args:
          model: the model.
          params: its parameters, with respect to which the loss is differentiated.
          batch: arrays `[batch, ...]`.
          dropout_rng: a key, or None for no dropout.
          step: number of steps taken, int32 scalar.
          constants: trees of arrays that lie as `shardings` says.

        Returns:
          What is minimised, float32; and float32 sums for the log, whose names end in `_sum`, among
          them `loss_sum`, the cross entropy in nats, `weight_sum` and `correct_sum`.
        """


@dataclasses.dataclass(frozen=True)
class OfTargets:
    """A `StepLoss` that depends on the batch's targets alone.

    Attributes:
      loss: of hidden states and head.
    """

    loss: Loss = token_cross_entropy

    def shardings(self, mesh: Mesh) -> tuple[Any, ...]:
        """There are no constants."""
        del mesh
        return ()

    def __call__(
        self,
        model: Model,
        params: Any,
        batch: Batch,
        dropout_rng: jax.Array | None,
        step: jax.typing.ArrayLike,
        constants: tuple[Any, ...],
    ) -> tuple[jax.Array, Metrics]:
        """The loss, which is its own `loss_sum`."""
        del step, constants
        hidden = model.hidden(params, batch, dropout_rng)
        loss_sum, counts = self.loss(hidden, model.head(params), batch)
        return loss_sum, {"loss_sum": loss_sum, **counts}


CROSS_ENTROPY = OfTargets()


def new_state(params: Any, optimizer: Optimizer) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.transformation.init(params),
    )


@functools.lru_cache(maxsize=MAX_PROGRAMS)
def abstract_state(
    model: Model, optimizer: Optimizer, mesh: Mesh, *, offload: bool = False
) -> TrainState:
    """Shapes, dtypes and shardings of the whole state; nothing is allocated.

    Optimizer moments lie as their parameters do, everything else is replicated.

    Args:
      model: the model.
      optimizer: the optimizer.
      mesh: the mesh.
      offload: the moments lie in the memory of the host, see `sharding.check_offload`.
    """
    params = model.abstract_params()
    shardings = sharding_lib.param_shardings(model.logical_axes(), params, mesh)
    everywhere = sharding_lib.replicated(mesh)

    def place(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state = jax.eval_shape(lambda tree: new_state(tree, optimizer), params)
    moments = sharding_lib.state_shardings(state.opt_state, params, shardings, mesh)
    if offload:
        moments = jax.tree.map(sharding_lib.in_host_memory, moments, state.opt_state)
    return TrainState(
        step=place(state.step, everywhere),
        params=jax.tree.map(place, params, shardings),
        opt_state=jax.tree.map(place, state.opt_state, moments),
    )


def shardings_of(abstract: Any) -> Any:
    """The tree of shardings of a tree of `jax.ShapeDtypeStruct`."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def init_state(
    model: Model,
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    seed: int = 0,
    params: Any = None,
    offload: bool = False,
) -> TrainState:
    """Makes the first state directly where it belongs.

    Args:
      model: the model.
      optimizer: the optimizer.
      mesh: the mesh.
      seed: of random parameters; they do not depend on the mesh.
      params: parameters to start from instead, already sharded.
      offload: as for `abstract_state`.
    """
    shardings = shardings_of(abstract_state(model, optimizer, mesh, offload=offload))

    def of_rng(rng: jax.Array) -> TrainState:
        return new_state(model.init(rng), optimizer)

    def of_params(params: Any) -> TrainState:
        return new_state(params, optimizer)

    function, argument = (of_rng, jax.random.key(seed)) if params is None else (of_params, params)
    init = sharding_lib.jit_on_mesh(function, mesh, out_shardings=shardings)
    return cast(TrainState, init(argument))


def summed_gradients(
    model: Model,
    params: Any,
    batch: Batch,
    dropout_rng: jax.Array | None,
    accumulation: int,
    loss: StepLoss = CROSS_ENTROPY,
    step: jax.typing.ArrayLike = 0,
    constants: tuple[Any, ...] = (),
) -> tuple[Any, Metrics]:
    """Gradients of the summed loss, and the sums that go with it.

    Args:
      model: the model.
      params: the parameters.
      batch: arrays `[batch, ...]`; `batch` is a multiple of `accumulation`.
      dropout_rng: a key, or None for no dropout.
      accumulation: micro-batches, taken one after the other.
      loss: what is minimised.
      step: number of steps taken, for the loss.
      constants: what else the loss reads.

    Returns:
      Gradients, float32, as `params`; the sums of the loss, float32 scalars.
    """

    def sums(rows: Batch, rng: jax.Array | None) -> tuple[Any, Metrics]:
        def loss_of(params: Any) -> tuple[jax.Array, Metrics]:
            return loss(model, params, rows, rng, step, constants)

        (_, counts), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        return jax.tree.map(lambda g: g.astype(jnp.float32), gradients), counts

    if accumulation == 1:
        return sums(batch, dropout_rng)

    def split(x: jax.Array) -> jax.Array:
        # Strided, so that the rows of every micro-batch are spread over all devices as they lie.
        return jnp.swapaxes(x.reshape(-1, accumulation, *x.shape[1:]), 0, 1)

    def add(total: Any, numbered: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        number, rows = numbered
        rng = None if dropout_rng is None else jax.random.fold_in(dropout_rng, number)
        return jax.tree.map(jnp.add, total, sums(rows, rng)), None

    micro_batches = jax.tree.map(split, batch)
    shapes = jax.eval_shape(sums, jax.tree.map(lambda x: x[0], micro_batches), dropout_rng)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(accumulation), micro_batches))
    return total


@dataclasses.dataclass(frozen=True)
class SeededStep:
    """A compiled step of training, with the seed of its dropout.

    Attributes:
      compiled: takes the seed behind the state.
      seed: uint32 scalar, an argument of the program and no constant in it: runs of other seeds
        need not compile again, and find the program in JAX's cache on disk.
    """

    compiled: Any
    seed: np.uint32

    def __call__(self, state: TrainState, *arguments: Any) -> tuple[TrainState, Metrics]:
        """Takes the step."""
        return cast(tuple[TrainState, Metrics], self.compiled(state, self.seed, *arguments))

    def lower(self, state: TrainState, *arguments: Any) -> jax.stages.Lowered:
        """As `jax.jit`'s."""
        return cast(jax.stages.Lowered, self.compiled.lower(state, self.seed, *arguments))


def make_train_step(
    model: Model,
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    accumulation: int = 1,
    seed: int = 0,
    loss: StepLoss = CROSS_ENTROPY,
    skip_not_finite: bool = False,
    gradient_norms: bool = False,
    offload: bool = False,
) -> SeededStep:
    """The compiled step of training.

    Args:
      model: the model; `dtype` and `param_dtype` of its configuration make it mixed precision.
      optimizer: the optimizer.
      mesh: the mesh.
      accumulation: micro-batches per step.
      seed: of dropout; the key of a step is a function of `(seed, step)`. Seeds share a program.
      loss: what is minimised.
      skip_not_finite: where the loss or a gradient is not finite, leave parameters and moments as
        they are; the step counts for the learning rate and for dropout, and its metrics are 0.
      gradient_norms: norms of the gradients of each block, too, see `block_norms`.
      offload: as for `abstract_state`; the moments come to the device for the update alone.

    Returns:
      `(state, batch, *constants of the loss) -> (state, metrics)`. The given state is donated: its
      buffers are gone afterwards. Metrics are scalars: the sums of the loss over target tokens
      (float32; `loss_sum`, `correct_sum`, `weight_sum` and what the loss adds), `tokens` (int32,
      those that are no padding), `grad_norm` (before clipping), `learning_rate`; `skipped` (bool)
      where steps may be; and vectors, the sums of groups, where the batch has these.
    """
    step = _compiled_step(
        model,
        optimizer,
        mesh,
        accumulation=accumulation,
        loss=loss,
        skip_not_finite=skip_not_finite,
        gradient_norms=gradient_norms,
        offload=offload,
    )
    return SeededStep(step, np.uint32(seed & 0xFFFFFFFF))  # The bits that `jax.random.key` takes.


@functools.lru_cache(maxsize=MAX_PROGRAMS)
def _compiled_step(
    model: Model,
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    accumulation: int,
    loss: StepLoss,
    skip_not_finite: bool,
    gradient_norms: bool,
    offload: bool,
) -> Any:
    """The step of `make_train_step` with the seed as an argument, `(state, seed, batch, ...)`."""
    use_dropout = model.config.uses_dropout

    def train_step(
        state: TrainState, seed: jax.Array, batch: Batch, *constants: Any
    ) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step) if use_dropout else None
        gradients, metrics = summed_gradients(
            model, state.params, batch, rng, accumulation, loss, state.step, constants
        )
        sums = tuple(metrics)
        opt_state = state.opt_state
        if offload:
            opt_state = jax.device_put(opt_state, on_device)
        weight = metrics["weight_sum"]
        # A batch without a single target gives zero gradients rather than NaN.
        scale = 1.0 / jnp.where(weight > 0, weight, 1.0)
        gradients = jax.tree.map(lambda g, p: (g * scale).astype(p.dtype), gradients, state.params)
        updates, new_opt_state = optimizer.transformation.update(gradients, opt_state, state.params)
        metrics |= {
            "tokens": model.count_tokens(batch),
            "grad_norm": optax.tree.norm(gradients),
            "learning_rate": jnp.asarray(optimizer.learning_rate(state.step), jnp.float32),
        }
        norms = block_norms(gradients) if gradient_norms else {}
        metrics |= norms
        params = optax.apply_updates(state.params, updates)
        if skip_not_finite:
            counted = (*sums, "grad_norm", *norms)
            scalars = [metrics[name] for name in counted if not metrics[name].ndim]
            finite = jnp.isfinite(jnp.stack(scalars)).all()
            params = _where(finite, params, state.params)
            new_opt_state = _where(finite, new_opt_state, opt_state)
            metrics |= {name: jnp.where(finite, metrics[name], 0) for name in counted}
            metrics["skipped"] = ~finite
        return TrainState(state.step + 1, params, new_opt_state), metrics

    on_device = shardings_of(abstract_state(model, optimizer, mesh)).opt_state
    shardings = shardings_of(abstract_state(model, optimizer, mesh, offload=offload))
    return sharding_lib.jit_on_mesh(
        train_step,
        mesh,
        in_shardings=(
            shardings,
            sharding_lib.replicated(mesh),
            sharding_lib.batch_sharding(mesh),
            *loss.shardings(mesh),
        ),
        out_shardings=(shardings, sharding_lib.replicated(mesh)),
        donate_argnums=0,
    )


def block_norms(gradients: Any) -> dict[str, jax.Array]:
    """The norm of the gradient of each block, float32 scalars named `grad_norm/BLOCK`.

    Blocks are the layers of a stack, what else a stack has, and what lies outside of the stacks:
    `encoder/layers`, `encoder/other`, `token_embedder`, ...
    """
    blocks: dict[str, list[jax.Array]] = {}
    for path, leaf in jax.tree.leaves_with_path(gradients):
        top, *below = (key.key for key in path)
        if len(below) > 1:
            top += "/layers" if below[0].startswith("layers") else "/other"
        blocks.setdefault(f"grad_norm/{top}", []).append(leaf)
    return {name: optax.tree.norm(leaves) for name, leaves in blocks.items()}


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    """The leaves of one tree or of the other; schedules, which count steps, go on in any case."""

    def choose(new: Any, old: Any) -> Any:
        if isinstance(new, optax.ScaleByScheduleState):
            return new
        return jnp.where(condition, new, old)

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    return jax.tree.map(choose, new, old, is_leaf=is_schedule)


def check_batch_size(batch_size: int, accumulation: int, mesh: Mesh) -> None:
    """Checks that every device gets the same number of rows of every micro-batch.

    Raises:
      UserError: it would not.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if accumulation < 1 or batch_size % (accumulation * shards):
        raise UserError(
            f"batch_size {batch_size} is not a multiple of accumulation {accumulation} times "
            f"the {shards} devices of the mesh axes data and fsdp."
        )
