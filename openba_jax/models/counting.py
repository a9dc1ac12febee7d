"""Parameters, bytes and FLOPs of a configuration (DESIGN §7, reference §1.8)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.network import abstract_params


def parameter_count(config: OpenBAConfig) -> int:
    """Number of parameters, counted over the tree that the network really makes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_params(config)))


def parameter_bytes(config: OpenBAConfig, dtype: str | None = None) -> int:
    """Bytes of all parameters in `dtype`, by default `config.param_dtype`."""
    return parameter_count(config) * jnp.dtype(dtype or config.param_dtype).itemsize


def forward_flops_per_example(
    config: OpenBAConfig, encoder_length: int, decoder_length: int
) -> float:
    """Model FLOPs of one forward pass over one example, causal attention counted half.

    Args:
      config: the model's configuration.
      encoder_length: tokens in the encoder.
      decoder_length: tokens in the decoder.
    """
    te, td = encoder_length, decoder_length
    e, a, f, v = (
        config.embed_dim,
        config.num_heads * config.head_dim,
        config.mlp_dim,
        config.vocab_size,
    )
    encoder_layer = 2 * te * (4 * e * a + 3 * e * f) + 4 * te * te * a
    decoder_layer = (
        2 * td * (6 * e * a + 3 * e * f)  # self-attention, queries and outputs of cross, SwiGLU
        + 4 * te * e * a  # keys and values of cross-attention
        + 2 * td * td * a
        + 4 * te * td * a
    )
    logits = 2 * td * v * e
    return float(
        config.encoder_layers * encoder_layer + config.decoder_layers * decoder_layer + logits
    )


def train_flops_per_example(
    config: OpenBAConfig, encoder_length: int, decoder_length: int
) -> float:
    """Model FLOPs of forward and backward; rematerialisation is not counted."""
    return 3.0 * forward_flops_per_example(config, encoder_length, decoder_length)


def decode_flops_per_token(config: OpenBAConfig, encoder_length: int, position: int) -> float:
    """FLOPs of one cached decoding step, cross-attention keys and values already projected.

    Args:
      config: the model's configuration.
      encoder_length: tokens in the encoder.
      position: tokens already decoded.
    """
    e, a = config.embed_dim, config.num_heads * config.head_dim
    layer = 2 * (6 * e * a + 3 * e * config.mlp_dim) + 4 * (encoder_length + position + 1) * a
    return float(config.decoder_layers * layer + 2 * config.vocab_size * e)
