"""Loss and accuracy of a model on fixed batches, on a mesh."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from openba_jax.errors import UserError
from openba_jax.models.base import Model
from openba_jax.nn.losses import Loss, token_cross_entropy
from openba_jax.parallel import sharding

Sums = dict[str, jax.Array]

MAX_PROGRAMS = 4
"""Compiled programs kept, so that what evaluates again in one process need not compile again."""


@functools.lru_cache(maxsize=MAX_PROGRAMS)
def make_eval_step(
    model: Model, mesh: Mesh, loss: Loss = token_cross_entropy
) -> Callable[[Any, dict[str, jax.Array]], Sums]:
    """The compiled `(params, batch) -> {loss_sum, weight_sum, correct_sum}`, without dropout."""

    def eval_step(params: Any, batch: dict[str, jax.Array]) -> Sums:
        loss_sum, counts = loss(model.hidden(params, batch), model.head(params), batch)
        return {"loss_sum": loss_sum, **counts}

    shardings = sharding.param_shardings(model.logical_axes(), model.abstract_params(), mesh)
    return sharding.jit_on_mesh(
        eval_step,
        mesh,
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=sharding.replicated(mesh),
    )


class LossOnBatches:
    """A function from parameters to loss and accuracy per target token; empty without batches."""

    def __init__(
        self,
        model: Model,
        mesh: Mesh,
        batches: Sequence[Mapping[str, np.ndarray]],
        batch_size: int,
    ) -> None:
        """Keeps the batches.

        Args:
          model: the model.
          mesh: the mesh.
          batches: the rows that this process builds of each, see `local_rows`.
          batch_size: rows of a whole batch.
        """
        self._step = make_eval_step(model, mesh)
        self._sharding = sharding.batch_sharding(mesh)
        self._rows = local_rows(mesh, batch_size)
        self._batches = batches
        self._batch_size = batch_size

    def __call__(self, params: Any) -> dict[str, float]:
        """Measures; `params` are sharded over the mesh.

        Returns:
          `loss` in nats per target token, `accuracy` of the most likely token, `targets` counted.

        Raises:
          UserError: the batches have no target token, or the loss is not finite.
        """
        placed = (
            sharding.global_batch(batch, self._sharding, self._rows, self._batch_size)
            for batch in self._batches
        )
        sums = jax.device_get([self._step(params, batch) for batch in placed])
        return averages(sums) if sums else {}


def local_rows(mesh: Mesh, batch_size: int) -> slice:
    """The rows of a global batch that this process builds."""
    return sharding.local_rows(sharding.batch_sharding(mesh), batch_size)


def averages(sums: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Loss and accuracy per target token, over several steps or batches.

    Args:
      sums: per step `loss_sum`, `correct_sum`, `weight_sum`, scalars.

    Returns:
      `loss`, `accuracy`, and `targets`, the sum of weights.

    Raises:
      UserError: the steps have no target token, or the loss is not finite.
    """
    steps = list(sums)
    loss, correct, weight = (
        math.fsum(float(step[name]) for step in steps)
        for name in ("loss_sum", "correct_sum", "weight_sum")
    )
    if not weight:
        raise UserError("the batches have no target token; there is nothing to average over.")
    if not math.isfinite(loss):
        raise UserError(
            "the loss is not finite: the parameters hold NaN or infinite values, or the compute "
            "type is too narrow for them."
        )
    return {"loss": loss / weight, "accuracy": correct / weight, "targets": weight}
