"""Dialogues and translations as instruction pairs: further rules for `rules.RecordRule`'s users."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from openba_jax.data.text.documents import Record, column
from openba_jax.data.text.rules import Pair
from openba_jax.errors import UserError
from openba_jax.objectives.token_rows import Kind


@dataclasses.dataclass(frozen=True)
class Dialogues:
    """Multi-round dialogues, a pair for each turn, as the original's tool makes them.

    A record holds a list of turns, `[{"human": x, "assistant": y}, ...]`. Source of a turn: all
    before it, `Human: `, x, eos, `Assistant: `; target: y and eos. The parts are encoded apart.
    """

    turns_column: str = "conversation"
    human_key: str = "human"
    assistant_key: str = "assistant"
    max_length: int = 2048

    name: ClassVar[str] = "dialogues"
    kind: ClassVar[Kind] = "instructions"

    @property
    def text_column(self) -> str:
        """The turns."""
        return self.turns_column

    @property
    def columns(self) -> tuple[str, ...]:
        """The turns."""
        return (self.turns_column,)

    def texts(self, record: Record, place: str) -> Sequence[str]:
        """Four texts a turn.

        Raises:
          UserError: The record has no list of turns, or a turn lacks a text.
        """
        turns = record.get(self.turns_column)
        if not isinstance(turns, list) or not turns or not all(isinstance(t, dict) for t in turns):
            raise UserError(
                f"{place} has no dialogue in column {self.turns_column!r}; it should be a list of "
                f'{{"{self.human_key}": ..., "{self.assistant_key}": ...}}.'
            )
        texts: list[str] = []
        for number, turn in enumerate(turns, 1):
            where = f"{place} turn {number}"
            human = column(turn, self.human_key, where)
            texts += ["Human: ", human, "Assistant: ", column(turn, self.assistant_key, where)]
        return texts

    def pairs(self, ids: Sequence[np.ndarray], eos_id: int) -> Sequence[Pair]:
        """One pair a turn."""
        history, eos = np.zeros(0, np.int32), np.array([eos_id], np.int32)
        pairs = []
        for i in range(0, len(ids), 4):
            who, human, answers, assistant = ids[i : i + 4]
            source = np.concatenate([history, who, human, eos, answers]).astype(np.int32)
            target = np.append(assistant, eos).astype(np.int32)
            pairs.append((source, target))
            history = np.concatenate([source, target])
        return pairs


@dataclasses.dataclass(frozen=True)
class Translations:
    """A text in two languages, a pair for each direction, told apart by an instruction before it.

    The original's own tool for translations does not fit its data format; these are framed as its
    other instructions are: no eos behind the source, one behind the target.
    """

    first_column: str = "en"
    second_column: str = "zh"
    to_second: str = "Translate English to Chinese: "
    to_first: str = "将中文翻译成英文："
    max_length: int = 1024

    name: ClassVar[str] = "translations"
    kind: ClassVar[Kind] = "instructions"

    @property
    def text_column(self) -> str:
        """The first language."""
        return self.first_column

    @property
    def columns(self) -> tuple[str, ...]:
        """Both languages."""
        return (self.first_column, self.second_column)

    def texts(self, record: Record, place: str) -> Sequence[str]:
        """Instruction and text of the first direction, then of the second."""
        first = column(record, self.first_column, place)
        second = column(record, self.second_column, place)
        return [self.to_second + first, second, self.to_first + second, first]

    def pairs(self, ids: Sequence[np.ndarray], eos_id: int) -> Sequence[Pair]:
        """A pair each way."""
        eos = np.int32(eos_id)
        return [(ids[0], np.append(ids[1], eos)), (ids[2], np.append(ids[3], eos))]
