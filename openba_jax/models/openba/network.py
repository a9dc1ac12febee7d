"""The OpenBA encoder-decoder (reference §1), under the T5X module contract (DESIGN §5)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from openba_jax.models.openba.attention import CrossAttention, SelfAttention
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.nn.layers import Embedding, GatedMlp, LayerNorm, parameter
from openba_jax.nn.losses import chunked_cross_entropy

Params = Mapping[str, Any]
Batch = Mapping[str, jax.Array]

_ACTIVATION = ("activation_batch", "activation_length", "activation_embed")


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and SwiGLU (reference §1.3)."""

    config: OpenBAConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        mask: jax.Array | None,
        deterministic: bool,
    ) -> tuple[jax.Array, None]:
        """Maps `[batch, length, embed]` to the same shape; the second result is for `nn.scan`."""
        config = self.config
        dropout = nn.Dropout(config.dropout_rate, deterministic=deterministic)
        y = LayerNorm(config, name="pre_self_attention_layer_norm")(x)
        y = SelfAttention(config, name="self_attention")(
            y, positions, mask, deterministic=deterministic
        )
        x = x + dropout(y)
        y = LayerNorm(config, name="pre_mlp_layer_norm")(x)
        x = x + dropout(GatedMlp(config, name="mlp")(y))
        return nn.with_logical_constraint(x, _ACTIVATION), None


class DecoderLayer(nn.Module):
    """Pre-norm causal self-attention, cross-attention and SwiGLU (reference §1.3)."""

    config: OpenBAConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        encoded: jax.Array,
        positions: jax.Array,
        self_mask: jax.Array | None,
        cross_mask: jax.Array | None,
        prefill_lengths: jax.Array | None,
        deterministic: bool,
        decode: bool,
        cache_length: int | None,
    ) -> tuple[jax.Array, None]:
        """Maps `[batch, length, embed]` to the same shape; the second result is for `nn.scan`."""
        config = self.config
        dropout = nn.Dropout(config.dropout_rate, deterministic=deterministic)
        y = LayerNorm(config, name="pre_self_attention_layer_norm")(x)
        y = SelfAttention(config, name="self_attention")(
            y,
            positions,
            self_mask,
            deterministic=deterministic,
            decode=decode,
            cache_length=cache_length,
            prefill_lengths=prefill_lengths,
        )
        x = x + dropout(y)
        y = LayerNorm(config, name="pre_cross_attention_layer_norm")(x)
        y = CrossAttention(config, name="cross_attention")(
            y, encoded, cross_mask, deterministic=deterministic, decode=decode
        )
        x = x + dropout(y)
        y = LayerNorm(config, name="pre_mlp_layer_norm")(x)
        x = x + dropout(GatedMlp(config, name="mlp")(y))
        return nn.with_logical_constraint(x, _ACTIVATION), None


