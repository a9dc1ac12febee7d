"""Loss and accuracy of a model over given batches."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.network import Params, loss


def mean_loss(
    config: OpenBAConfig, params: Params, batches: Iterable[Mapping[str, Any]]
) -> dict[str, float]:
    """Means over all target tokens of all batches.

    Args:
      config: the model's configuration.
      params: its parameters.
      batches: as `BatchLoader.batch` gives them.

    Returns:
      `loss` in nats per target token, `accuracy` of the most likely token, `targets` counted.
    """
    step = jax.jit(functools.partial(loss, config))
    sums = np.zeros(3)
    for batch in batches:
        total, parts = jax.device_get(step(params, batch))
        sums += [total, parts["correct_sum"], parts["weight_sum"]]
    return {
        "loss": float(sums[0] / sums[2]),
        "accuracy": float(sums[1] / sums[2]),
        "targets": float(sums[2]),
    }
