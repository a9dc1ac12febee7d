"""The LLaMA decoder, a linen module under T5X's contract for decoders (docs/architecture.md)."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from openba_jax.models.llama.config import LlamaConfig
from openba_jax.nn.attention import AttentionMask
from openba_jax.nn.attention_layer import AttentionSpec, SelfAttention
from openba_jax.nn.layer_stack import run_layers
from openba_jax.nn.layers import Embedding, GatedMlp, Projection, RMSNorm

_ACTIVATION = ("activation_batch", "activation_length", "activation_embed")
_NO_WINDOW = 2**30
"""Wider than any sequence: what a layer without a window has beside layers that have one."""


def _norm(config: LlamaConfig, name: str) -> RMSNorm:
    return RMSNorm(config.norm_epsilon, **config.types, name=name)


def _attention(config: LlamaConfig) -> AttentionSpec:
    return AttentionSpec(
        config.embed_dim,
        config.num_heads,
        config.head_dim,
        config.num_kv_heads,
        qkv_bias=config.qkv_bias,
        out_bias=config.out_bias,
        rotary=config.rotary,
        qk_norm=config.norm_epsilon if config.qk_norm else 0.0,
        std=config.initializer_std,
        out_std=config.initializer_std,
        dropout_rate=config.attention_dropout_rate,
        kernel=config.attention,
        kv_cache=config.kv_cache,
        **config.types,
    )


class Layer(nn.Module):
    """Pre-norm causal self-attention and SwiGLU."""

    config: LlamaConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        window: jax.Array | None,
        positions: jax.Array,
        mask: AttentionMask,
        prefill_lengths: jax.Array | None,
        deterministic: bool,
        decode: bool,
        cache_length: int | None,
    ) -> tuple[jax.Array, None]:
        """Maps `[batch, length, embed]` to the same shape; the second result is for `nn.scan`."""
        config = self.config
        dropout = nn.Dropout(config.dropout_rate, deterministic=deterministic)
        y = _norm(config, "pre_self_attention_layer_norm")(x)
        y = SelfAttention(_attention(config), name="self_attention")(
            y,
            positions,
            dataclasses.replace(mask, window=window),
            deterministic=deterministic,
            decode=decode,
            cache_length=cache_length,
            prefill_lengths=prefill_lengths,
        )
        x = x + dropout(y)
        y = _norm(config, "pre_mlp_layer_norm")(x)
        std = config.initializer_std
        mlp = GatedMlp(config.mlp_dim, config.mlp_bias, std, std, **config.types, name="mlp")
        return nn.with_logical_constraint(x + dropout(mlp(y)), _ACTIVATION), None


class Stack(nn.Module):
    """All layers, and the final norm."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, x: jax.Array, *arguments: Any) -> jax.Array:
        """Maps `[batch, length, embed]` to the same shape."""
        config = self.config
        slides = config.slides
        windows = None
        if slides:
            windows = jnp.array([config.sliding_window if s else _NO_WINDOW for s in slides])
        x = run_layers(
            Layer,
            config,
            config.decoder_layers,
            x,
            *(() if slides else (None,)),
            *arguments,
            static=(6, 7, 8),
            per_layer=(windows,) if slides else (),
        )
        return _norm(config, "final_layer_norm")(x)


class Llama(nn.Module):
    """The whole network.

    The methods have the names and arguments that T5X's `DecoderOnlyModel` calls. Padding lies
    behind all that is real, where nothing sees it; packed rows are told apart by segment ids.
    """

    config: LlamaConfig

    def setup(self) -> None:
        """Names the parts of the parameter tree."""
        config = self.config
        self.token_embedder = Embedding(
            config.vocab_size, config.embed_dim, config.initializer_std, **config.types
        )
        self.decoder = Stack(config)
        if not config.tie_embeddings:
            self.logits_dense = Projection(
                in_axes=("embed",),
                out_axes=("vocab",),
                out_shape=(config.vocab_size,),
                use_bias=False,
                std=config.initializer_std,
                **config.types,
            )

    @property
    def scan_layers(self) -> bool:
        """Whether cache leaves lead with a `layers` axis; T5X's decoding asks."""
        return self.config.scan_layers

    def hidden_states(
        self,
        decoder_input_tokens: jax.Array,
        decoder_segment_ids: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        decoder_causal_attention: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
        prefill_lengths: jax.Array | None = None,
        prefix: jax.Array | None = None,
    ) -> jax.Array:
        """The output before the logits.

        Args:
          decoder_input_tokens: int `[batch, length]`.
          decoder_segment_ids: int `[batch, length]`, for packed batches.
          decoder_positions: int `[batch, length]`, for packed batches.
          decoder_causal_attention: `[batch, length]`, 1 where a token is part of the inputs, which
            read one another in both directions if the configuration says so.
          enable_dropout: apply dropout; needs a `dropout` rng.
          decode: use the mutable collection `cache`. A call that finds none makes it, and takes no
            step.
          max_decode_length: positions that a new cache holds.
          prefill_lengths: int32 `[batch]`: the tokens are whole prompts of these lengths.
          prefix: bool `[batch, length]`, which tokens of these prompts are inputs.

        Returns:
          `[batch, length, embed]`.
        """
        tokens = decoder_input_tokens.astype(jnp.int32)
        positions = decoder_positions
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None]
        if decoder_causal_attention is not None:
            prefix = decoder_causal_attention > 0
        mask = AttentionMask(
            causal=True,
            query_segments=decoder_segment_ids,
            key_segments=decoder_segment_ids,
            prefix=prefix if self.config.bidirectional_inputs else None,
        )
        x = nn.with_logical_constraint(self.token_embedder(tokens), _ACTIVATION)
        return self.decoder(
            x, positions, mask, prefill_lengths, not enable_dropout, decode, max_decode_length
        )

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Float32 logits `[batch, length, vocab]` of outputs `[batch, length, embed]`."""
        if self.config.tie_embeddings:
            kernel = self.token_embedder.embedding.T.astype(hidden.dtype)
            return jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
        return self.logits_dense(hidden).astype(jnp.float32)

    def __call__(
        self,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        decoder_causal_attention: jax.Array | None = None,
        **options: Any,
    ) -> jax.Array:
        """Float32 logits `[batch, length, vocab]`; the arguments are those of `hidden_states`.

        `decoder_target_tokens` is part of T5X's contract, and not read.
        """
        del decoder_target_tokens
        hidden = self.hidden_states(
            decoder_input_tokens,
            decoder_segment_ids,
            decoder_positions,
            decoder_causal_attention,
            **options,
        )
        return self.logits(hidden)
