"""`Model`: what trainer, evaluation, pruning, conversion and T5X ask of a family.

A model is a configuration with functions: it holds no parameters, so that it can be a static
argument of `jax.jit` and the key of a cache.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from openba_jax.errors import UserError
from openba_jax.models.axes import AxisTable, Coupling, axis_table
from openba_jax.models.config import ModelConfig
from openba_jax.nn import probes
from openba_jax.nn.losses import Head

Params = Mapping[str, Any]
Batch = Mapping[str, jax.Array]
Cache = dict[str, Any]
BeamRules = Literal["transformers_4", "transformers_5"]
"""Whose treatment of unfinished answers a beam search has (`inference.beam_search`)."""


class DecodingState(NamedTuple):
    """What decoding keeps between tokens.

    Attributes:
      cache: what every step changes; its leaves have an axis of rows.
      fixed: what no step changes, one row for all beams of an input; kept apart, it is not copied
        with every token.
    """

    cache: Cache
    fixed: Any


@dataclasses.dataclass(frozen=True)
class Model(abc.ABC):
    """A network of one family.

    Attributes:
      config: its configuration.
    """

    stacks: ClassVar[tuple[str, ...]]
    """Names of its stacks of layers, in order."""
    layout: ClassVar[str] = "encoder_decoder"
    """How it reads inputs and targets, a name of `data.layouts.LAYOUTS`."""
    frame: ClassVar[str] = "sentinel"
    """What stands around its prompts and answers, a name of `inference.prompts.FRAMES`."""
    padding: ClassVar[int] = 0
    """What stands behind the tokens of inputs and answers."""
    beam_rules: ClassVar[BeamRules] = "transformers_5"
    """The rules of its beam search."""

    config: ModelConfig

    @property
    @abc.abstractmethod
    def module(self) -> nn.Module:
        """The linen module."""

    @property
    @abc.abstractmethod
    def couplings(self) -> tuple[Coupling, ...]:
        """What holds between its axes."""

    @abc.abstractmethod
    def resized(self, sizes: Mapping[str, int], **fields: Any) -> Self:
        """The model with other sizes of axes.

        Args:
          sizes: by key of `axes.sizes`.
          **fields: of the configuration, which change along.

        Raises:
          UserError: no network of the family has these sizes.
        """

    @abc.abstractmethod
    def init_boxed(self, rng: jax.Array) -> Any:
        """Fresh parameters, each in an `nn.LogicallyPartitioned` with the names of its axes."""

    def hidden(
        self, params: Params, batch: Batch, dropout_rng: jax.Array | None = None
    ) -> jax.Array:
        """The output before the logits, at the positions of the targets.

        Args:
          params: the parameters.
          batch: of the model's layout, see `data.layouts`; int32 `[batch, length]` each, and
            `decoder_loss_weights` float32.
          dropout_rng: a key; without one there is no dropout.

        Returns:
          `[batch, length, embed]` in `config.dtype`.
        """
        return cast(jax.Array, self.apply_hidden(params, batch, dropout_rng))

    def observe(
        self,
        params: Params,
        batch: Batch,
        probe: probes.Probe,
        dropout_rng: jax.Array | None = None,
    ) -> tuple[jax.Array, probes.Observations]:
        """As `hidden`, with what a probe keeps of the modules on the way.

        Args:
          params: the parameters.
          batch: as of `hidden`.
          probe: sees every module after its call.
          dropout_rng: as of `hidden`.

        Returns:
          `hidden`, and what was kept, see `probes.Observations`.
        """
        with probes.probing(probe):
            hidden, variables = self.apply_hidden(
                params, batch, dropout_rng, mutable=[probes.COLLECTION]
            )
        return hidden, probes.observations(variables)

    @abc.abstractmethod
    def apply_hidden(
        self, params: Params, batch: Batch, dropout_rng: jax.Array | None, **options: Any
    ) -> Any:
        """`module.apply` of what makes `hidden`; the options are those of `apply`."""

    @abc.abstractmethod
    def real_tokens(self, batch: Batch) -> dict[str, jax.Array]:
        """For each stack which of its tokens are no padding, bool `[batch, length]`."""

    def count_tokens(self, batch: Batch) -> jax.Array:
        """Tokens of a batch that are no padding, an int32 scalar."""
        return sum((jnp.sum(real) for real in self.real_tokens(batch).values()), jnp.int32(0))

    @abc.abstractmethod
    def head(self, params: Params) -> Head:
        """What makes logits of that output."""

    @abc.abstractmethod
    def encode(self, params: Params, inputs: jax.Array, room: int = 0) -> Any:
        """Reads inputs, once for all that is to follow them.

        Args:
          params: the parameters.
          inputs: int32 `[batch, length]`, with `padding` behind them.
          room: tokens that may follow.

        Returns:
          What `decode_hidden` reads: of an encoder `[batch, length, embed]`, of a decoder its keys
          and values.
        """

    @property
    def reads_on(self) -> bool:
        """Whether inputs that were read can be gone on with, by `extend`."""
        return False

    def extend(self, params: Params, encoded: Any, inputs: jax.Array) -> Any:
        """Reads more of inputs, several rows of which begin alike; for models that `reads_on`.

        Args:
          params: the parameters.
          encoded: what `encode` made of one row, whose last token was not looked at, with room for
            all that follows.
          inputs: int32 `[batch, length]`, what follows in each row instead of that token, with
            `padding` behind it.

        Returns:
          What `encode` would make of the whole rows.
        """
        raise NotImplementedError(f"{type(self).__name__} reads inputs at once")

    @abc.abstractmethod
    def repeat(self, encoded: Any, count: int) -> Any:
        """What `encode` returns, `count` times for each row: for several answers to one input."""

    @abc.abstractmethod
    def first_tokens(self, inputs: jax.Array) -> jax.Array:
        """The token in front of an answer to each row of inputs, int32 `[batch]`."""

    @abc.abstractmethod
    def decode_hidden(
        self, params: Params, encoded: Any, inputs: jax.Array, tokens: jax.Array
    ) -> jax.Array:
        """The output before the logits for given answers.

        Args:
          params: the parameters.
          encoded: what `encode` made of `inputs`.
          inputs: int32 `[batch, input_length]`.
          tokens: int32 `[batch, length]`, `first_tokens` in front.

        Returns:
          `[batch, length, embed]`.
        """

    def answers_hidden(
        self, params: Params, encoded: Any, inputs: jax.Array, tokens: jax.Array
    ) -> jax.Array:
        """The output before the logits for several given answers to each input.

        Args:
          params: the parameters.
          encoded: what `encode` made of `inputs`.
          inputs: int32 `[batch, input_length]`.
          tokens: int32 `[batch, answers, length]`, `first_tokens` in front.

        Returns:
          `[batch * answers, length, embed]`.
        """
        _, answers, length = tokens.shape
        return self.decode_hidden(
            params,
            self.repeat(encoded, answers),
            jnp.repeat(inputs, answers, axis=0),
            tokens.reshape(-1, length),
        )

    @abc.abstractmethod
    def start_decoding(self, params: Params, inputs: jax.Array, length: int) -> DecodingState:
        """Reads int32 `[batch, input_length]` and makes room for `length` tokens."""

    @abc.abstractmethod
    def split_cache(self, cache: Cache) -> DecodingState:
        """What a step changes of a cache that the module made, and what none does."""

    @abc.abstractmethod
    def decode_step(
        self, params: Params, state: DecodingState, inputs: jax.Array, tokens: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """One step with the cache.

        Args:
          params: the parameters.
          state: as `start_decoding` made it, the cache as the step before left it.
          inputs: int32 `[batch, input_length]`.
          tokens: int32 `[batch * beams, n]`, the next decoder inputs; usually n is 1. The beams of
            an input stand together.

        Returns:
          Float32 logits `[batch * beams, n, vocab]`, and the cache after the step.
        """

    @abc.abstractmethod
    def forward_flops(self, encoder_length: int, decoder_length: int) -> float:
        """Model FLOPs of one forward pass over one example, causal attention counted half."""

    @abc.abstractmethod
    def decode_flops(self, encoder_length: int, position: int) -> float:
        """FLOPs of one cached decoding step after `position` tokens."""

    def take_rows(self, cache: Cache, rows: jax.Array) -> Cache:
        """Rows of what steps change, by int32 `[n]`."""
        axis = 1 if self.config.scan_layers else 0

        def take(leaf: jax.Array) -> jax.Array:
            # An index that all rows share has no axis of rows.
            return jnp.take(leaf, rows, axis=axis) if leaf.ndim > axis else leaf

        return jax.tree.map(take, cache)

    def replace(self, **changes: Any) -> Self:
        """The model with some fields of its configuration changed.

        Raises:
          UserError: a field is unknown, or has a value that no network can have.
        """
        return type(self)(self.config.replace(**changes))

    def check_layout(self, layout: str) -> None:
        """Checks that it reads batches of a layout, a name of `data.layouts.LAYOUTS`.

        Raises:
          UserError: it reads those of another one.
        """
        if layout != self.layout:
            raise UserError(
                f"the mixture makes batches for models of the kind {layout!r}, and the family "
                f"{self.config.family} is of the kind {self.layout!r}; choose another mixture "
                "(docs/objectives.md)."
            )

    def init(self, rng: jax.Array) -> dict[str, Any]:
        """Fresh parameters in `config.param_dtype`; to be called under `jit`."""
        return nn.meta.unbox(self.init_boxed(rng))

    def abstract_params(self) -> dict[str, Any]:
        """Shapes and dtypes of all parameters; nothing is allocated."""
        # Not `nn.meta.unbox`: under a mesh that would constrain what is no array yet.
        return jax.tree.map(lambda box: box.value, _abstract_boxed(self), is_leaf=_is_box)

    def logical_axes(self) -> dict[str, Any]:
        """For every parameter the names of its axes, e.g. `('layers', 'embed', 'heads', 'kv')`."""
        return jax.tree.map(lambda box: tuple(box.names), _abstract_boxed(self), is_leaf=_is_box)

    @property
    def axes(self) -> AxisTable:
        """The sizes of its axes."""
        return _axis_table(self)


@functools.lru_cache(maxsize=64)
def _abstract_boxed(model: Model) -> Any:
    return jax.eval_shape(model.init_boxed, jax.random.key(0))


@functools.lru_cache(maxsize=64)
def _axis_table(model: Model) -> AxisTable:
    # A scanned layer is traced once, and says the same as many.
    scanned = model if model.config.scan_layers else model.replace(scan_layers=True)
    return axis_table(
        scanned.abstract_params(),
        scanned.logical_axes(),
        stacks=model.stacks,
        couplings=model.couplings,
    )


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)
