"""Weights, keys and values in eight bits, with a scale for each row of a product.

A scale belongs to numbers that are summed together, so that a product of the integers is scaled
afterwards: nothing but the integers is read from memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

LARGEST = 127


@flax.struct.dataclass
class Int8:
    """The array `values * scale`.

    Attributes:
      values: int8.
      scale: float32, of the same rank, with axes of size 1 along which numbers share a scale.
    """

    values: jax.Array
    scale: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the array."""
        return self.values.shape

    @property
    def T(self) -> Int8:  # noqa: N802 - as of an array.
        """The transposed array."""
        return Int8(self.values.T, self.scale.T)

    def astype(self, dtype: Any) -> jax.Array:
        """The whole array, in a floating type."""
        return (self.values * self.scale).astype(dtype)


def quantize(x: jax.Array, axes: Sequence[int]) -> Int8:
    """Rounds to the nearest of 255 levels, of which the largest magnitude is the last.

    Args:
      x: floating.
      axes: along which numbers share a scale.
    """
    x = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=tuple(axes), keepdims=True)
    scale = jnp.where(largest > 0, largest, 1.0) / LARGEST
    return Int8(jnp.round(x / scale).astype(jnp.int8), scale)


def parts(x: jax.Array | Int8) -> tuple[jax.Array, jax.Array | None]:
    """What a product reads, and the scale of what comes out, if there is one."""
    return (x.values, x.scale) if isinstance(x, Int8) else (x, None)
