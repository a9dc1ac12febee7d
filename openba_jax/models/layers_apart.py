"""Decoding with the layers of a scanned stack apart, which spares one CPU copies of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from openba_jax.models.base import Cache, DecodingState, Model, Params
from openba_jax.nn.platform import on_one_cpu

DEEPEST = 16
"""Layers of the deepest decoder that is taken apart: time to compile grows with each."""
_SCANNED = "layers"


def apart(
    model: Model, params: Params, state: DecodingState
) -> tuple[Model, Params, DecodingState]:
    """What a loop over tokens is to use; to be called before it, under `jit`.

    A product of XLA's CPU backend reads whole arrays. So a scan over layers copies each layer's
    kernels, and its keys and values, out of the stacks, for every token. Here they are copied once.
    Elsewhere, and for decoders of more than `DEEPEST` layers, all stays as it is;
    `inference.loading.unrolled` takes those apart for good.

    Args:
      model: the model.
      params: its parameters.
      state: as `Model.start_decoding` made it.

    Returns:
      The model, the parameters and the state for `Model.decode_step`.
    """
    if not _is_taken_apart(model):
        return model, params, state
    return model.replace(scan_layers=False), _apart(params), DecodingState(*map(_apart, state))


def together(model: Model, cache: Cache) -> Cache:
    """The cache of `apart(model, ...)` as `model` itself keeps it."""
    return _together(cache) if _is_taken_apart(model) else cache


def _is_taken_apart(model: Model) -> bool:
    depth = model.axes.sizes[f"{model.stacks[-1]}/layers"]
    return model.config.scan_layers and depth <= DEEPEST and on_one_cpu()


def _apart(tree: Any) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    found: dict[str, Any] = {}
    for name, below in tree.items():
        if name != _SCANNED:
            found[name] = _apart(below)
            continue
        for layer in range(jax.tree.leaves(below)[0].shape[0]):
            found[f"{_SCANNED}_{layer}"] = jax.tree.map(lambda leaf, i=layer: leaf[i], below)
    return found


def _together(tree: Any) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    if f"{_SCANNED}_0" not in tree:
        return {name: _together(below) for name, below in tree.items()}
    numbered = [name for name in tree if name.startswith(f"{_SCANNED}_")]
    layers = [tree[f"{_SCANNED}_{layer}"] for layer in range(len(numbered))]
    rest = {name: _together(tree[name]) for name in tree if name not in numbered}
    return rest | {_SCANNED: jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}
