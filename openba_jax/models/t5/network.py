"""T5, a linen module under T5X's contract (docs/architecture.md).

Parameters have the names that they have in T5X's own network, `t5x/examples/t5/network.py`.
"""

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
from openba_jax.models.t5.config import T5Config
from openba_jax.models.t5.relative_positions import DistanceBias, RelativePositions
from openba_jax.nn.attention import AttentionMask
from openba_jax.nn.attention_layer import AttentionSpec, Bias, CrossAttention, SelfAttention
from openba_jax.nn.layer_stack import run_layers
from openba_jax.nn.layers import Embedding, Projection, RMSNorm, parameter
from openba_jax.nn.losses import Head

_ACTIVATION = ("activation_batch", "activation_length", "activation_embed")


def _norm(config: T5Config, name: str) -> RMSNorm:
    return RMSNorm(config.layer_norm_epsilon, **config.types, name=name)


def _dropout(config: T5Config, deterministic: bool) -> nn.Dropout:
    """Dropout that all positions of an example share, as in T5X's network."""
    return nn.Dropout(config.dropout_rate, broadcast_dims=(-2,), deterministic=deterministic)


def _attention(config: T5Config) -> AttentionSpec:
    return AttentionSpec(
        config.embed_dim,
        config.num_heads,
        config.head_dim,
        joined=True,
        scale=1.0,  # T5 leaves scores as they are, and makes initial queries smaller instead.
        std=config.std(config.embed_dim),
        query_std=config.std(config.embed_dim * config.head_dim),
        out_std=config.std(config.num_heads * config.head_dim),
        dropout_rate=config.attention_dropout_rate,
        dropout_shared=True,
        kernel=config.attention,
        kv_cache=config.kv_cache,
        **config.types,
    )


class Mlp(nn.Module):
    """`wo(activation(wi x))` or, gated, `wo(activation(wi_0 x) * wi_1 x)`, dropout before `wo`."""

    config: T5Config

    @nn.compact
    def __call__(self, inputs: jax.Array, deterministic: bool) -> jax.Array:
        """Maps `[batch, length, embed]` to the same shape."""
        config = self.config

        def project(name: str, source: str, target: str, size: int, x: jax.Array) -> jax.Array:
            return Projection(
                in_axes=(source,),
                out_axes=(target,),
                out_shape=(size,),
                use_bias=False,
                std=config.std(x.shape[-1]),
                name=name,
                **config.types,
            )(x)

        first = "wi_0" if config.gated_mlp else "wi"
        hidden = config.activation(project(first, "embed", "mlp", config.mlp_dim, inputs))
        if config.gated_mlp:
            hidden = hidden * project("wi_1", "embed", "mlp", config.mlp_dim, inputs)
        hidden = _dropout(config, deterministic)(hidden)
        hidden = nn.with_logical_constraint(
            hidden, ("activation_batch", "activation_length", "activation_mlp")
        )
        return project("wo", "mlp", "embed", config.embed_dim, hidden)


def _relative_positions(config: T5Config, bidirectional: bool) -> DistanceBias:
    """The bias of the module in whose compact method it is called."""
    bias: DistanceBias = RelativePositions(
        config.num_heads,
        config.relpos_buckets,
        config.relpos_max_distance,
        bidirectional,
        config.initializer_factor,
        config.param_dtype,
        name="relpos_bias",
    )()
    return bias


def _decoder_bias(config: T5Config, length: int, decode: bool) -> Bias:
    """As `_relative_positions`; while decoding only the index of the cache says where one is."""
    bias = _relative_positions(config, False)
    return bias if decode else bias.square(length)


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward layer."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        bias: Bias | None,
        mask: AttentionMask,
        deterministic: bool,
    ) -> tuple[jax.Array, None]:
        """Maps `[batch, length, embed]` to the same shape; the second result is for `nn.scan`."""
        config = self.config
        if not config.shared_relpos:
            bias = _relative_positions(config, True).square(x.shape[1])
        y = _norm(config, "pre_attention_layer_norm")(x)
        y = SelfAttention(_attention(config), name="attention")(
            y, positions, mask, deterministic=deterministic, bias=bias
        )
        x = x + _dropout(config, deterministic)(y)
        y = Mlp(config, name="mlp")(_norm(config, "pre_mlp_layer_norm")(x), deterministic)
        x = x + _dropout(config, deterministic)(y)
        return nn.with_logical_constraint(x, _ACTIVATION), None


