"""What decoder-only families share: one sequence, whose first part may be an input."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self, cast

import jax
import jax.numpy as jnp
from flax import traverse_util

from openba_jax.models.base import Batch, Cache, DecodingState, Model, Params
from openba_jax.models.config import ModelConfig

PACKING = ("decoder_segment_ids", "decoder_positions", "decoder_causal_attention")
"""What a batch may have besides tokens and weights."""

INDEX = "cache_index"
"""The name of the leaf of a cache that counts the tokens that were read."""

PADDING = -1
"""Behind the prompts given to a decoder: any id from 0 on may be a token."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderOnlyConfig(ModelConfig):
    """As `ModelConfig`.

    Attributes:
      max_length: longest sequence that the model was made for, in tokens.
      bidirectional_inputs: inputs read one another in both directions (prefix LM).
    """

    sizes: ClassVar[tuple[str, ...]] = (*ModelConfig.sizes, "max_length")
    changeable: ClassVar[tuple[str, ...]] = (*ModelConfig.changeable, "max_length")

    max_length: int = 2048
    bidirectional_inputs: bool = False

    @property
    def lengths(self) -> tuple[int, int]:
        """Inputs and targets, in tokens: half of a sequence each, if nothing else is said."""
        return self.max_length - self.max_length // 2, self.max_length // 2

    def longest_inputs(self, targets: int) -> int:
        """The longest inputs, in tokens, that leave room for so many targets."""
        return self.max_length - targets

    def with_lengths(self, inputs: int, targets: int) -> Self:
        """A copy for sequences of inputs and targets of these lengths."""
        return self.replace(max_length=inputs + targets)


@dataclasses.dataclass(frozen=True)
class DecoderOnly(Model):
    """A model of one stack, with a module under T5X's contract (docs/architecture.md).

    Prompts are padded with `PADDING` on the right; each has a token at least.
    """

    stacks: ClassVar[tuple[str, ...]] = ("decoder",)
    layout: ClassVar[str] = "decoder_only"
    frame: ClassVar[str] = "beginning"
    padding: ClassVar[int] = PADDING

    def init_boxed(self, rng: jax.Array) -> Any:
        """Fresh parameters, each in a box with the names of its axes."""
        tokens = jnp.ones((1, 2), jnp.int32)
        return self.module.init(rng, tokens, tokens, enable_dropout=False)["params"]

    def apply_hidden(
        self, params: Params, batch: Batch, dropout_rng: jax.Array | None, **options: Any
    ) -> Any:
        """See `Model.apply_hidden`."""
        options |= {name: batch[name] for name in PACKING if name in batch}
        return self.module.apply(
            {"params": params},
            batch["decoder_input_tokens"],
            enable_dropout=dropout_rng is not None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
            method="hidden_states",
            **options,
        )

    def real_tokens(self, batch: Batch) -> dict[str, jax.Array]:
        """Tokens that are no padding, see `Model.real_tokens`."""
        return {"decoder": batch["decoder_segment_ids"] > 0}

    def encode(self, params: Params, inputs: jax.Array, room: int = 0) -> Cache:
        """The cache of all inputs but the last token of each row, with room for more."""
        # The last token is read again, by the first step; the others have to have seen it, too.
        read = _lengths(inputs) - 1
        cache = self._empty_cache(params, inputs.shape[0], inputs.shape[1] + room)
        _, cache = self._apply_cached(
            params,
            cache,
            jnp.maximum(inputs, 0),
            prefill_lengths=read,
            prefix=inputs >= 0,
        )
        return cache

    @property
    def reads_on(self) -> bool:
        """Whether tokens see those before them alone."""
        return not cast(DecoderOnlyConfig, self.config).bidirectional_inputs

    def extend(self, params: Params, encoded: Cache, inputs: jax.Array) -> Cache:
        """Reads on in a cache of one row, see `Model.extend`."""
        cache = self.repeat(encoded, inputs.shape[0])
        # Every layer has the same index: how many tokens were read.
        read = next(
            leaf for path, leaf in traverse_util.flatten_dict(cache).items() if INDEX in path
        )
        read = read.reshape(-1, inputs.shape[0])[0]
        _, cache = self._apply_cached(
            params,
            cache,
            jnp.maximum(inputs, 0),
            prefill_lengths=read + _lengths(inputs) - 1,
        )
        return cache

    def repeat(self, encoded: Cache, count: int) -> Cache:
        """A cache, `count` times for each row."""
        rows = jnp.arange(_rows(encoded, self.config.scan_layers))
        return self.take_rows(encoded, jnp.repeat(rows, count))

    def first_tokens(self, inputs: jax.Array) -> jax.Array:
        """The last token of each row: its output chooses the first of the answer."""
        last = jnp.take_along_axis(inputs, _lengths(inputs)[:, None] - 1, axis=1)[:, 0]
        return jnp.maximum(last, 0)

    def decode_hidden(
        self, params: Params, encoded: Cache, inputs: jax.Array, tokens: jax.Array
    ) -> jax.Array:
        """The output `[batch, length, embed]` for tokens that follow the inputs."""
        del inputs
        return self._apply_cached(params, encoded, tokens)[0]

    def start_decoding(self, params: Params, inputs: jax.Array, length: int) -> DecodingState:
        """Reads the prompts and makes room for `length` tokens."""
        return self.split_cache(self.encode(params, inputs, room=length))

    def split_cache(self, cache: Cache) -> DecodingState:
        """Steps change all of it."""
        return DecodingState(cache, None)

    def decode_step(
        self, params: Params, state: DecodingState, inputs: jax.Array, tokens: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """One step with the cache, see `Model.decode_step`."""
        del inputs
        hidden, cache = self._apply_cached(params, state.cache, tokens)
        return self.head(params).logits(hidden), cache

    def _empty_cache(self, params: Params, rows: int, length: int) -> Cache:
        _, variables = self.module.apply(
            {"params": params},
            jnp.zeros((rows, 1), jnp.int32),
            enable_dropout=False,
            decode=True,
            max_decode_length=length,
            mutable=["cache"],
            method="hidden_states",
        )
        return cast(Cache, variables["cache"])

    def _apply_cached(
        self, params: Params, cache: Cache, tokens: jax.Array, **options: Any
    ) -> tuple[jax.Array, Cache]:
        hidden, variables = self.module.apply(
            {"params": params, "cache": cache},
            tokens,
            enable_dropout=False,
            decode=True,
            mutable=["cache"],
            method="hidden_states",
            **options,
        )
        return cast(jax.Array, hidden), variables["cache"]


def _lengths(inputs: jax.Array) -> jax.Array:
    """Tokens of each row, int32 `[batch]`; an empty row, which fills up a batch, has one."""
    return jnp.maximum(jnp.sum(inputs >= 0, axis=1), 1)


def _rows(cache: Cache, scanned: bool) -> int:
    """Rows of a cache whose inputs were read."""
    return jax.tree.leaves(cache)[0].shape[1 if scanned else 0]
