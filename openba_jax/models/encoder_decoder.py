"""What encoder-decoder families share: how their modules, which keep T5X's contract, are called."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self, cast

import jax
import jax.numpy as jnp
from flax import traverse_util

from openba_jax.models.base import Batch, Cache, DecodingState, Model, Params
from openba_jax.models.config import ModelConfig

PACKING = (
    "encoder_segment_ids",
    "decoder_segment_ids",
    "encoder_positions",
    "decoder_positions",
)
"""What a packed batch has besides tokens and weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(ModelConfig):
    """As `ModelConfig`.

    Attributes:
      max_encoder_length: longest encoder input that the model was made for, in tokens.
      max_decoder_length: the same for the decoder.
    """

    sizes: ClassVar[tuple[str, ...]] = (
        *ModelConfig.sizes,
        *("max_encoder_length", "max_decoder_length"),
    )
    changeable: ClassVar[tuple[str, ...]] = (
        *ModelConfig.changeable,
        *("max_encoder_length", "max_decoder_length"),
    )

    max_encoder_length: int = 1024
    max_decoder_length: int = 1024

    @property
    def lengths(self) -> tuple[int, int]:
        """The longest inputs and the longest targets, in tokens."""
        return self.max_encoder_length, self.max_decoder_length

    def longest_inputs(self, targets: int) -> int:
        """The longest inputs, in tokens, whatever the targets are."""
        del targets
        return self.max_encoder_length

    def with_lengths(self, inputs: int, targets: int) -> Self:
        """A copy for inputs and targets of these lengths."""
        return self.replace(max_encoder_length=inputs, max_decoder_length=targets)


@dataclasses.dataclass(frozen=True)
class EncoderDecoder(Model):
    """A model whose module has T5X's methods (docs/architecture.md, T5X).

    The module's cache has the keys and values of the encoder output below `memory`; of a collection
    `encoded` with the same leaves it reads them instead.
    """

    stacks: ClassVar[tuple[str, ...]] = ("encoder", "decoder")
    memory: ClassVar[str] = "cross_attention"
    """Name of the cross-attention in the module's layers."""

    def init_boxed(self, rng: jax.Array) -> Any:
        """Fresh parameters, each in a box with the names of its axes."""
        tokens = jnp.ones((1, 2), jnp.int32)
        return self.module.init(rng, tokens, tokens, tokens, enable_dropout=False)["params"]

    def apply_hidden(
        self, params: Params, batch: Batch, dropout_rng: jax.Array | None, **options: Any
    ) -> Any:
        """See `Model.apply_hidden`."""
        options |= {name: batch[name] for name in PACKING if name in batch}
        return self.module.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            enable_dropout=dropout_rng is not None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
            method="hidden_states",
            **options,
        )

    def real_tokens(self, batch: Batch) -> dict[str, jax.Array]:
        """Inputs and targets that are no padding, see `Model.real_tokens`."""
        inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
        return {"encoder": inputs > 0, "decoder": targets > 0}

    def encode(self, params: Params, inputs: jax.Array, room: int = 0) -> jax.Array:
        """The encoder output `[batch, length, embed]`; what follows has its own room."""
        del room
        return self._apply("encode", params, inputs, enable_dropout=False)

    def repeat(self, encoded: jax.Array, count: int) -> jax.Array:
        """The encoder output, `count` times for each row."""
        return jnp.repeat(encoded, count, axis=0)

    def first_tokens(self, inputs: jax.Array) -> jax.Array:
        """The start id 0 for each row."""
        return jnp.zeros(inputs.shape[0], jnp.int32)

    def decode_hidden(
        self, params: Params, encoded: jax.Array, inputs: jax.Array, tokens: jax.Array
    ) -> jax.Array:
        """The decoder output `[batch, length, embed]`, see `Model.decode_hidden`."""
        return self._apply("decode_hidden", params, encoded, inputs, tokens, enable_dropout=False)

    def answers_hidden(
        self, params: Params, encoded: jax.Array, inputs: jax.Array, tokens: jax.Array
    ) -> jax.Array:
        """As `Model.answers_hidden`; answers share keys and values of the encoder output."""
        return self.decode_hidden(params, encoded, inputs, tokens.reshape(-1, tokens.shape[-1]))

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
            method="decode_hidden",
        )
        return self.split_cache(variables["cache"])

    def split_cache(self, cache: Cache) -> DecodingState:
        """What a step changes, and the projections of the encoder output, which nothing changes."""
        changing: Cache = {}
        fixed: Cache = {}
        for path, leaf in traverse_util.flatten_dict(cache).items():
            (fixed if self.memory in path else changing)[path] = leaf
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
            method="decode",
        )
        return cast(jax.Array, logits), variables["cache"]

    def _apply(self, method: str, params: Params, *arguments: Any, **options: Any) -> jax.Array:
        result = self.module.apply({"params": params}, *arguments, method=method, **options)
        return cast(jax.Array, result)
