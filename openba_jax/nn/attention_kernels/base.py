"""What a kernel of attention is, and how it meets a mesh."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol

import jax
from jax.sharding import PartitionSpec

from openba_jax.nn.attention import AttentionMask, Scores
from openba_jax.nn.layers import mesh_axes


class UnsupportedError(Exception):
    """A kernel cannot compute what it is asked for; the message says what, as `it has no ...`."""


class Attend(Protocol):
    """Softmax attention without dropout."""

    def __call__(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        mask: AttentionMask,
        scores: Scores,
    ) -> jax.Array:
        """Attends.

        Args:
          query: `[batch, queries, heads, kv]`.
          key: `[batch, keys, kv_heads, kv]`; as many consecutive query heads share each of them as
            `heads / kv_heads`.
          value: like `key`.
          mask: what each query sees. Of a query that sees nothing the result is finite, and any.
          scores: how products become scores.

        Returns:
          `[batch, queries, heads, kv]` in the dtype of `value`.

        Raises:
          UnsupportedError: it cannot.
        """


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A way to compute attention.

    Attributes:
      attend: computes it.
      platforms: where it runs: `cpu`, `gpu`, `tpu`; empty: everywhere.
    """

    attend: Attend
    platforms: tuple[str, ...] = ()


def on_each_device(
    attend: Attend,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    scores: Scores,
) -> jax.Array:
    """Attention by a kernel that the compiler cannot divide: each device has its rows and heads.

    Args:
      attend: the kernel; it gets what one device holds.
      query: as of `Attend`, like the others.
      key: keys.
      value: values.
      mask: what each query sees.
      scores: how products become scores.

    Returns:
      `[batch, queries, heads, kv]`.

    Raises:
      UnsupportedError: there are several devices and no mesh is in use, or it does not divide rows
        and heads.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        # Somebody else, such as T5X, may lay the arrays over the devices.
        if jax.device_count() > 1:
            raise UnsupportedError("it needs to know the mesh where there are several devices")
        return attend(query, key, value, mask, scores)
    rows, heads = mesh_axes(("activation_batch",)), mesh_axes(("activation_heads",))
    _check_divides(query.shape[0], rows, "rows")
    _check_divides(key.shape[2], heads, "heads of keys and values")

    def spec(x: jax.Array) -> PartitionSpec:
        """That of an array `[batch or 1, length]` or `[batch or 1, heads or 1, ...]`."""
        axes = (rows, heads if x.ndim == 4 else None)
        whole = [size == 1 for size in x.shape[:2]]
        return PartitionSpec(*(None if w else a for a, w in zip(axes, whole, strict=False)))

    of_heads = PartitionSpec(rows or None, None, heads or None)
    divided: Any = jax.shard_map(
        attend,
        in_specs=(of_heads,) * 3 + (jax.tree.map(spec, mask), jax.tree.map(spec, scores)),
        out_specs=of_heads,
        check_vma=False,  # Of what a kernel written for one device computes nothing is known.
    )
    return divided(query, key, value, mask, scores)


def _check_divides(size: int, axes: tuple[str, ...], what: str) -> None:
    shape = jax.sharding.get_abstract_mesh().shape
    parts = math.prod(shape[axis] for axis in axes)
    if size % parts:
        raise UnsupportedError(f"it cannot divide {size} {what} by {parts}")
