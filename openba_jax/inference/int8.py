"""Models that answer from eight bits: their weights, their cache of keys and values, or both."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from openba_jax.cli import gin_values
from openba_jax.errors import UserError
from openba_jax.models.axes import flatten, unflatten
from openba_jax.models.base import Model, Params
from openba_jax.nn.int8 import Int8, quantize

if TYPE_CHECKING:  # It brings tokenizers along, which to round needs not.
    from openba_jax.inference.loading import PlacedModel

PARTS = ("weights", "cache")


def parts_of(int8: str | Sequence[str]) -> tuple[str, ...]:
    """What is to be in int8, of `PARTS`.

    Raises:
      UserError: there is no such part.
    """
    parts = tuple(gin_values.several(int8))
    for part in parts:
        if part not in PARTS:
            known = " and ".join(map(repr, PARTS))
            raise UserError(f"INT8 has {part!r}; it may have {known}.")
    return parts


def with_int8(placed: PlacedModel, parts: Sequence[str]) -> PlacedModel:
    """The model with some of its parts in int8.

    Arrays that are rounded are deleted one by one, so that `placed` cannot be used any more.

    Args:
      placed: the model.
      parts: see `parts_of`.
    """
    model = placed.model
    if "cache" in parts:
        placed = placed._replace(model=model.replace(kv_cache="int8"))
    if "weights" not in parts:
        return placed
    return placed._replace(params=int8_weights(model, placed.params))


def int8_weights(model: Model, params: Params) -> Params:
    """The parameters, kernels and embeddings in int8; the arrays that are rounded are deleted."""
    rounded = flatten(params)
    for path, names in flatten(model.logical_axes()).items():
        if axes := summed_axes(path, names):
            rounded[path] = _quantized(rounded[path], axes)
    return unflatten(rounded)


def summed_axes(path: str, names: Sequence[str]) -> tuple[int, ...]:
    """Along which axes of a parameter products with it sum; none if it stays as it is.

    Kernels map the channels of the residual stream to something else, or something else to them.

    Args:
      path: of the parameter, such as `decoder/layers_0/mlp/wo/kernel`.
      names: logical names of its axes.
    """
    kind = path.rpartition("/")[2]
    first = int(names[0] == "layers")
    last = len(names) - 1
    if kind == "embedding":  # Rows are looked up, or multiplied with as columns of tied logits.
        return (last,)
    if kind != "kernel":
        return ()
    return tuple(range(first, last)) if names[-1].split("/")[-1] == "embed" else (first,)


def _quantized(x: jax.Array, axes: tuple[int, ...]) -> Int8:
    """`quantize`; `x` is deleted."""
    where: Any = x.sharding
    if isinstance(where, NamedSharding):
        spec = [*where.spec, *[None] * (x.ndim - len(where.spec))]
        whole = PartitionSpec(*(None if n in axes else s for n, s in enumerate(spec)))
        where = (where, NamedSharding(where.mesh, whole))
    result = Int8(*_rounding(axes, where)(x))
    jax.block_until_ready(result)
    x.delete()
    return result


@functools.cache
def _rounding(axes: tuple[int, ...], shardings: Any) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Values and scale of `quantize`, compiled once for all layers."""

    def rounded(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = quantize(x, axes)
        return found.values, found.scale

    return jax.jit(rounded, out_shardings=shardings)
