"""The T5Gemma encoder-decoder, a linen module under T5X's contract (docs/architecture.md)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.models.encoder_decoder_module import (
    EncoderDecoderModule,
    cross_mask,
    decoder_mask,
    encoder_mask,
    token_positions,
)
from openba_jax.models.t5gemma.config import LOCAL, StackSizes, T5GemmaConfig
from openba_jax.nn.attention import AttentionMask
from openba_jax.nn.attention_layer import AttentionSpec, CrossAttention, SelfAttention
from openba_jax.nn.layer_stack import run_layers
from openba_jax.nn.layers import Embedding, GatedMlp, RMSNorm, parameter
from openba_jax.nn.losses import Head
from openba_jax.nn.rotary import Rotary

_ACTIVATION = ("activation_batch", "activation_length", "activation_embed")

_UNBOUNDED = np.iinfo(np.int32).max
"""The window of a global layer."""

gelu_tanh = functools.partial(nn.gelu, approximate=True)
"""The gate of the feed-forward layer."""


def _norm(config: T5GemmaConfig, name: str) -> RMSNorm:
    return RMSNorm(config.rms_norm_epsilon, 1.0, **config.types, name=name)


def _attention(config: T5GemmaConfig, sizes: StackSizes) -> AttentionSpec:
    return AttentionSpec(
        sizes.embed_dim,
        sizes.num_heads,
        sizes.head_dim,
        sizes.num_kv_heads,
        qkv_bias=config.attention_bias,
        out_bias=config.attention_bias,
        rotary=Rotary(config.rope_theta),
        scale=sizes.query_pre_attn_scalar**-0.5,
        softcap=config.attention_softcap,
        memory_embed="encoder/embed",
        std=config.initializer_std,
        out_std=config.initializer_std,
        dropout_rate=config.attention_dropout_rate,
        kernel=config.attention,
        kv_cache=config.kv_cache,
        **config.types,
    )


def _mlp(config: T5GemmaConfig, sizes: StackSizes) -> GatedMlp:
    std = config.initializer_std
    return GatedMlp(sizes.mlp_dim, False, std, std, gelu_tanh, **config.types, name="mlp")


def _windows(sizes: StackSizes, reach: int) -> jax.Array:
    """For each layer how far apart a query and its keys are less than, int32 `[layers]`."""
    local = [kind == LOCAL for kind in sizes.layer_types]
    return jnp.asarray(np.where(local, reach, _UNBOUNDED), jnp.int32)


class EncoderLayer(nn.Module):
    """Self-attention in both directions and GeGLU, each between two norms."""

    config: T5GemmaConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        window: jax.Array,
        positions: jax.Array,
        mask: AttentionMask,
        deterministic: bool,
    ) -> tuple[jax.Array, None]:
        """Maps `[batch, length, embed]` to the same shape; the second result is for `nn.scan`."""
        config, sizes = self.config, self.config.encoder
        dropout = nn.Dropout(config.dropout_rate, deterministic=deterministic)
        y = _norm(config, "pre_self_attention_norm")(x)
        y = SelfAttention(_attention(config, sizes), name="self_attention")(
            y, positions, dataclasses.replace(mask, window=window), deterministic=deterministic
        )
        x = x + dropout(_norm(config, "post_self_attention_norm")(y))
        y = _mlp(config, sizes)(_norm(config, "pre_mlp_norm")(x))
        x = x + dropout(_norm(config, "post_mlp_norm")(y))
        return nn.with_logical_constraint(x, _ACTIVATION), None


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and GeGLU, each between two norms."""

    config: T5GemmaConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        window: jax.Array,
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
        config, sizes = self.config, self.config.decoder
        dropout = nn.Dropout(config.dropout_rate, deterministic=deterministic)
        y = _norm(config, "pre_self_attention_norm")(x)
        y = SelfAttention(_attention(config, sizes), name="self_attention")(
            y,
            positions,
            dataclasses.replace(self_mask, window=window),
            deterministic=deterministic,
            decode=decode,
            cache_length=cache_length,
            prefill_lengths=prefill_lengths,
        )
        x = x + dropout(_norm(config, "post_self_attention_norm")(y))
        y = _norm(config, "pre_cross_attention_norm")(x)
        y = CrossAttention(_attention(config, sizes), name="cross_attention")(
            y, encoded, cross_mask, deterministic=deterministic, decode=decode
        )
        x = x + dropout(_norm(config, "post_cross_attention_norm")(y))
        y = _mlp(config, sizes)(_norm(config, "pre_mlp_norm")(x))
        x = x + dropout(_norm(config, "post_mlp_norm")(y))
        return nn.with_logical_constraint(x, _ACTIVATION), None


class Layers(nn.Module):
    """All layers of a stack, and the final norm.

    Attributes:
      config: the model's configuration.
      layer: `EncoderLayer` or `DecoderLayer`.
      sizes: those of the stack.
      reach: in local layers queries and keys lie less than this apart.
      static_arguments: positions (counted with the module itself) of arguments of `layer` that are
        Python values, for rematerialisation.
    """

    config: T5GemmaConfig
    layer: type[nn.Module]
    sizes: StackSizes
    reach: int
    static_arguments: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *arguments: Any) -> jax.Array:
        """Maps `[batch, length, embed]` to the same shape."""
        x = run_layers(
            self.layer,
            self.config,
            self.sizes.layers,
            x,
            *arguments,
            static=self.static_arguments,
            per_layer=(_windows(self.sizes, self.reach),),
        )
        return _norm(self.config, "final_norm")(x)


