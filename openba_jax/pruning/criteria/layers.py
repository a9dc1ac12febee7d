"""Scores of layers: how much each changes the stream, and what the loss is without it.

Block influence is from ShortGPT (Men et al. 2024, arXiv:2403.03853); leaving layers out one by one
is from Shortened LLaMA (Kim et al. 2024, arXiv:2402.02834), and doing so again after each removal
from IteRABRe (2025, arXiv:2503.06291), here without recovery in between.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.errors import UserError
from openba_jax.models.axes import LAYERS, AxisTable, flatten, stack_of, unflatten
from openba_jax.models.base import Batch, Model, Params
from openba_jax.nn import probes
from openba_jax.nn.losses import token_cross_entropy
from openba_jax.parallel import sharding
from openba_jax.pruning.criteria.base import Scores, Subject, criterion
from openba_jax.pruning.plan import Plan, pruned_model


@criterion("block_influence", width=False)
def block_influence(subject: Subject, keys: Collection[str]) -> Scores:
    """1 - cos(input, output) of each layer, mean over tokens that are no padding."""
    model = subject.scanned

    def observe(params: Params, batch: Batch) -> dict[str, jax.Array]:
        real = model.real_tokens(batch)

        def probe(module: nn.Module, arguments: Any, result: Any) -> dict[str, jax.Array]:
            if not probes.is_layer(module):
                return {}
            weights = real[str(stack_of(f"{probes.path_of(module)}/x"))]
            before, after = (x.astype(jnp.float32) for x in (arguments[0], result[0]))
            lengths = jnp.linalg.norm(before, axis=-1) * jnp.linalg.norm(after, axis=-1)
            cosine = jnp.sum(before * after, axis=-1) / jnp.maximum(lengths, 1e-30)
            return {"influence": jnp.sum((1.0 - cosine) * weights)}

        seen = model.observe(params, batch, probe)[1]
        sums = {name.rpartition("/")[0]: values for name, values in seen.items()}
        return sums | {f"{stack} tokens": jnp.sum(w) for stack, w in real.items()}

    compiled = subject.on_mesh(observe)
    found = [
        jax.device_get(compiled(subject.params, batch)) for batch in subject.calibration.placed()
    ]

    def total(name: str) -> np.ndarray:
        return np.sum([np.asarray(each[name], np.float64) for each in found], axis=0)

    return {key: total(key) / total(f"{key.rpartition('/')[0]} tokens") for key in keys}


@criterion("leave_one_out", width=False)
def leave_one_out(subject: Subject, keys: Collection[str]) -> Scores:
    """What the loss rises by without each layer, nats per target token: a forward step each."""
    losses = _Losses(subject)
    depths = {key: subject.axes.sizes[key] for key in keys}
    whole = losses.without({})
    return {
        key: np.array([losses.without({key: [layer]}) - whole for layer in range(depth)])
        for key, depth in depths.items()
    }


@criterion("leave_out_in_turn", width=False)
def leave_out_in_turn(subject: Subject, keys: Collection[str]) -> Scores:
    """The rank in which layers of a stack go, 0 first, if ever the one goes that is missed least.

    After each removal the others are tried anew, in the model without it: some depth^2 / 2 forward
    steps for a stack. Other stacks are whole.
    """
    losses = _Losses(subject)
    scores = {}
    for key in keys:
        depth = subject.axes.sizes[key]
        gone: list[int] = []
        while len(gone) < depth - 1:
            left = [layer for layer in range(depth) if layer not in gone]
            tried = {layer: losses.without({key: [*gone, layer]}) for layer in left}
            gone.append(min(tried, key=lambda layer: tried[layer]))
        last = next(layer for layer in range(depth) if layer not in gone)
        scores[key] = np.argsort([*gone, last]).astype(np.float64)
    return scores


class _Losses:
    """Losses of a model without some of its layers; compiled once for each number of them."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._plan = Plan.identity(subject.scanned, "")
        self._compiled = functools.lru_cache(maxsize=4)(self._compile)

    def without(self, dropped: dict[str, Sequence[int]]) -> float:
        """The loss in nats per target token.

        Args:
          dropped: numbers of layers by key.

        Raises:
          UserError: a loss is not finite.
        """
        axes = self._subject.axes
        keep = {
            key: [layer for layer in range(axes.sizes[key]) if layer not in layers]
            for key, layers in dropped.items()
        }
        model = pruned_model(self._plan.narrow(keep), like=self._subject.scanned)
        compiled = self._compiled(model)
        arrays = {key: np.asarray(layers, np.int32) for key, layers in keep.items()}
        params, calibration = self._subject.params, self._subject.calibration
        sums = jax.device_get([compiled((params, arrays), batch) for batch in calibration.placed()])
        loss, weight = (math.fsum(float(each[part]) for each in sums) for part in (0, 1))
        if not math.isfinite(loss):
            names = ", ".join(f"{key} {list(layers)}" for key, layers in dropped.items())
            raise UserError(f"the loss without {names or 'any cut'} is not finite.")
        return loss / weight

    def _compile(self, model: Model) -> Callable[[Any, Batch], Any]:
        axes = self._subject.axes

        def loss(params_and_kept: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
            params = _layers_taken(axes, *params_and_kept)
            total, sums = token_cross_entropy(
                model.hidden(params, batch), model.head(params), batch
            )
            return total, sums["weight_sum"]

        return sharding.jit_on_mesh(loss, self._subject.calibration.mesh)


def _layers_taken(axes: AxisTable, params: Params, kept: dict[str, jax.Array]) -> Params:
    """The layers of a scanned model that are kept, int32 numbers by key."""
    taken = {}
    for path, leaf in flatten(params).items():
        inside = stack_of(path) is not None
        key = axes.key(path, LAYERS) if inside else None
        taken[path] = jnp.take(leaf, kept[key], axis=0) if key in kept else leaf
    return unflatten(taken)
