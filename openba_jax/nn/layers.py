"""Building blocks: projections, layer norm, rotary positions, SwiGLU.

Every parameter is created here, once, with the names of its axes (`nn.with_logical_partitioning`);
sharding, pruning, checkpoints and counting all read those names.
"""

from __future__ import annotations

import math
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from openba_jax.models.openba.config import OpenBAConfig


def output_initializer_std(config: OpenBAConfig) -> float:
    """Standard deviation of attention output and `wo` kernels: `std / sqrt(2 L)`.

    L counts encoder layers, in both stacks, because Megatron's `num_layers` did (reference §1.7).
    """
    return config.initializer_std / math.sqrt(2 * config.encoder_layers)


def parameter(
    module: nn.Module,
    name: str,
    initializer: nn.initializers.Initializer,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
) -> jax.Array:
    """Declares a parameter of `module` with the names of its axes, in `config.param_dtype`."""
    config: OpenBAConfig = module.config
    boxed = nn.with_logical_partitioning(initializer, axes)
    return cast(jax.Array, module.param(name, boxed, shape, jnp.dtype(config.param_dtype)))


class Projection(nn.Module):
    """A linear map from the trailing axes of its input to new axes.

    Attributes:
      config: the model's configuration.
      in_axes: logical names of the contracted axes, the last ones of the input.
      out_axes: logical names of the new axes.
      out_shape: their sizes.
      use_bias: add a bias of shape `out_shape`.
      std: standard deviation of the initial kernel.
    """

    config: OpenBAConfig
    in_axes: tuple[str, ...]
    out_axes: tuple[str, ...]
    out_shape: tuple[int, ...]
    use_bias: bool
    std: float

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[..., *in]` to `[..., *out_shape]`, in `config.dtype`."""
        # Written out, since `nn.DenseGeneral` with boxed kernels of rank 3 fails under a mesh.
        rank = len(self.in_axes)
        dtype = jnp.dtype(self.config.dtype)
        kernel = parameter(
            self,
            "kernel",
            nn.initializers.normal(self.std),
            (*inputs.shape[-rank:], *self.out_shape),
            (*self.in_axes, *self.out_axes),
        )
        contracted = (tuple(range(inputs.ndim - rank, inputs.ndim)), tuple(range(rank)))
        outputs = jax.lax.dot_general(
            inputs.astype(dtype), kernel.astype(dtype), (contracted, ((), ()))
        )
        if self.use_bias:
            zeros = nn.initializers.zeros
            bias = parameter(self, "bias", zeros, self.out_shape, self.out_axes)
            outputs = outputs + bias.astype(dtype)
        return outputs


class LayerNorm(nn.Module):
    """Layer norm with scale and bias, statistics in float32 (reference §1.3, §1.9)."""

    config: OpenBAConfig

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Normalises the last axis of `[..., embed]`; returns `config.dtype`."""
        shape = inputs.shape[-1:]
        scale = parameter(self, "scale", nn.initializers.ones, shape, ("embed",))
        bias = parameter(self, "bias", nn.initializers.zeros, shape, ("embed",))
        x = inputs.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(variance + self.config.layer_norm_epsilon)
        return (x * scale + bias).astype(self.config.dtype)


class GatedMlp(nn.Module):
    """SwiGLU: `wo(silu(wi_0 x) * wi_1 x)` (reference §1.6)."""

    config: OpenBAConfig

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[batch, length, embed]` to the same shape."""
        config = self.config

        def widen(name: str) -> jax.Array:
            return Projection(
                config,
                in_axes=("embed",),
                out_axes=("mlp",),
                out_shape=(config.mlp_dim,),
                use_bias=config.mlp_bias,
                std=config.initializer_std,
                name=name,
            )(inputs)

        hidden = nn.silu(widen("wi_0")) * widen("wi_1")
        hidden = nn.with_logical_constraint(
            hidden, ("activation_batch", "activation_length", "activation_mlp")
        )
        return Projection(
            config,
            in_axes=("mlp",),
            out_axes=("embed",),
            out_shape=(config.embed_dim,),
            use_bias=config.mlp_bias,
            std=output_initializer_std(config),
            name="wo",
        )(hidden)


class Embedding(nn.Module):
    """The token embedding, shared by both stacks and by tied logits (reference §1.2)."""

    config: OpenBAConfig

    def setup(self) -> None:
        """Creates `embedding` `[vocab, embed]`."""
        config = self.config
        self.embedding = parameter(
            self,
            "embedding",
            nn.initializers.normal(config.initializer_std),
            (config.vocab_size, config.embed_dim),
            ("vocab", "embed"),
        )

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Looks up int32 `[batch, length]`; returns `[batch, length, embed]` in `config.dtype`."""
        return _rows(self.embedding, tokens).astype(self.config.dtype)


def _rows(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Rows `[batch, length, embed]` of a table `[vocab, embed]`.

    Where mesh axes divide the channels of the table and the batch as well (`fsdp`), each device
    looks up its channels for all rows along those axes, and then they are exchanged. Left to
    itself, the compiler brings the whole global batch to every device.
    """
    channels, batch = _mesh_axes(("vocab", "embed")), _mesh_axes(("activation_batch",))
    if jax.sharding.get_abstract_mesh().empty or not set(channels) & set(batch):
        return jnp.take(table, tokens, axis=0)
    others = tuple(axis for axis in batch if axis not in channels)
    tokens = jax.lax.with_sharding_constraint(tokens, PartitionSpec(others))
    rows = jnp.take(table, tokens, axis=0)
    return jax.lax.with_sharding_constraint(rows, PartitionSpec(others, None, channels))


def _mesh_axes(names: tuple[str, ...]) -> tuple[str, ...]:
    """The mesh axes that divide the last of some logical axes of one array, by the rules in use."""
    entry = (nn.logical_to_mesh_axes(names) or (None,))[-1]
    if isinstance(entry, str):
        return (entry,)
    return entry if isinstance(entry, tuple) else ()


def rotary(inputs: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotates queries or keys by their positions: halves, not neighbouring pairs (reference §1.5).

    Args:
      inputs: `[batch, length, heads, kv]`.
      positions: int32 `[batch or 1, length]`.
      theta: base of the frequencies.

    Returns:
      The rotated inputs, computed in float32, in the dtype of the inputs.
    """
    half = inputs.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    cos = jnp.cos(angles)[:, :, None, :]
    sin = jnp.sin(angles)[:, :, None, :]
    first, second = jnp.split(inputs.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(inputs.dtype)