class LogitsDense(nn.Module):
    """The kernel `[embed, vocab]` of a head that is not tied."""

    config: T5GemmaConfig

    def setup(self) -> None:
        """Creates `kernel`."""
        config = self.config
        shape, axes = (config.decoder_embed_dim, config.vocab_size), ("embed", "vocab")
        normal = nn.initializers.normal(config.initializer_std)
        self.kernel = parameter(self, "kernel", normal, shape, axes)

    @property
    def param_dtype(self) -> str:
        """Name of the type of the parameters."""
        return self.config.param_dtype


class Stack(nn.Module):
    """The encoder or the decoder, with the embedding and the head that are its own.

    Attributes:
      config: the model's configuration.
      layer: `EncoderLayer` or `DecoderLayer`.
      sizes: those of the stack.
      reach: see `Layers`.
      static_arguments: see `Layers`.
      own_head: have a kernel of logits, apart from the embedding.
    """

    config: T5GemmaConfig
    layer: type[nn.Module]
    sizes: StackSizes
    reach: int
    static_arguments: tuple[int, ...]
    own_head: bool = False

    def setup(self) -> None:
        """Names the parts of the parameter tree, `layers` and `final_norm` among them."""
        config, sizes = self.config, self.sizes
        self.token_embedder = Embedding(
            config.vocab_size, sizes.embed_dim, config.initializer_std, **config.types
        )
        self.stack = Layers(config, self.layer, sizes, self.reach, self.static_arguments)
        nn.share_scope(self, self.stack)  # Its parameters lie beside the embedding.
        self.dropout = nn.Dropout(config.dropout_rate)
        if self.own_head:
            self.logits_dense = LogitsDense(config)

    def __call__(self, tokens: jax.Array, deterministic: bool, *arguments: Any) -> jax.Array:
        """Reads int32 `[batch, length]`; `arguments` are those of the layers.

        Returns:
          `[batch, length, embed]`.
        """
        x = self.token_embedder(tokens)
        # Rounded, as in the code that the published weights were trained with.
        x = x * jnp.asarray(self.sizes.embed_dim**0.5, x.dtype)
        x = self.dropout(nn.with_logical_constraint(x, _ACTIVATION), deterministic=deterministic)
        return self.dropout(self.stack(x, *arguments), deterministic=deterministic)

    def head(self) -> Head:
        """What makes logits of the stack's output."""
        kernel = self.logits_dense.kernel if self.own_head else self.token_embedder.embedding.T
        return output_head(self.config, kernel)


def output_head(config: T5GemmaConfig, kernel: jax.Array) -> Head:
    """What makes logits of decoder outputs; `kernel` is `[embed, vocab]`."""
    return Head(kernel, None, softcap=config.final_softcap)


class T5Gemma(EncoderDecoderModule):
    """The whole network; in decoder inputs id 0 stands for the token that answers start with."""

    config: T5GemmaConfig

    def setup(self) -> None:
        """Names the two stacks."""
        config = self.config
        encoder, decoder = config.encoder, config.decoder
        # In both directions the window is the distance at which a key is still seen.
        self.encoder = Stack(config, EncoderLayer, encoder, encoder.sliding_window + 1, (5,))
        self.decoder = Stack(
            config,
            DecoderLayer,
            decoder,
            decoder.sliding_window,
            (8, 9, 10),
            own_head=not config.tie_embeddings,
        )

    @property
    def scan_layers(self) -> bool:
        """Whether cache leaves lead with a `layers` axis; T5X's decoding asks."""
        return self.config.scan_layers

    def encode(
        self,
        encoder_input_tokens: jax.Array,
        encoder_segment_ids: jax.Array | None = None,
        encoder_positions: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
    ) -> jax.Array:
        """Encodes int `[batch, length]` to `[batch, length, encoder embed]`."""
        tokens, deterministic = encoder_input_tokens.astype(jnp.int32), not enable_dropout
        positions = token_positions(tokens, encoder_positions)
        mask = encoder_mask(tokens, encoder_segment_ids)
        return self.encoder(tokens, deterministic, positions, mask, deterministic)

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
        tokens, deterministic = decoder_input_tokens.astype(jnp.int32), not enable_dropout
        return self.decoder(
            jnp.where(tokens == 0, self.config.start_id, tokens),
            deterministic,
            encoded,
            token_positions(tokens, decoder_positions),
            decoder_mask(decoder_segment_ids),
            cross_mask(encoder_input_tokens, encoder_segment_ids, decoder_segment_ids),
            prefill_lengths,
            deterministic,
            decode,
            max_decode_length,
        )

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Float32 logits `[batch, length, vocab]` of decoder outputs `[batch, length, embed]`."""
        return self.decoder.head().logits(hidden)
