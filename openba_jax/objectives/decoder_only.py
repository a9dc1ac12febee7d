"""Objectives of models without an encoder: one sequence, of inputs and targets.

Rows have the positions of inputs and targets together. A token is a target of the position before
it; what is an input is only read. Ids from 0 on are all tokens, so that rows are padded with
`PADDING`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from openba_jax.errors import UserError
from openba_jax.objectives import counter_random
from openba_jax.objectives.special_ids import SpecialIds
from openba_jax.objectives.token_rows import Kind, Side, TokenRows

PADDING = -1


@dataclasses.dataclass(frozen=True)
class CausalLM:
    """Every token of a text from those before it.

    Attributes:
      document_masks: a token sees nothing of the documents before its own, where a group of text
        has several; they end with eos.
    """

    document_masks: bool = True

    kind: ClassVar[Kind] = "text"
    layout: ClassVar[str] = "decoder_only"

    def limits(self, encoder_length: int, decoder_length: int) -> dict[Side, int]:
        """How many tokens of a text are used: as many as a row has positions."""
        return {"source": encoder_length + decoder_length}

    def samples(
        self,
        read: Mapping[Side, TokenRows],
        keys: np.ndarray,
        ids: SpecialIds,
        encoder_length: int,
        decoder_length: int,
    ) -> dict[str, np.ndarray]:
        """Samples without inputs, see `Objective.samples`, and their `documents`."""
        del keys
        tokens = read["source"]
        length = encoder_length + decoder_length
        samples = {
            "inputs": np.zeros((len(tokens.ids), 0), np.int32),
            "targets": padded(tokens, length),
        }
        if self.document_masks:
            ends = samples["targets"] == ids.eos_id
            samples["documents"] = np.cumsum(ends, axis=1, dtype=np.int32) - ends
        return samples


@dataclasses.dataclass(frozen=True)
class PrefixLM:
    """The rest of a text from its beginning, which is cut off anywhere (arXiv:1910.10683, 3.2.1).

    With `bidirectional_inputs` in the model's configuration, the beginning is read in both
    directions.
    """

    kind: ClassVar[Kind] = "text"
    layout: ClassVar[str] = "decoder_only"

    def limits(self, encoder_length: int, decoder_length: int) -> dict[Side, int]:
        """How many tokens of a text are used."""
        _check_room(encoder_length, decoder_length)
        return {"source": encoder_length + decoder_length}

    def samples(
        self,
        read: Mapping[Side, TokenRows],
        keys: np.ndarray,
        ids: SpecialIds,
        encoder_length: int,
        decoder_length: int,
    ) -> dict[str, np.ndarray]:
        """Samples of texts, see `Objective.samples`; the cut is uniform among those that fit."""
        del ids
        tokens = read["source"]
        least = np.maximum(tokens.lengths - decoder_length, 1)
        most = np.minimum(tokens.lengths - 1, encoder_length)
        cuts = least + counter_random.below(keys, np.maximum(most - least + 1, 1))
        cuts = np.minimum(cuts, tokens.lengths)
        whole = padded(tokens, encoder_length + decoder_length)
        columns = np.arange(whole.shape[1])
        inputs = np.where(columns < cuts[:, None], whole, PADDING)[:, :encoder_length]
        behind = np.minimum(cuts[:, None] + np.arange(decoder_length), whole.shape[1] - 1)
        targets = np.take_along_axis(whole, behind, axis=1)
        targets[cuts[:, None] + np.arange(decoder_length) >= tokens.lengths[:, None]] = PADDING
        return {"inputs": inputs.astype(np.int32), "targets": targets}


@dataclasses.dataclass(frozen=True)
class Completion:
    """Answers to prompts: the loss is taken on answers alone.

    A prompt begins with bos where the texts of the vocabulary do; answers end with eos, as
    `openba-prepare` writes them.
    """

    kind: ClassVar[Kind] = "instructions"
    layout: ClassVar[str] = "decoder_only"

    def limits(self, encoder_length: int, decoder_length: int) -> dict[Side, int]:
        """How many tokens of a prompt and an answer are used.

        Raises:
          UserError: The lengths have no room for a token.
        """
        _check_room(encoder_length - 1, decoder_length)
        return {"source": encoder_length - 1, "target": decoder_length}

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
        prompts = padded(read["source"], encoder_length)
        if ids.adds_bos and ids.bos_id is not None:
            prompts = np.roll(prompts, 1, axis=1)  # Its last column is padding: see `limits`.
            prompts[:, 0] = ids.bos_id
        return {"inputs": prompts, "targets": padded(read["target"], decoder_length)}

    def sample_lengths(
        self, sources: np.ndarray, targets: np.ndarray, encoder_length: int, decoder_length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens samples take at most, by the lengths of pairs: int64 `[n]` each."""
        limits = self.limits(encoder_length, decoder_length)
        return (
            np.minimum(sources, limits["source"]).astype(np.int64) + 1,
            np.minimum(targets, limits["target"]).astype(np.int64),
        )


def padded(tokens: TokenRows, length: int) -> np.ndarray:
    """The first `length` tokens of each row, int32 `[n, length]`, with `PADDING` behind them."""
    tokens = tokens.cut(length)
    rows = np.full((len(tokens.ids), length), PADDING, np.int32)
    valid = tokens.valid()
    rows[:, : valid.shape[1]][valid] = tokens.ids[valid]
    return rows


def _check_room(encoder_length: int, decoder_length: int) -> None:
    if encoder_length < 1 or decoder_length < 1:
        raise UserError(
            "inputs and targets have no room for a token; give larger TASK_FEATURE_LENGTHS."
        )
