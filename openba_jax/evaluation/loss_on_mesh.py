"""Loss and accuracy on fixed batches, on the mesh: what the trainer measures between steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.parallel import sharding
from openba_jax.training import metrics, train_step


class Evaluation:
    """A function from parameters to loss and accuracy per target token; empty without batches."""

    def __init__(
        self,
        config: OpenBAConfig,
        mesh: Mesh,
        batches: Sequence[Mapping[str, np.ndarray]],
        batch_size: int,
    ) -> None:
        """Keeps the batches.

        Args:
          config: the model's configuration.
          mesh: the mesh.
          batches: the rows that this process builds of each, see `local_rows`.
          batch_size: rows of a whole batch.
        """
        self._step = train_step.make_eval_step(config, mesh)
        self._sharding = sharding.batch_sharding(mesh)
        self._rows = local_rows(mesh, batch_size)
        self._batches = batches
        self._batch_size = batch_size

    def __call__(self, params: Any) -> dict[str, float]:
        """Measures; `params` are sharded over the mesh."""
        placed = (
            sharding.global_batch(batch, self._sharding, self._rows, self._batch_size)
            for batch in self._batches
        )
        sums = jax.device_get([self._step(params, batch) for batch in placed])
        return metrics.averages(sums) if sums else {}


def local_rows(mesh: Mesh, batch_size: int) -> slice:
    """The rows of a global batch that this process builds."""
    return sharding.local_rows(sharding.batch_sharding(mesh), batch_size)
