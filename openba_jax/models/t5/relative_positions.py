"""Relative position biases (Raffel et al. 2020, arXiv:1910.10683, section 2.1).

A head adds to each score a number that depends on the distance alone: near distances have one each,
far ones share them logarithmically.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.nn.layers import parameter


@functools.cache
def distance_buckets(buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each distance in one direction, int32 `[max_distance + 1]`.

    A table, made on the host as T5X makes it: on a device a logarithm may be rounded to the other
    side of a border.

    Args:
      buckets: of this direction.
      max_distance: from here on all are in the last bucket.
    """
    exact = buckets // 2
    distance = np.arange(max_distance + 1, dtype=np.float32)
    far = np.log(distance / exact + np.finfo(np.float32).eps) / np.log(max_distance / exact)
    far = exact + (far * (buckets - exact)).astype(np.int32)
    table = np.where(distance < exact, distance.astype(np.int32), far)
    return np.minimum(table, buckets - 1).astype(np.int32)


@flax.struct.dataclass
class DistanceBias:
    """A bias of the scores by distance, an `nn.attention_layer.Bias`.

    Attributes:
      table: float32 `[heads, buckets]`.
      max_distance: see `distance_buckets`.
      bidirectional: half of the buckets are for keys behind the query.
    """

    table: jax.Array
    max_distance: int = flax.struct.field(pytree_node=False)
    bidirectional: bool = flax.struct.field(pytree_node=False)

    def buckets(self, distance: jax.Array) -> jax.Array:
        """The buckets of int32 distances, key minus query."""
        count = self.table.shape[1]
        one_way = count // 2 if self.bidirectional else count
        known = jnp.asarray(distance_buckets(one_way, self.max_distance))
        ahead = jnp.minimum(jnp.maximum(-distance, 0), self.max_distance)
        if not self.bidirectional:
            return known[ahead]
        behind = jnp.minimum(jnp.abs(distance), self.max_distance)
        return known[behind] + jnp.where(distance > 0, one_way, 0)

    def __call__(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        """The biases of positions int `[batch or 1, n]`, `[batch or 1, heads, queries, keys]`."""
        found = self.table[:, self.buckets(keys[:, None, :] - queries[:, :, None])]
        return jnp.moveaxis(found, 0, 1)

    def square(self, length: int) -> GivenBias:
        """The biases of a sequence to itself, which all layers share.

        Only the distances that there are are looked up; the rows of the square are copies of them,
        each shifted by one. So the gradient is a sum over shifted rows, not a scatter.
        """
        period = 2 * length
        # Index d stands for distance d, modulo the period.
        distance = (np.arange(period) + length) % period - length
        chosen = jax.nn.one_hot(self.buckets(jnp.asarray(distance)), self.table.shape[1])
        by_distance = jnp.einsum(
            "hb,db->hd", self.table, chosen, precision=jax.lax.Precision.HIGHEST
        )
        heads = by_distance.shape[0]
        rows = jnp.broadcast_to(by_distance[:, None], (heads, length, period))
        flat = rows.reshape(heads, -1)[:, : length * (period - 1)]
        # Rows that are one shorter than the period begin one distance earlier each.
        return GivenBias(flat.reshape(heads, length, period - 1)[None, :, :, :length])


@flax.struct.dataclass
class GivenBias:
    """A bias of the scores that is known, an `nn.attention_layer.Bias`.

    Attributes:
      values: float32 `[1, heads, queries, keys]`.
    """

    values: jax.Array

    def __call__(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        """The values, for the positions that they were made for."""
        del queries, keys
        return self.values


class RelativePositions(nn.Module):
    """The table of biases of one stack.

    Attributes:
      num_heads: attention heads.
      buckets: distances that have a bias of their own, of both directions.
      max_distance: see `distance_buckets`.
      bidirectional: whether keys behind the query are seen.
      factor: of the initial values.
      param_dtype: name of the type of the parameters.
    """

    num_heads: int
    buckets: int
    max_distance: int
    bidirectional: bool
    factor: float
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self) -> DistanceBias:
        """The bias by distance, in float32."""
        spread = nn.initializers.variance_scaling(self.factor**2, "fan_avg", "uniform")
        table = parameter(
            self,
            "rel_embedding",
            spread,
            (self.num_heads, self.buckets),
            ("heads", "relpos_buckets"),
        )
        table = jnp.asarray(table, jnp.float32)
        return DistanceBias(table, self.max_distance, self.bidirectional)
