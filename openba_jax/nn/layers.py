"""Building blocks of every family: projections, norms, gated MLP, embedding.

Every parameter is declared by `parameter`, once, with the names of its axes
(`nn.with_logical_partitioning`); sharding, pruning, checkpoints and counting all read those names.
Modules compute in `dtype` and keep their parameters in `param_dtype`, both names of types; kernels
and embeddings may be given as `int8.Int8`, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from openba_jax.nn import int8
from openba_jax.nn.products import product


class Parametrised(Protocol):
    """A linen module that says in which type it keeps its parameters."""

    @property
    def param_dtype(self) -> str:
        """The name of that type."""

    @property
    def param(self) -> Callable[..., Any]:
        """`nn.Module.param`."""


def parameter(
    module: Parametrised,
    name: str,
    initializer: nn.initializers.Initializer,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
) -> jax.Array:
    """Declares a parameter of `module` with the names of its axes, in `module.param_dtype`."""
    boxed = nn.with_logical_partitioning(initializer, axes)
    return cast(jax.Array, module.param(name, boxed, shape, jnp.dtype(module.param_dtype)))


class Projection(nn.Module):
    """A linear map from the trailing axes of its input to new axes.

    Attributes:
      in_axes: logical names of the contracted axes, the last ones of the input.
      out_axes: logical names of the new axes.
      out_shape: their sizes.
      use_bias: add a bias of shape `out_shape`.
      std: standard deviation of the initial kernel.
      dtype: name of the compute type.
      param_dtype: name of the type of the parameters.
    """

    in_axes: tuple[str, ...]
    out_axes: tuple[str, ...]
    out_shape: tuple[int, ...]
    use_bias: bool
    std: float
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[..., *in]` to `[..., *out_shape]`, in `dtype`."""
        # Written out, since `nn.DenseGeneral` with boxed kernels of rank 3 fails under a mesh.
        rank = len(self.in_axes)
        dtype = jnp.dtype(self.dtype)
        kernel = parameter(
            self,
            "kernel",
            nn.initializers.normal(self.std),
            (*inputs.shape[-rank:], *self.out_shape),
            (*self.in_axes, *self.out_axes),
        )
        kernel, scale = int8.parts(kernel)
        outputs = product(
            inputs.astype(dtype),
            kernel.astype(dtype),
            rank,
            None if scale is None else jnp.float32,
        )
        if scale is not None:
            outputs = (outputs * scale.reshape(self.out_shape)).astype(dtype)
        if self.use_bias:
            zeros = nn.initializers.zeros
            bias = parameter(self, "bias", zeros, self.out_shape, self.out_axes)
            outputs = outputs + bias.astype(dtype)
        return outputs


class LayerNorm(nn.Module):
    """Layer norm with scale and bias, statistics in float32.

    Attributes:
      epsilon: added to the variance.
      dtype: name of the type of the output.
      param_dtype: name of the type of the parameters.
    """

    epsilon: float
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Normalises the last axis of `[..., embed]`; returns `dtype`."""
        shape = inputs.shape[-1:]
        scale = parameter(self, "scale", nn.initializers.ones, shape, ("embed",))
        bias = parameter(self, "bias", nn.initializers.zeros, shape, ("embed",))
        x = inputs.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(variance + self.epsilon)
        return (x * scale + bias).astype(self.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019, arXiv:1910.07467), computed in float32.

    Attributes:
      epsilon: added to the mean of squares.
      offset: added to the scale; Gemma keeps its scales as their distance from 1.
      axis: logical name of the axis that is normalised, the last one.
      dtype: name of the type of the output.
      param_dtype: name of the type of the parameters.
    """

    epsilon: float
    offset: float = 0.0
    axis: str = "embed"
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Normalises the last axis of `[..., axis]`; returns `dtype`."""
        first = nn.initializers.constant(1.0 - self.offset)
        scale = parameter(self, "scale", first, inputs.shape[-1:], (self.axis,))
        x = inputs.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return (x * (scale.astype(jnp.float32) + self.offset)).astype(self.dtype)


class GatedMlp(nn.Module):
    """`wo(activation(wi_0 x) * wi_1 x)`; SwiGLU with SiLU (Shazeer 2020, arXiv:2002.05202).

    Attributes:
      width: units of the hidden layer.
      use_bias: biases on all three projections.
      std: standard deviation of the initial `wi_0` and `wi_1`.
      output_std: that of `wo`.
      activation: of the gate.
      dtype: name of the compute type.
      param_dtype: name of the type of the parameters.
    """

    width: int
    use_bias: bool
    std: float
    output_std: float
    activation: Callable[[jax.Array], jax.Array] = nn.silu
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[batch, length, embed]` to the same shape."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def widen(name: str) -> jax.Array:
            return Projection(
                in_axes=("embed",),
                out_axes=("mlp",),
                out_shape=(self.width,),
                use_bias=self.use_bias,
                std=self.std,
                name=name,
                **types,
            )(inputs)

        hidden = self.activation(widen("wi_0")) * widen("wi_1")
        hidden = nn.with_logical_constraint(
            hidden, ("activation_batch", "activation_length", "activation_mlp")
        )
        return Projection(
            in_axes=("mlp",),
            out_axes=("embed",),
            out_shape=inputs.shape[-1:],
            use_bias=self.use_bias,
            std=self.output_std,
            name="wo",
            **types,
        )(hidden)


class Embedding(nn.Module):
    """The token embedding, which tied logits use as well.

    Attributes:
      vocab_size: rows.
      embed_dim: width of the residual stream.
      std: standard deviation of the initial rows.
      dtype: name of the type of the output.
      param_dtype: name of the type of the parameters.
    """

    vocab_size: int
    embed_dim: int
    std: float
    dtype: str = "float32"
    param_dtype: str = "float32"

    def setup(self) -> None:
        """Creates `embedding` `[vocab, embed]`."""
        self.embedding = parameter(
            self,
            "embedding",
            nn.initializers.normal(self.std),
            (self.vocab_size, self.embed_dim),
            ("vocab", "embed"),
        )

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Looks up int32 `[batch, length]`; returns `[batch, length, embed]` in `dtype`."""
        table, scale = int8.parts(self.embedding)
        rows = _rows(table, tokens)
        return (rows if scale is None else rows * _rows(scale, tokens)).astype(self.dtype)


def _rows(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Rows `[batch, length, embed]` of a table `[vocab, embed]`.

    Where mesh axes divide the channels of the table and the batch as well (`fsdp`), each device
    looks up its channels for all rows along those axes, and then they are exchanged. Left to
    itself, the compiler brings the whole global batch to every device.
    """
    channels, batch = mesh_axes(("vocab", "embed")), mesh_axes(("activation_batch",))
    if jax.sharding.get_abstract_mesh().empty or not set(channels) & set(batch):
        return jnp.take(table, tokens, axis=0)
    others = tuple(axis for axis in batch if axis not in channels)
    tokens = jax.lax.with_sharding_constraint(tokens, PartitionSpec(others))
    rows = jnp.take(table, tokens, axis=0)
    return jax.lax.with_sharding_constraint(rows, PartitionSpec(others, None, channels))


def mesh_axes(names: tuple[str, ...]) -> tuple[str, ...]:
    """The mesh axes that divide the last of some logical axes of one array, by the rules in use."""
    entry = (nn.logical_to_mesh_axes(names) or (None,))[-1]
    if isinstance(entry, str):
        return (entry,)
    return entry if isinstance(entry, tuple) else ()
