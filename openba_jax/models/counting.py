"""Parameters, bytes and FLOPs of a model (docs/architecture.md, Counting)."""

from __future__ import annotations

import jax.numpy as jnp

from openba_jax.models.base import Model


def parameter_count(model: Model) -> int:
    """Number of parameters, counted over the tree that the network really makes."""
    return model.axes.count()


def parameter_bytes(model: Model, dtype: str | None = None) -> int:
    """Bytes of all parameters in `dtype`, by default `config.param_dtype`."""
    return parameter_count(model) * jnp.dtype(dtype or model.config.param_dtype).itemsize


def train_flops_per_example(model: Model, encoder_length: int, decoder_length: int) -> float:
    """Model FLOPs of forward and backward; rematerialisation is not counted."""
    return 3.0 * model.forward_flops(encoder_length, decoder_length)
