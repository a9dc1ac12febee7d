"""The OpenBA encoder-decoder, a linen module under T5X's contract (docs/architecture.md)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from openba_jax.models.encoder_decoder_module import (
    EncoderDecoderModule,
    cross_mask,
    decoder_mask,
    encoder_mask,
    token_positions,
)
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.nn.attention import AttentionMask
from openba_jax.nn.attention_layer import AttentionSpec, CrossAttention, SelfAttention
from openba_jax.nn.layer_stack import run_layers
from openba_jax.nn.layers import Embedding, GatedMlp, LayerNorm, parameter
from openba_jax.nn.losses import Head
from openba_jax.nn.rotary import Rotary

_ACTIVATION = ("activation_batch", "activation_length", "activation_embed")


def _layer_norm(config: OpenBAConfig, name: str) -> LayerNorm:
    return LayerNorm(config.layer_norm_epsilon, **config.types, name=name)


def _attention(config: OpenBAConfig) -> AttentionSpec:
    return AttentionSpec(
        config.embed_dim,
        config.num_heads,
        config.head_dim,
        qkv_bias=config.qkv_bias,
        out_bias=config.qkv_bias,
        rotary=Rotary(config.rope_theta),
        std=config.initializer_std,
        out_std=config.output_initializer_std,
        dropout_rate=config.attention_dropout_rate,
        kernel=config.attention,
        kv_cache=config.kv_cache,
        **config.types,
    )


def _mlp(config: OpenBAConfig) -> GatedMlp:
    return GatedMlp(
        config.mlp_dim,
        config.mlp_bias,
        config.initializer_std,
        config.output_initializer_std,
        config.activation,
        **config.types,
        name="mlp",
    )


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and SwiGLU."""

    config: OpenBAConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        mask: AttentionMask,
        deterministic: bool,
    ) -> tuple[jax.Array, None]:
        """Maps `[batch, length, embed]` to the same shape; the second result is for `nn.scan`."""
        config = self.config
        dropout = nn.Dropout(config.dropout_rate, deterministic=deterministic)
        y = _layer_norm(config, "pre_self_attention_layer_norm")(x)
        y = SelfAttention(_attention(config), name="self_attention")(
            y, positions, mask, deterministic=deterministic
        )
        x = x + dropout(y)
        y = _layer_norm(config, "pre_mlp_layer_norm")(x)
        x = x + dropout(_mlp(config)(y))
        return nn.with_logical_constraint(x, _ACTIVATION), None


class DecoderLayer(nn.Module):
    """Pre-norm causal self-attention, cross-attention and SwiGLU."""

    config: OpenBAConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        encoded: jax.Array,
        positions: jax.Array,
        self_mask: AttentionMask,
        cross_mask: AttentionMask,
        prefill_lengths: jax.Array | None,
        deterministic: bool,
        decode: bool,
        cache_length: int | None,
    ) -> tuple[jax.Array, None]:
        """Maps `[batch, length, embed]` to the same shape; the second result is for `nn.scan`."""
        config = self.config
        dropout = nn.Dropout(config.dropout_rate, deterministic=deterministic)
        y = _layer_norm(config, "pre_self_attention_layer_norm")(x)
        y = SelfAttention(_attention(config), name="self_attention")(
            y,
            positions,
            self_mask,
            deterministic=deterministic,
            decode=decode,
            cache_length=cache_length,
            prefill_lengths=prefill_lengths,
        )
        x = x + dropout(y)
        y = _layer_norm(config, "pre_cross_attention_layer_norm")(x)
        y = CrossAttention(_attention(config), name="cross_attention")(
            y, encoded, cross_mask, deterministic=deterministic, decode=decode
        )
        x = x + dropout(y)
        y = _layer_norm(config, "pre_mlp_layer_norm")(x)
        x = x + dropout(_mlp(config)(y))
        return nn.with_logical_constraint(x, _ACTIVATION), None


class Stack(nn.Module):
    """All layers of the encoder or the decoder, and the final layer norm.

    Attributes:
      config: the model's configuration.
      layer: `EncoderLayer` or `DecoderLayer`.
      depth: number of layers.
      static_arguments: positions (counted with the module itself) of arguments of `layer` that are
        Python values, for rematerialisation.
    """

    config: OpenBAConfig
    layer: type[nn.Module]
    depth: int
    static_arguments: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *arguments: Any) -> jax.Array:
        """Maps `[batch, length, embed]` to the same shape."""
        config, static = self.config, self.static_arguments
        x = run_layers(self.layer, config, self.depth, x, *arguments, static=static)
        return _layer_norm(config, "final_layer_norm")(x)