class Stack(nn.Module):
    """All layers of the encoder or the decoder, scanned or unrolled, and the final layer norm.

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
        config = self.config
        layer = self.layer
        if config.remat_policy != "none":
            layer = nn.remat(
                layer,
                policy=_REMAT_POLICIES[config.remat_policy],
                prevent_cse=not config.scan_layers,
                static_argnums=self.static_arguments,
            )
        if config.scan_layers:
            x, _ = nn.scan(
                layer,
                variable_axes={"params": 0, "cache": 0, "encoded": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(nn.broadcast,) * len(arguments),
                length=self.depth,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )(config, name="layers")(x, *arguments)
        else:
            for number in range(self.depth):
                x, _ = layer(config, name=f"layers_{number}")(x, *arguments)
        return LayerNorm(config, name="final_layer_norm")(x)


_REMAT_POLICIES: dict[str, Callable[..., bool]] = {
    "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class LogitsDense(nn.Module):
    """What the logits have of their own: a kernel when untied, a bias when there is one."""

    config: OpenBAConfig

    def setup(self) -> None:
        """Creates `kernel` `[embed, vocab]` and `bias` `[vocab]`, as configured."""
        config = self.config
        if not config.tie_embeddings:
            self.kernel = parameter(
                self,
                "kernel",
                nn.initializers.normal(config.initializer_std),
                (config.embed_dim, config.vocab_size),
                ("embed", "vocab"),
            )
        if config.logits_bias:
            zeros = nn.initializers.zeros
            self.bias = parameter(self, "bias", zeros, (config.vocab_size,), ("vocab",))

    def __call__(self, hidden: jax.Array, embedding: jax.Array) -> jax.Array:
        """Maps `[batch, length, embed]` to float32 logits `[batch, length, vocab]`.

        Args:
          hidden: the decoder output.
          embedding: `[vocab, embed]`, used when embeddings are tied.
        """
        tied = self.config.tie_embeddings
        return logits_from_hidden(
            self.config,
            hidden,
            embedding.T if tied else self.kernel,
            self.bias if self.config.logits_bias else None,
        )


def logits_from_hidden(
    config: OpenBAConfig, hidden: jax.Array, kernel: jax.Array, bias: jax.Array | None
) -> jax.Array:
    """Float32 logits `[..., vocab]` of outputs `[..., embed]`; `kernel` is `[embed, vocab]`."""
    if config.tie_embeddings and config.scale_tied_logits:
        hidden = hidden * config.embed_dim**-0.5
    logits = jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
    return logits if bias is None else logits + bias.astype(jnp.float32)


def output_head(config: OpenBAConfig, params: Params) -> tuple[jax.Array, jax.Array | None]:
    """What `logits_from_hidden` needs: the kernel `[embed, vocab]`, and the bias if any."""
    head = params.get("logits_dense", {})
    kernel = params["token_embedder"]["embedding"].T if config.tie_embeddings else head["kernel"]
    return kernel, head.get("bias")


class OpenBA(nn.Module):
    """The whole network.

    The methods have the names and arguments that T5X calls. Tokens are int32 (T5X initialises with
    float32, hence the casts), id 0 is padding. Where segment ids are given, they alone say which
    positions are real (id > 0) and which belong together.
    """

    config: OpenBAConfig

    def setup(self) -> None:
        """Names the parts of the parameter tree."""
        config = self.config
        self.token_embedder = Embedding(config)
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
        positions = _positions(encoder_input_tokens, encoder_positions)
        mask = _encoder_mask(encoder_input_tokens, encoder_segment_ids)
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
        positions = _positions(decoder_input_tokens, decoder_positions)
        self_mask = None
        if not decode:
            self_mask = _decoder_mask(decoder_input_tokens.shape[1], decoder_segment_ids)
        cross_mask = _cross_mask(encoder_input_tokens, encoder_segment_ids, decoder_segment_ids)
        x = self._embed(decoder_input_tokens, not enable_dropout)
        return self.decoder(
            x,
            encoded,
            positions,
            self_mask,
            cross_mask,
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
        return logits_from_hidden(self.config, hidden, embedding.T, None)

    def decode(
        self,
        encoded: jax.Array,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array | None = None,
        encoder_segment_ids: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
        prefill: bool = False,
        prefill_lengths: jax.Array | None = None,
    ) -> jax.Array:
        """Decodes, by teacher forcing or with the cache.

        Args:
          encoded: `[batch, encoder_length, embed]`.
          encoder_input_tokens: int `[batch, encoder_length]`, for the mask.
          decoder_input_tokens: int `[batch, length]`, start id 0 first.
          decoder_target_tokens: not read; part of the T5X contract.
          encoder_segment_ids: int `[batch, encoder_length]`, for packed batches.
          decoder_segment_ids: int `[batch, length]`, for packed batches.
          decoder_positions: int `[batch, length]`, for packed batches.
          enable_dropout: apply dropout; needs a `dropout` rng.
          decode: use the mutable collection `cache`. A call that finds none makes it, from
            `encoded`, and takes no step.
          max_decode_length: positions that a new cache holds.
          prefill: the tokens are whole prompts, padded on the right.
          prefill_lengths: int32 `[batch]`, lengths of those prompts.

        Returns:
          Float32 logits `[batch, length, vocab]`.
        """
        del decoder_target_tokens
        hidden = self.decode_hidden(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_positions,
            enable_dropout=enable_dropout,
            decode=decode,
            max_decode_length=max_decode_length,
            prefill_lengths=prefill_lengths if prefill else None,
        )
        return self.logits(hidden)

    def hidden_states(
        self,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        decoder_target_tokens: jax.Array | None = None,
        encoder_segment_ids: jax.Array | None = None,
        decoder_segment_ids: jax.Array | None = None,
        encoder_positions: jax.Array | None = None,
        decoder_positions: jax.Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
    ) -> jax.Array:
        """The decoder output `[batch, length, embed]`; arguments as `__call__`."""
        del decoder_target_tokens
        encoded = self.encode(
            encoder_input_tokens,
            encoder_segment_ids,
            encoder_positions,
            enable_dropout=enable_dropout,
        )
        return self.decode_hidden(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_positions,
            enable_dropout=enable_dropout,
            decode=decode,
        )

    def __call__(self, *tokens: Any, **arguments: Any) -> jax.Array:
        """Float32 logits `[batch, length, vocab]`; the arguments are those of `hidden_states`."""
        return self.logits(self.hidden_states(*tokens, **arguments))


def _positions(tokens: jax.Array, positions: jax.Array | None) -> jax.Array:
    """Given positions, or 0, 1, 2, ... whatever the padding (reference §1.5)."""
    return jnp.arange(tokens.shape[1])[None] if positions is None else positions


def _encoder_mask(tokens: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """Keys that are real and, when packed, of the query's segment."""
    if segment_ids is None:
        return (tokens > 0)[:, None, None, :]
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return same & (segment_ids > 0)[:, None, None, :]