class DecoderLayer(nn.Module):
    """Pre-norm causal self-attention, cross-attention and feed-forward layer."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        encoded: jax.Array,
        positions: jax.Array,
        bias: Bias | None,
        self_mask: AttentionMask,
        memory_mask: AttentionMask,
        prefill_lengths: jax.Array | None,
        deterministic: bool,
        decode: bool,
        cache_length: int | None,
    ) -> tuple[jax.Array, None]:
        """Maps `[batch, length, embed]` to the same shape; the second result is for `nn.scan`."""
        config = self.config
        if not config.shared_relpos:
            bias = _decoder_bias(config, x.shape[1], decode)
        y = _norm(config, "pre_self_attention_layer_norm")(x)
        y = SelfAttention(_attention(config), name="self_attention")(
            y,
            positions,
            self_mask,
            deterministic=deterministic,
            bias=bias,
            decode=decode,
            cache_length=cache_length,
            prefill_lengths=prefill_lengths,
        )
        x = x + _dropout(config, deterministic)(y)
        y = _norm(config, "pre_cross_attention_layer_norm")(x)
        y = CrossAttention(_attention(config), name="encoder_decoder_attention")(
            y, encoded, memory_mask, deterministic=deterministic, decode=decode
        )
        x = x + _dropout(config, deterministic)(y)
        y = Mlp(config, name="mlp")(_norm(config, "pre_mlp_layer_norm")(x), deterministic)
        x = x + _dropout(config, deterministic)(y)
        return nn.with_logical_constraint(x, _ACTIVATION), None


class Encoder(nn.Module):
    """All layers of the encoder, the bias that they share, and the final norm."""

    config: T5Config

    @nn.compact
    def __call__(
        self, x: jax.Array, positions: jax.Array, mask: AttentionMask, deterministic: bool
    ) -> jax.Array:
        """Maps `[batch, length, embed]` to the same shape."""
        config = self.config
        bias = None
        if config.shared_relpos:
            bias = _relative_positions(config, True).square(x.shape[1])
        x = run_layers(
            EncoderLayer,
            config,
            config.encoder_layers,
            x,
            positions,
            bias,
            mask,
            deterministic,
            static=(5,),
        )
        x = _norm(config, "encoder_norm")(x)
        # T5X has dropout of single entries here, where all other dropout is shared by positions.
        return nn.Dropout(config.dropout_rate, deterministic=deterministic)(x)


class LogitsDense(nn.Module):
    """The kernel of logits that have one of their own."""

    config: T5Config

    def setup(self) -> None:
        """Creates `kernel` `[embed, vocab]`."""
        config = self.config
        normal = nn.initializers.normal(config.std(config.embed_dim))
        shape = (config.embed_dim, config.vocab_size)
        self.kernel = parameter(self, "kernel", normal, shape, ("embed", "vocab"))

    @property
    def param_dtype(self) -> str:
        """Name of the type of the parameters."""
        return self.config.param_dtype


class Decoder(nn.Module):
    """All layers of the decoder, the bias that they share, the final norm and the logits."""

    config: T5Config

    def setup(self) -> None:
        """Names the head, if it is not the embedding."""
        if not self.config.tie_embeddings:
            self.logits_dense = LogitsDense(self.config)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        encoded: jax.Array,
        positions: jax.Array,
        self_mask: AttentionMask,
        memory_mask: AttentionMask,
        prefill_lengths: jax.Array | None,
        deterministic: bool,
        decode: bool,
        cache_length: int | None,
    ) -> jax.Array:
        """Maps `[batch, length, embed]` to the same shape."""
        config = self.config
        bias = _decoder_bias(config, x.shape[1], decode) if config.shared_relpos else None
        x = run_layers(
            DecoderLayer,
            config,
            config.decoder_layers,
            x,
            encoded,
            positions,
            bias,
            self_mask,
            memory_mask,
            prefill_lengths,
            deterministic,
            decode,
            cache_length,
            static=(8, 9, 10),
        )
        return _dropout(config, deterministic)(_norm(config, "decoder_norm")(x))

    def logits(self, hidden: jax.Array, embedding: jax.Array) -> jax.Array:
        """Float32 logits `[batch, length, vocab]`; tied ones use `embedding` `[vocab, embed]`."""
        kernel = embedding.T if self.config.tie_embeddings else self.logits_dense.kernel
        return Head(kernel, None, self.config.logits_scale).logits(hidden)


class T5(EncoderDecoderModule):
    """The whole network.

    Positions are not read but while decoding: distances are those of places in a row, and what is
    packed into one row does not see what stands beside it.
    """

    config: T5Config

    def setup(self) -> None:
        """Names the parts of the parameter tree."""
        config = self.config
        self.token_embedder = Embedding(
            config.vocab_size, config.embed_dim, config.initializer_factor, **config.types
        )
        self.embedding_dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

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
        x = self._embed(decoder_input_tokens, not enable_dropout)
        arguments: tuple[Any, ...] = (
            token_positions(decoder_input_tokens, decoder_positions),
            decoder_mask(decoder_segment_ids),
            cross_mask(encoder_input_tokens, encoder_segment_ids, decoder_segment_ids),
            prefill_lengths,
            not enable_dropout,
            decode,
            max_decode_length,
        )
        return self.decoder(x, encoded, *arguments)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Float32 logits `[batch, length, vocab]` of decoder outputs `[batch, length, embed]`."""
        return self.decoder.logits(hidden, self.token_embedder.embedding)
