"""OpenBA as a `Model`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self, cast

import jax
import jax.numpy as jnp
from flax import traverse_util

from openba_jax.models.axes import Coupling
from openba_jax.models.base import Batch, Cache, DecodingState, Model, Params
from openba_jax.models.openba.config import COUPLINGS, OpenBAConfig, resized_fields
from openba_jax.models.openba.network import OpenBA, output_head
from openba_jax.nn.losses import Head

PACKING = (
    "encoder_segment_ids",
    "decoder_segment_ids",
    "encoder_positions",
    "decoder_positions",
)
"""What a packed batch has besides tokens and weights."""


@dataclasses.dataclass(frozen=True)
class OpenBAModel(Model):
    """The asymmetric encoder-decoder of OpenBA and OpenBA-V2."""

    stacks: ClassVar[tuple[str, ...]] = ("encoder", "decoder")

    config: OpenBAConfig

    @property
    def module(self) -> OpenBA:
        """The linen module."""
        return OpenBA(self.config)

    @property
    def couplings(self) -> tuple[Coupling, ...]:
        """What holds between its axes."""
        return COUPLINGS

    def resized(self, sizes: Mapping[str, int]) -> Self:
        """The model with other sizes of axes, by key."""
        return self.replace(**resized_fields(sizes))

    def init_boxed(self, rng: jax.Array) -> Any:
        """Fresh parameters, each in a box with the names of its axes."""
        tokens = jnp.ones((1, 2), jnp.int32)
        return self.module.init(rng, tokens, tokens, tokens, enable_dropout=False)["params"]

    def hidden(
        self, params: Params, batch: Batch, dropout_rng: jax.Array | None = None
    ) -> jax.Array:
        """The decoder output `[batch, length, embed]`, see `Model.hidden`."""
        return self._apply(
            OpenBA.hidden_states,
            params,
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            enable_dropout=dropout_rng is not None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
            **{name: batch[name] for name in PACKING if name in batch},
        )

    def head(self, params: Params) -> Head:
        """The kernel, tied or not, the bias if any, and the scale of the logits."""
        own = params.get("logits_dense", {})
        tied = self.config.tie_embeddings
        kernel = params["token_embedder"]["embedding"].T if tied else own["kernel"]
        return output_head(self.config, kernel, own.get("bias"))

    def encode(self, params: Params, inputs: jax.Array) -> jax.Array:
        """The encoder output `[batch, length, embed]`."""
        return self._apply(OpenBA.encode, params, inputs, enable_dropout=False)

    def decode_hidden(
        self, params: Params, encoded: jax.Array, inputs: jax.Array, tokens: jax.Array
    ) -> jax.Array:
        """The decoder output `[batch, length, embed]`, see `Model.decode_hidden`."""
        return self._apply(
            OpenBA.decode_hidden, params, encoded, inputs, tokens, enable_dropout=False
        )

    def start_decoding(self, params: Params, inputs: jax.Array, length: int) -> DecodingState:
        """Cross-attention keys and values filled, self-attention empty."""
        encoded = self.encode(params, inputs)
        _, variables = self.module.apply(
            {"params": params},
            encoded,
            inputs,
            jnp.zeros((encoded.shape[0], 1), jnp.int32),
            enable_dropout=False,
            decode=True,
            max_decode_length=length,
            mutable=["cache"],
            method=OpenBA.decode_hidden,
        )
        return self.split_cache(variables["cache"])

    def split_cache(self, cache: Cache) -> DecodingState:
        """What a step changes, and the projections of the encoder output, which nothing changes."""
        changing: Cache = {}
        fixed: Cache = {}
        for path, leaf in traverse_util.flatten_dict(cache).items():
            (fixed if "cross_attention" in path else changing)[path] = leaf
        return DecodingState(
            traverse_util.unflatten_dict(changing), traverse_util.unflatten_dict(fixed)
        )

    def decode_step(
        self, params: Params, state: DecodingState, inputs: jax.Array, tokens: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """One step with the cache, see `Model.decode_step`."""
        # Keys and values of the encoder output are cached: only its length is still looked at.
        unread = jnp.zeros((*inputs.shape, 0), self.config.dtype)
        logits, variables = self.module.apply(
            {"params": params, "cache": state.cache, "encoded": state.fixed},
            unread,
            inputs,
            tokens,
            enable_dropout=False,
            decode=True,
            mutable=["cache"],
            method=OpenBA.decode,
        )
        return cast(jax.Array, logits), variables["cache"]

    def forward_flops(self, encoder_length: int, decoder_length: int) -> float:
        """Model FLOPs of one forward pass over one example, causal attention counted half."""
        te, td = encoder_length, decoder_length
        e, a, f = self._widths
        encoder_layer = 2 * te * (4 * e * a + 3 * e * f) + 4 * te * te * a
        decoder_layer = (
            2 * td * (6 * e * a + 3 * e * f)  # self-attention, queries and outputs of cross, SwiGLU
            + 4 * te * e * a  # keys and values of cross-attention
            + 2 * td * td * a
            + 4 * te * td * a
        )
        config = self.config
        layers = config.encoder_layers * encoder_layer + config.decoder_layers * decoder_layer
        return float(layers + 2 * td * config.vocab_size * e)

    def decode_flops(self, encoder_length: int, position: int) -> float:
        """FLOPs of one cached step, cross-attention keys and values already projected."""
        e, a, f = self._widths
        layer = 2 * (6 * e * a + 3 * e * f) + 4 * (encoder_length + position + 1) * a
        return float(self.config.decoder_layers * layer + 2 * self.config.vocab_size * e)

    @property
    def _widths(self) -> tuple[int, int, int]:
        config = self.config
        return config.embed_dim, config.num_heads * config.head_dim, config.mlp_dim

    def _apply(self, method: Any, params: Params, *arguments: Any, **options: Any) -> jax.Array:
        result = self.module.apply({"params": params}, *arguments, method=method, **options)
        return cast(jax.Array, result)
