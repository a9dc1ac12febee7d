"""Text that scores and refitting look at, and the mesh that they are computed on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from openba_jax.errors import UserError
from openba_jax.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Batches of the model's layout, see `data.layouts`.

    Attributes:
      batches: the rows that this process builds of each.
      batch_size: rows of a whole batch.
      mesh: the mesh.
      source: where they come from, ready for JSON; part of the record of a cut.
    """

    batches: Sequence[Mapping[str, np.ndarray]]
    batch_size: int
    mesh: Mesh
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks that there is something to look at.

        Raises:
          UserError: there is no batch, or one has no target token.
        """
        if not self.batches:
            raise UserError("the calibration set is empty; give it at least one batch.")
        for number, batch in enumerate(self.batches):
            if not np.any(batch["decoder_loss_weights"]):
                raise UserError(f"batch {number} of the calibration set has no target token.")

    def placed(self) -> Iterator[dict[str, jax.Array]]:
        """The batches on the mesh, one after the other."""
        place = sharding.batch_sharding(self.mesh)
        rows = sharding.local_rows(place, self.batch_size)
        for batch in self.batches:
            yield sharding.global_batch(batch, place, rows, self.batch_size)