def _decoder_mask(length: int, segment_ids: jax.Array | None) -> jax.Array:
    """Causal, and within the segment. Padding stands on the right, where causality hides it."""
    causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
    if segment_ids is None:
        return causal
    return causal & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])


def _cross_mask(
    encoder_tokens: jax.Array,
    encoder_segment_ids: jax.Array | None,
    decoder_segment_ids: jax.Array | None,
) -> jax.Array:
    """Encoder keys that are real and, when packed, of the query's segment."""
    if encoder_segment_ids is None:
        return (encoder_tokens > 0)[:, None, None, :]
    real = (encoder_segment_ids > 0)[:, None, None, :]
    if decoder_segment_ids is None:
        return real
    return real & (decoder_segment_ids[:, None, :, None] == encoder_segment_ids[:, None, None, :])


def _init_boxed(config: OpenBAConfig, rng: jax.Array) -> Any:
    tokens = jnp.ones((1, 2), jnp.int32)
    return OpenBA(config).init(rng, tokens, tokens, tokens, enable_dropout=False)["params"]


@functools.lru_cache(maxsize=64)
def _abstract_boxed(config: OpenBAConfig) -> Any:
    return jax.eval_shape(functools.partial(_init_boxed, config), jax.random.key(0))


def init_params(config: OpenBAConfig, rng: jax.Array) -> dict[str, Any]:
    """Fresh parameters (reference §1.7), in `config.param_dtype`; to be called under `jit`."""
    return nn.meta.unbox(_init_boxed(config, rng))


def abstract_params(config: OpenBAConfig) -> dict[str, Any]:
    """Shapes and dtypes of all parameters; nothing is allocated."""
    # Not `nn.meta.unbox`: under a mesh that would constrain what is no array yet.
    return jax.tree.map(lambda box: box.value, _abstract_boxed(config), is_leaf=_is_box)


def logical_axes(config: OpenBAConfig) -> dict[str, Any]:
    """For every parameter the names of its axes, e.g. `('layers', 'embed', 'heads', 'kv')`."""
    return jax.tree.map(lambda box: tuple(box.names), _abstract_boxed(config), is_leaf=_is_box)


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def loss(
    config: OpenBAConfig,
    params: Params,
    batch: Batch,
    dropout_rng: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Summed cross entropy of a batch, without ever holding its logits.

    Sums, not means: what is accumulated over micro-batches is then divided once (DESIGN §5).

    Args:
      config: the model's configuration.
      params: its parameters.
      batch: `encoder_input_tokens`, `decoder_input_tokens`, `decoder_target_tokens` int32
        `[batch, length]`, `decoder_loss_weights` float32; segment ids and positions when packed.
      dropout_rng: a key; without one there is no dropout.

    Returns:
      The loss in nats, summed over weighted tokens, float32; and the sums `weight_sum`,
      `correct_sum` over the same tokens.
    """
    packing: dict[str, Any] = {
        name: batch[name]
        for name in (
            "encoder_segment_ids",
            "decoder_segment_ids",
            "encoder_positions",
            "decoder_positions",
        )
        if name in batch
    }
    hidden: Any = OpenBA(config).apply(
        {"params": params},
        batch["encoder_input_tokens"],
        batch["decoder_input_tokens"],
        enable_dropout=dropout_rng is not None,
        rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        method=OpenBA.hidden_states,
        **packing,
    )
    return chunked_cross_entropy(
        functools.partial(logits_from_hidden, config),
        hidden,
        *output_head(config, params),
        batch["decoder_target_tokens"],
        batch["decoder_loss_weights"],
    )
