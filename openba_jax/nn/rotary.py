"""Rotary positions (Su et al. 2021, arXiv:2104.09864), and how they are stretched."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Positions divided by a factor (Chen et al. 2023, arXiv:2306.15595).

    Attributes:
      factor: how much longer inputs may be.
    """

    factor: float

    def __call__(self, frequencies: jax.Array) -> jax.Array:
        """The stretched frequencies, float32 `[kv / 2]`."""
        return frequencies / self.factor


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Only slow frequencies are stretched, as LLaMA 3.1 does it (arXiv:2407.21783).

    Attributes:
      factor: of the slowest frequencies.
      low_factor: wave lengths above `original_length / low_factor` are stretched in full.
      high_factor: wave lengths below `original_length / high_factor` are left as they are.
      original_length: positions that the model was trained on before.
    """

    factor: float
    low_factor: float
    high_factor: float
    original_length: int

    def __call__(self, frequencies: jax.Array) -> jax.Array:
        """The stretched frequencies, float32 `[kv / 2]`."""
        turns = self.original_length * frequencies / (2 * math.pi)
        kept = (turns - self.low_factor) / (self.high_factor - self.low_factor)
        kept = jnp.clip(kept, 0.0, 1.0)
        return (1 - kept) * frequencies / self.factor + kept * frequencies


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotates queries and keys by their positions: halves, not neighbouring pairs.

    Attributes:
      theta: base of the frequencies.
      scaling: how they are stretched, if they are.
    """

    theta: float
    scaling: LinearScaling | Llama3Scaling | None = None

    def frequencies(self, kv: int) -> jax.Array:
        """Radians per position, float32 `[kv / 2]`."""
        half = kv // 2
        plain = self.theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
        return plain if self.scaling is None else self.scaling(plain)

    def __call__(self, inputs: jax.Array, positions: jax.Array) -> jax.Array:
        """Rotates.

        Args:
          inputs: `[batch, length, heads, kv]`.
          positions: int32 `[batch or 1, length]`.

        Returns:
          The rotated inputs, computed in float32, in the dtype of the inputs.
        """
        angles = positions[..., None].astype(jnp.float32) * self.frequencies(inputs.shape[-1])
        cos = jnp.cos(angles)[:, :, None, :]
        sin = jnp.sin(angles)[:, :, None, :]
        first, second = jnp.split(inputs.astype(jnp.float32), 2, axis=-1)
        rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return rotated.astype(inputs.dtype)
