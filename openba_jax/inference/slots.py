"""Decoding in steps, in slots: rows join and leave while others are being answered.

One step serves all slots, whatever the lengths and settings of their rows are, and is compiled
once; to read a prompt is compiled once for each length in `prompt_lengths`. A slot holds what
`Model.start_decoding` makes of one row, and a step is that of one row, mapped over the slots: what
a row is answered cannot depend on its company.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from openba_jax.errors import UserError
from openba_jax.inference.decoding import NOT_FINITE, Sampling
from openba_jax.inference.padding import pad_rows
from openba_jax.inference.row_sampling import RowSampling, choose_tokens, row_settings, unused_rows
from openba_jax.models.base import DecodingState, Model, Params

SHORTEST = 32
"""Prompts are padded to this length, twice it, four times it and so on."""


class _Slots(NamedTuple):
    decoding: DecodingState  # Leaves [slots, ...], as of one row.
    inputs: jax.Array  # int32 [slots, longest]
    last: jax.Array  # int32 [slots]
    sampling: RowSampling


class SlotDecoder:
    """Rows that are decoded together, each from the step at which it joins.

    To be used within `sharding.use_mesh`, by one thread at a time.
    """

    def __init__(
        self, model: Model, params: Params, slots: int, longest_prompt: int, room: int
    ) -> None:
        """Makes empty slots.

        Args:
          model: the model.
          params: its parameters.
          slots: rows at once.
          longest_prompt: tokens of a prompt, its frame included.
          room: tokens of an answer.

        Raises:
          UserError: there are no slots, or no room for prompts or answers.
        """
        for name, value in (
            ("SLOTS", slots),
            ("the longest prompt", longest_prompt),
            ("the longest answer", room),
        ):
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1.")
        self._model, self._params = model, params
        self._slots, self._room = slots, room
        self.prompt_lengths = prompt_lengths(longest_prompt)
        one = jax.ShapeDtypeStruct((1, longest_prompt), jnp.int32)
        shapes = jax.eval_shape(lambda p, x: model.start_decoding(p, x, room), params, one)
        self._state = _Slots(
            jax.tree.map(lambda leaf: jnp.zeros((slots, *leaf.shape), leaf.dtype), shapes),
            jnp.full((slots, longest_prompt), model.padding, jnp.int32),
            jnp.zeros(slots, jnp.int32),
            unused_rows(slots),
        )

    @property
    def slots(self) -> int:
        """Rows at once."""
        return self._slots

    @property
    def room(self) -> int:
        """Tokens that an answer can have."""
        return self._room

    def join(self, slot: int, prompt: Sequence[int], sampling: Sampling, seed: int = 0) -> None:
        """Reads a prompt into a slot; the next step gives the first token of its answer.

        Args:
          slot: from 0; whatever it held is gone.
          prompt: ids with their frame, at most the longest prompt.
          sampling: how tokens are chosen.
          seed: of what is drawn, see `row_settings`.

        Raises:
          ValueError: the prompt is too long.
        """
        length = next((n for n in self.prompt_lengths if n >= len(prompt)), None)
        if length is None:
            raise ValueError(f"a prompt of {len(prompt)} tokens, of {self.prompt_lengths[-1]}")
        settings = row_settings(sampling, seed)
        self._state = _join(
            self._model,
            self._params,
            self._state,
            pad_rows([prompt], length, self._model.padding),
            np.int32(slot),
            settings,
            room=self._room,
        )

    def step(self) -> np.ndarray:
        """The next token of every slot, int32 `[slots]`; of an empty slot it means nothing.

        `decoding.NOT_FINITE` stands for a token where the logits are NaN or infinite.
        """
        self._state, tokens = _step(self._model, self._params, self._state)
        return np.asarray(tokens)

    def compile(self) -> None:
        """Compiles everything that will ever run, so that no prompt has to wait for it."""
        for length in self.prompt_lengths:
            self.join(0, [1] * length, Sampling(temperature=1.0, top_p=0.5))
        self.step()


def prompt_lengths(longest: int) -> tuple[int, ...]:
    """The lengths that prompts are padded to, ascending, `longest` being the last."""
    lengths = []
    length = SHORTEST
    while length < longest:
        lengths.append(length)
        length *= 2
    return (*lengths, longest)


@functools.partial(jax.jit, static_argnames=("model", "room"), donate_argnames="state")
def _join(
    model: Model,
    params: Params,
    state: _Slots,
    inputs: jax.Array,
    slot: jax.Array,
    sampling: RowSampling,
    *,
    room: int,
) -> _Slots:
    """Puts one row, int32 `[1, length]`, into a slot."""

    def put(values: jax.Array, row: Any, padding: int = 0) -> jax.Array:
        row = jnp.asarray(row, values.dtype)
        # A shorter prompt has shorter keys and values; what is behind them is never looked at.
        wanted = values.shape[1:]
        widths = [(0, much - little, 0) for much, little in zip(wanted, row.shape, strict=True)]
        return values.at[slot].set(jax.lax.pad(row, jnp.asarray(padding, row.dtype), widths))

    decoding = model.start_decoding(params, inputs, room)
    return _Slots(
        jax.tree.map(put, state.decoding, decoding),
        put(state.inputs, inputs[0], model.padding),
        put(state.last, model.first_tokens(inputs)[0]),
        jax.tree.map(put, state.sampling, sampling),
    )


@functools.partial(jax.jit, static_argnames="model", donate_argnames="state")
def _step(model: Model, params: Params, state: _Slots) -> tuple[_Slots, jax.Array]:
    def one(decoding: DecodingState, inputs: jax.Array, last: jax.Array) -> tuple[jax.Array, Any]:
        logits, cache = model.decode_step(params, decoding, inputs[None], last[None, None])
        return logits[0, 0], cache

    logits, cache = jax.vmap(one)(state.decoding, state.inputs, state.last)
    finite = jnp.isfinite(jnp.max(logits, axis=-1))  # The maximum of a NaN is NaN.
    tokens = jnp.where(finite, choose_tokens(logits, state.sampling), NOT_FINITE)
    decoding = DecodingState(cache, state.decoding.fixed)
    sampling = state.sampling._replace(step=state.sampling.step + 1)
    return _Slots(decoding, state.inputs, jnp.maximum(tokens, 0), sampling), tokens