class LogitsDense(nn.Module):
    """What the logits have of their own: a kernel when untied, a bias when there is one."""

    config: OpenBAConfig

    def setup(self) -> None:
        """Creates `kernel` `[embed, vocab]` and `bias` `[vocab]`, as configured."""
        config = self.config
        self.kernel = self.bias = None
        if not config.tie_embeddings:
            shape, axes = (config.embed_dim, config.vocab_size), ("embed", "vocab")
            normal = nn.initializers.normal(config.initializer_std)
            self.kernel = parameter(self, "kernel", normal, shape, axes)
        if config.logits_bias:
            zeros = nn.initializers.zeros
            self.bias = parameter(self, "bias", zeros, (config.vocab_size,), ("vocab",))

    @property
    def param_dtype(self) -> str:
        """Name of the type of the parameters."""
        return self.config.param_dtype

    def __call__(self, hidden: jax.Array, embedding: jax.Array) -> jax.Array:
        """Maps `[batch, length, embed]` to float32 logits `[batch, length, vocab]`.

        Args:
          hidden: the decoder output.
          embedding: `[vocab, embed]`, used when embeddings are tied.
        """
        kernel = embedding.T if self.kernel is None else self.kernel
        return output_head(self.config, kernel, self.bias).logits(hidden)


def output_head(config: OpenBAConfig, kernel: jax.Array, bias: jax.Array | None) -> Head:
    """What makes logits of decoder outputs; `kernel` is `[embed, vocab]`, `bias` `[vocab]`."""
    scaled = config.tie_embeddings and config.scale_tied_logits
    return Head(kernel, bias, config.embed_dim**-0.5 if scaled else 1.0)


class OpenBA(EncoderDecoderModule):
    """The whole network."""

    config: OpenBAConfig

    def setup(self) -> None:
        """Names the parts of the parameter tree."""
        config = self.config
        self.token_embedder = Embedding(
            config.vocab_size, config.embed_dim, config.initializer_std, **config.types
        )
        self.embedding_dropout = nn.Dropout(
            config.dropout_rate if config.embedding_dropout else 0.0
        )
        self.encoder = Stack(config, EncoderLayer, config.encoder_layers, (4,))
        self.decoder = Stack(config, DecoderLayer, config.decoder_layers, (7, 8, 9))
        if config.logits_bias or not config.tie_embeddings:
            self.logits_dense = LogitsDense(config)

    @property
    def scan_layers(self) -> bool:
        """Whether cache leaves lead with a `layers` axis; T5X's decoding asks."""
        return self.config.scan_layers

    def _embed(self, tokens: jax.Array, deterministic: bool) -> jax.Array:
        x = self.token_embedder(tokens.astype(jnp.int32))
        return self.embedding_dropout(
            nn.with_logical_constraint(x, _ACTIVATION), deterministic=deterministic
        )

    def encode(
        self,
        encoder_input_tokens: jax.Array,
        encoder_segment_ids: jax.Array | None = None,
        encoder_positions: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
    ) -> jax.Array:
        """Encodes int `[batch, length]` to `[batch, length, embed]`."""
        positions = token_positions(encoder_input_tokens, encoder_positions)
        mask = encoder_mask(encoder_input_tokens, encoder_segment_ids)
        x = self._embed(encoder_input_tokens, not enable_dropout)
        return self.encoder(x, positions, mask, not enable_dropout)

    def decode_hidden(
        self,
        encoded: jax.Array,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        encoder_segment_ids: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
        prefill_lengths: jax.Array | None = None,
    ) -> jax.Array:
        """The decoder output before the logits; arguments as `decode`."""
        positions = token_positions(decoder_input_tokens, decoder_positions)
        self_mask = decoder_mask(decoder_segment_ids)
        memory_mask = cross_mask(encoder_input_tokens, encoder_segment_ids, decoder_segment_ids)
        x = self._embed(decoder_input_tokens, not enable_dropout)
        return self.decoder(
            x,
            encoded,
            positions,
            self_mask,
            memory_mask,
            prefill_lengths,
            not enable_dropout,
            decode,
            max_decode_length,
        )

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Float32 logits `[batch, length, vocab]` of decoder outputs `[batch, length, embed]`."""
        embedding = self.token_embedder.embedding
        if self.config.logits_bias or not self.config.tie_embeddings:
            return self.logits_dense(hidden, embedding)
        return output_head(self.config, embedding.T, None).logits(hidden)
