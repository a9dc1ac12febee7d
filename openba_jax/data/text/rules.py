"""Rules for records: which texts of a record are encoded, and which pairs become of their ids.

A rule names the columns that it reads, and gives the texts of a record, which are encoded together
with those of many others. A `PairRule` makes pairs of the ids of one record. `TextGroups` joins the
ids of many records and cuts them in groups, which is done for whole chunks at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from openba_jax.data.text.documents import Record, column
from openba_jax.errors import UserError
from openba_jax.objectives.token_rows import Kind
from openba_jax.objectives.ul2 import GROUP_SIZE

Pair = tuple[np.ndarray, np.ndarray]


class PairRule(Protocol):
    """From records to pairs.

    Attributes:
      name: how manifests call it.
      kind: of the pairs.
      text_column: where a line of plain text goes.
      max_length: pairs whose source is longer are left out.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]

    @property
    def text_column(self) -> str: ...  # noqa: D102

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        ...

    @property
    def max_length(self) -> int: ...  # noqa: D102

    def texts(self, record: Record, place: str) -> Sequence[str]:
        """The texts of a record.

        Raises:
          UserError: A column is missing, or holds no text.
        """
        ...

    def pairs(self, ids: Sequence[np.ndarray], eos_id: int) -> Sequence[Pair]:
        """The pairs that a record gives.

        Args:
          ids: of its `texts`, int32 arrays.
          eos_id: what ends a target.
        """
        ...


@dataclasses.dataclass(frozen=True)
class TextGroups:
    """Text for denoising, as the original's tool prepares it.

    Of every `batch_size` lines those that are not empty are encoded, each followed by eos (and led
    by bos where the texts of the vocabulary begin with it), joined and cut in groups of
    `group_size` ids; what remains of the batch is dropped. Documents may span groups, groups never
    span batches. With `batch_size` 0 the remainder is carried on, and only the last one of a source
    is dropped.
    """

    group_size: int = GROUP_SIZE
    batch_size: int = 1000
    text_column: str = "text"

    name: ClassVar[str] = "text"
    kind: ClassVar[Kind] = "text"

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          UserError: The group size is below 2, or the batch size is negative.
        """
        if self.group_size < 2 or self.batch_size < 0:
            raise UserError(
                f"group_size is {self.group_size} and batch_size {self.batch_size}; the least is 2 "
                "and 0."
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The text."""
        return (self.text_column,)

    def texts(self, record: Record, place: str) -> Sequence[str]:
        """The document."""
        return (column(record, self.text_column, place),)


@dataclasses.dataclass(frozen=True)
class Instructions:
    """Instruction pairs, as the original's tool prepares them.

    Source: the instruction, if the record has one, without the “ ” around it and stripped, and the
    input; no eos. Target: `task_prefix`, the target and eos. Pairs whose source is longer than
    `max_length` ids are left out.
    """

    input_column: str = "inputs"
    target_column: str = "targets"
    instruction_column: str = "text"
    task_prefix: str = ""
    max_length: int = 1024

    name: ClassVar[str] = "instructions"
    kind: ClassVar[Kind] = "instructions"

    @property
    def text_column(self) -> str:
        """The input."""
        return self.input_column

    @property
    def columns(self) -> tuple[str, ...]:
        """Instruction, input and target."""
        return (self.instruction_column, self.input_column, self.target_column)

    def texts(self, record: Record, place: str) -> Sequence[str]:
        """Source and target."""
        instruction = ""
        if record.get(self.instruction_column) is not None:  # Tables have a null there.
            instruction = column(record, self.instruction_column, place)
        if instruction.startswith("“") and instruction.endswith("”"):
            instruction = instruction[1:-1]
        source = instruction.strip() + column(record, self.input_column, place)
        return source, self.task_prefix + column(record, self.target_column, place)

    def pairs(self, ids: Sequence[np.ndarray], eos_id: int) -> Sequence[Pair]:
        """One pair."""
        return [(ids[0], np.append(ids[1], np.int32(eos_id)))]


RecordRule = TextGroups | PairRule


def describe(rule: RecordRule) -> dict[str, Any]:
    """A rule as manifests record it."""
    return {"kind": rule.name, **dataclasses.asdict(rule)}  # type: ignore[arg-type]
