"""Instruction samples: `<S> source <extra_id_0> </s>` to `<extra_id_0> target`, or plain pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from openba_jax.errors import UserError
from openba_jax.objectives.special_ids import SpecialIds
from openba_jax.objectives.token_rows import Kind, Side, TokenRows

_FRAME = 3  # <S>, <extra_id_0> and </s> of the inputs.


@dataclasses.dataclass(frozen=True)
class Instruction:
    """Frames pairs whose targets end with eos, as `prepare_instructions` writes them.

    The original also takes the loss at one padding position behind a short target;
    here padding never counts.
    """

    kind: ClassVar[Kind] = "instructions"
    layout: ClassVar[str] = "encoder_decoder"

    def samples(
        self,
        read: Mapping[Side, TokenRows],
        keys: np.ndarray,
        ids: SpecialIds,
        encoder_length: int,
        decoder_length: int,
    ) -> dict[str, np.ndarray]:
        """Samples of pairs, see `Objective.samples`; nothing is random."""
        del keys
        return self(read["source"], read["target"], ids, encoder_length, decoder_length)

    def __call__(
        self,
        sources: TokenRows,
        targets: TokenRows,
        ids: SpecialIds,
        encoder_length: int,
        decoder_length: int,
    ) -> dict[str, np.ndarray]:
        """Makes samples; nothing is random.

        Args:
          sources: cut to `encoder_length - 3` tokens.
          targets: cut to `decoder_length - 1` tokens, which loses their eos.
          ids: where the special tokens lie, e.g. a `Vocabulary`.
          encoder_length: width of the inputs.
          decoder_length: width of the targets.

        Returns:
          `inputs` int32 `[n, encoder_length]` and `targets` int32 `[n, decoder_length]`, padded
          with 0.

        Raises:
          UserError: The lengths have no room for a token.
        """
        limits = self.limits(encoder_length, decoder_length)
        sources, targets = sources.cut(limits["source"]), targets.cut(limits["target"])
        count, source_width = sources.ids.shape
        row = np.arange(count)
        result = {
            "inputs": np.zeros((count, encoder_length), np.int32),
            "targets": np.zeros((count, decoder_length), np.int32),
        }
        result["inputs"][:, 0] = ids.s_id
        result["inputs"][:, 1 : 1 + source_width] = sources.ids
        result["inputs"][row, 1 + sources.lengths] = ids.sentinel(0)
        result["inputs"][row, 2 + sources.lengths] = ids.eos_id
        result["targets"][:, 0] = ids.sentinel(0)
        result["targets"][:, 1 : 1 + targets.ids.shape[1]] = targets.ids
        return result

    def sample_lengths(
        self, sources: np.ndarray, targets: np.ndarray, encoder_length: int, decoder_length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens samples take, from the lengths of their pairs: int64 `[n]` each."""
        limits = self.limits(encoder_length, decoder_length)
        return (
            np.minimum(sources, limits["source"]).astype(np.int64) + _FRAME,
            np.minimum(targets, limits["target"]).astype(np.int64) + 1,
        )

    def limits(self, encoder_length: int, decoder_length: int) -> dict[Side, int]:
        """How many tokens of an example's source and target are used.

        Raises:
          UserError: The lengths have no room for a token.
        """
        if encoder_length <= _FRAME or decoder_length <= 1:
            raise UserError(
                f"inputs of {encoder_length} and targets of {decoder_length} tokens have no room "
                f"for an instruction; give more than {_FRAME} and 1."
            )
        return {"source": encoder_length - _FRAME, "target": decoder_length - 1}


@dataclasses.dataclass(frozen=True)
class Pairs:
    """`source </s>` to `target`, as T5 is tuned; targets end with eos, as they are prepared."""

    kind: ClassVar[Kind] = "instructions"
    layout: ClassVar[str] = "encoder_decoder"

    def samples(
        self,
        read: Mapping[Side, TokenRows],
        keys: np.ndarray,
        ids: SpecialIds,
        encoder_length: int,
        decoder_length: int,
    ) -> dict[str, np.ndarray]:
        """Samples of pairs, see `Objective.samples`; nothing is random."""
        del keys
        limits = self.limits(encoder_length, decoder_length)
        sources, targets = (read[side].cut(limit) for side, limit in limits.items())
        count = len(sources.ids)
        inputs = np.zeros((count, encoder_length), np.int32)
        outputs = np.zeros((count, decoder_length), np.int32)
        inputs[:, : sources.ids.shape[1]] = sources.ids
        inputs[np.arange(count), sources.lengths] = ids.eos_id
        outputs[:, : targets.ids.shape[1]] = targets.ids
        return {"inputs": inputs, "targets": outputs}

    def sample_lengths(
        self, sources: np.ndarray, targets: np.ndarray, encoder_length: int, decoder_length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens samples take, from the lengths of their pairs: int64 `[n]` each."""
        limits = self.limits(encoder_length, decoder_length)
        return (
            np.minimum(sources, limits["source"]).astype(np.int64) + 1,
            np.minimum(targets, limits["target"]).astype(np.int64),
        )

    def limits(self, encoder_length: int, decoder_length: int) -> dict[Side, int]:
        """How many tokens of an example's source and target are used.

        Raises:
          UserError: The lengths have no room for a token.
        """
        if encoder_length <= 1 or decoder_length < 1:
            raise UserError(
                f"inputs of {encoder_length} and targets of {decoder_length} tokens have no room "
                "for a pair; give more than 1 and 0."
            )
        return {"source": encoder_length - 1, "target": decoder_length}
