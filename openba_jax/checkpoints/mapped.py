"""A checkpoint whose tensors are those of another framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openba_jax.checkpoints.files.tensors import WEIGHT_TYPES, RowSlice, Tensor, equal_tensors
from openba_jax.checkpoints.mapping import Entry
from openba_jax.errors import UserError
from openba_jax.models.axes import VOCAB, Leaf
from openba_jax.models.base import Model
from openba_jax.models.mapping import Tensors


@dataclasses.dataclass
class MappedCheckpoint:
    """A `Checkpoint` over named tensors.

    Attributes:
      model: the model.
      entries: its tensors and the leaves that they hold.
      tensors: the tensors by name.
      tokenizer: its sentencepiece model.
      step: training steps that it has seen.
      carried: what its format keeps besides.
    """

    model: Model
    entries: Sequence[Entry]
    tensors: Mapping[str, Tensor]
    tokenizer: Path | None = None
    step: int = 0
    carried: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    plan: str | None = None
    optimizer: Any = None
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Finds for each leaf the tensor that holds it."""
        self._place = {
            leaf: (entry, number)
            for entry in self.entries
            for number, leaf in enumerate(entry.leaves)
        }

    def dtype(self, leaf: Leaf) -> np.dtype:
        """The type of a leaf."""
        return self.tensors[self._place[leaf][0].theirs].dtype

    def read(self, leaf: Leaf, rows: RowSlice = None) -> np.ndarray:
        """A leaf, mostly as a view of the mapped file."""
        entry, number = self._place[leaf]
        tensor = self.tensors[entry.theirs].read(rows)
        sizes = self.model.axes.sizes_at(leaf.path)
        if rows is not None:
            sizes[VOCAB] = tensor.shape[0]
        return entry.layout.unpack(tensor, entry.axes, sizes, len(entry.leaves))[number]

    def place(self, leaf: Leaf) -> str:
        """The file and the tensor that hold a leaf."""
        name = self._place[leaf][0].theirs
        return f"{self.tensors[name].file}: tensor {name}"


def described(tensors: Mapping[str, Tensor]) -> Tensors:
    """What a family may ask about the tensors of a file.

    Raises:
      UserError: a tensor has a type that weights do not have.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in WEIGHT_TYPES:
            raise UserError(
                f"{tensor.file}: tensor {name} has type {tensor.dtype}; weights are float32, "
                "float16 or bfloat16."
            )
    return Tensors(
        {name: tensor.shape for name, tensor in tensors.items()},
        {name: tensor.dtype.name for name, tensor in tensors.items()},
        lambda a, b: equal_tensors(tensors[a], tensors[b]),
    )


def check_tensors(
    entries: Iterable[Entry],
    model: Model,
    tensors: Mapping[str, Tensor],
    ignored: Collection[str],
    where: Path,
) -> None:
    """Checks that exactly the tensors of a model are there, with the right shapes.

    Args:
      entries: what the model needs.
      model: the model.
      tensors: what the files hold.
      ignored: names that may be there besides.
      where: the checkpoint, for messages.

    Raises:
      UserError: a tensor is missing, superfluous or of another shape.
    """
    needed = {entry.theirs: entry for entry in entries}
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise UserError(
            f"{where}: tensor {missing[0]} is missing{_and_more(missing)}; the configuration asks "
            "for it."
        )
    extra = [name for name in tensors if name not in needed and name not in ignored]
    if extra:
        raise UserError(
            f"{tensors[extra[0]].file}: tensor {extra[0]} is not part of the model that the "
            f"configuration describes{_and_more(extra)}."
        )
    for name, entry in needed.items():
        expected = entry.shape(model.axes)
        tensor = tensors[name]
        if tensor.shape != expected:
            raise UserError(
                f"{tensor.file}: tensor {name} has shape {list(tensor.shape)}, the configuration "
                f"asks for {list(expected)}."
            )


def _and_more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
