"""`Checkpoint`: a model on disk, read leaf by leaf, whatever wrote it.

Everything that moves a model, conversion, pruning, verification, is one pull: a writer asks for
leaves in the order in which its own file wants them, so that no more is in memory than the tensor
being written. Tensors of the vocabulary, which can be larger than two layers, are moved in slices
of rows. The state of an optimizer goes the same way: it holds trees like that of the parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from openba_jax.checkpoints.files.tensors import RowSlice
from openba_jax.errors import UserError
from openba_jax.models.axes import VOCAB, Leaf, unflatten
from openba_jax.models.base import Model


@dataclasses.dataclass(frozen=True)
class Slot:
    """Stands, in the state of an optimizer, for a tree like that of the parameters.

    Attributes:
      name: its path in the state, e.g. `1/mu`; leaves of it have this as `Leaf.slot`.
    """

    name: str


class Checkpoint(Protocol):
    """A checkpoint that was opened; no tensor is read until it is asked for.

    Attributes:
      model: the model.
      tokenizer: the file of its tokenizer, if there is one.
      plan: the text of its pruning plan, if it has one.
      step: training steps that it has seen.
      optimizer: the state of its optimizer: lists, dicts, None, numpy scalars, and a `Slot` for
        every tree like that of the parameters. None: there is none.
      data: what a run needs besides to go on, ready for JSON.
      carried: what its format keeps besides, for a writer of the same format.
    """

    model: Model
    tokenizer: Path | None
    plan: str | None
    step: int
    optimizer: Any
    data: Mapping[str, Any]
    carried: Mapping[str, Any]

    def dtype(self, leaf: Leaf) -> np.dtype:
        """The type of a leaf."""

    def read(self, leaf: Leaf, rows: RowSlice = None) -> np.ndarray:
        """A leaf, its axes as in `model.axes.paths`; `rows` slices its axis `vocab`."""

    def place(self, leaf: Leaf) -> str:
        """The file and the tensor that hold a leaf, for messages."""


def map_state(function: Callable[[Any], Any], state: Any) -> Any:
    """The state of an optimizer with every `Slot` and every number mapped; None stays."""
    if isinstance(state, Mapping):
        return {name: map_state(function, value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return [map_state(function, value) for value in state]
    return None if state is None else function(state)


def slots(state: Any) -> list[str]:
    """Names of the trees in the state of an optimizer that are like that of the parameters."""
    found: list[str] = []
    map_state(lambda leaf: found.append(leaf.name) if isinstance(leaf, Slot) else None, state)
    return found


def all_leaves(checkpoint: Checkpoint) -> list[Leaf]:
    """All leaves, those of the optimizer included."""
    axes = checkpoint.model.axes
    return [leaf for slot in ("", *slots(checkpoint.optimizer)) for leaf in axes.leaves(slot)]


def total_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of all leaves."""
    axes = checkpoint.model.axes
    return sum(
        int(np.prod(axes.shape(leaf.path), dtype=np.int64)) * checkpoint.dtype(leaf).itemsize
        for leaf in all_leaves(checkpoint)
    )


def embedding_leaf(model: Model) -> Leaf:
    """The embedding, whose type is taken for that of the model.

    It is the matrix with rows for the vocabulary; a head has columns, and its bias is no matrix.
    """
    paths = model.axes.paths.items()
    return next(Leaf(path) for path, axes in paths if axes[:1] == (VOCAB,) and len(axes) > 1)


def load_tree(checkpoint: Checkpoint, slot: str = "") -> dict[str, Any]:
    """The parameters, or a slot of the optimizer, in memory.

    Returns:
      Nested dictionaries of numpy arrays; layers are stacked when the model scans them.

    Raises:
      UserError: the layers of one parameter have different types.
    """
    tree: dict[str, np.ndarray] = {}
    axes = checkpoint.model.axes
    for path in axes.paths:
        layers = axes.layers(path)
        if not checkpoint.model.config.scan_layers or layers == [None]:
            for layer in layers:
                leaf = Leaf(path, layer, slot)
                tree[leaf.unrolled] = np.array(checkpoint.read(leaf), order="C")
            continue
        dtype = stacked_dtype(checkpoint, path, slot)
        tree[path] = np.empty((len(layers), *axes.shape(path)), dtype)
        for place, layer in enumerate(layers):
            tree[path][place] = checkpoint.read(Leaf(path, layer, slot))
    return unflatten(tree)


def load_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything in memory: `params`, `step` and, where there is one, `opt_state`.

    Raises:
      UserError: the layers of one parameter have different types.
    """
    state = {"params": load_tree(checkpoint), "step": checkpoint.step}
    if checkpoint.optimizer is not None:
        state["opt_state"] = map_state(
            lambda leaf: load_tree(checkpoint, leaf.name) if isinstance(leaf, Slot) else leaf,
            checkpoint.optimizer,
        )
    return state


def stacked_dtype(checkpoint: Checkpoint, path: str, slot: str = "") -> np.dtype:
    """The type that all layers of a parameter share.

    Raises:
      UserError: they have different types.
    """
    layers = checkpoint.model.axes.layers(path)
    dtypes = {checkpoint.dtype(Leaf(path, layer, slot)) for layer in layers}
    if len(dtypes) > 1:
        raise UserError(
            f"{path} has different types in different layers "
            f"({', '.join(sorted(map(str, dtypes)))}); choose one with --dtype."
        )
    return dtypes.pop()
