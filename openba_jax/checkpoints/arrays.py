"""A checkpoint whose parameters are tensorstore arrays under our own names."""

from __future__ import annotations

import functools
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from openba_jax.checkpoints.checkpoint import slots
from openba_jax.checkpoints.files.tensors import RowSlice
from openba_jax.checkpoints.files.tensorstore_arrays import chunk_size, read_array
from openba_jax.errors import UserError
from openba_jax.models.axes import VOCAB, Leaf
from openba_jax.models.base import Model

Arrays = Mapping[str, ts.TensorStore]
"""Arrays by path."""

OpenOptimizer = Callable[[], tuple[Any, Mapping[str, Arrays]]]
"""Gives the state of an optimizer, see `Checkpoint`, and for each slot in it its arrays."""


class ArrayCheckpoint:
    """A `Checkpoint` over the arrays of an orbax or T5X tree."""

    def __init__(
        self,
        model: Model,
        arrays: Arrays,
        folder: Path,
        *,
        tokenizer: Path | None = None,
        plan: str | None = None,
        step: int = 0,
        open_optimizer: OpenOptimizer | None = None,
        data: Mapping[str, Any] | None = None,
        carried: Mapping[str, Any] | None = None,
    ) -> None:
        """Checks that the arrays are those of the model.

        Args:
          model: the model; its configuration says whether layers are stacked.
          arrays: the parameters.
          folder: where they are, for messages.
          tokenizer: the sentencepiece model.
          plan: the text of the pruning plan.
          step: training steps taken.
          open_optimizer: called when the state of the optimizer is first asked for; None: there
            is none.
          data: what a run needs besides.
          carried: what its format keeps besides.

        Raises:
          UserError: an array is missing, superfluous or of another shape.
        """
        self.model, self.tokenizer, self.plan, self.step = model, tokenizer, plan, step
        self.data: Mapping[str, Any] = data or {}
        self.carried: Mapping[str, Any] = carried or {}
        self._optimizer, self._open_optimizer = None, open_optimizer
        self._arrays, self._folder = {"": arrays}, folder
        self._lock = threading.Lock()
        self._check("")

    @property
    def optimizer(self) -> Any:
        """The state of the optimizer, see `Checkpoint`.

        Raises:
          UserError: it is the state of an optimizer that cannot be moved, or does not fit the
            parameters; these can be read all the same.
        """
        if self._open_optimizer is not None:
            state, arrays = self._open_optimizer()
            self._arrays.update(arrays)
            for slot in slots(state):
                self._check(slot)
            self.optimizer = state
        return self._optimizer

    @optimizer.setter
    def optimizer(self, state: Any) -> None:
        self._optimizer, self._open_optimizer = state, None

    def dtype(self, leaf: Leaf) -> np.dtype:
        """The type of a leaf."""
        return self._arrays[leaf.slot][self._path(leaf)].dtype.numpy_dtype

    def read(self, leaf: Leaf, rows: RowSlice = None) -> np.ndarray:
        """A leaf, or a slice of its axis `vocab`."""
        path = self._path(leaf)
        store = self._arrays[leaf.slot][path]
        axes = self.model.axes.paths[leaf.path]
        place: list[Any] = [slice(None)] * len(axes)
        if rows is not None:
            place[axes.index(VOCAB)] = rows
        if self._stacked(leaf):
            place.insert(0, leaf.layer)
            if chunk_size(store, 0) > 1:
                return self._whole(leaf.slot, path)[tuple(place)]
        return read_array(store[tuple(place)], self._folder, path)

    def place(self, leaf: Leaf) -> str:
        """The folder that holds a leaf, and the leaf."""
        return f"{self._folder}: parameter {leaf}"

    def _whole(self, slot: str, path: str) -> np.ndarray:
        """An array whose chunks span layers, unpacked once into a scratch file."""
        store = self._arrays[slot][path]
        with self._lock:  # leaves are read by several threads
            file = self._scratch / f"{slot}/{path}".replace("/", ".")
            if not file.exists():
                read_array(store, self._folder, path).tofile(file)
        return np.memmap(file, store.dtype.numpy_dtype, "r", shape=store.shape).view(np.ndarray)

    @functools.cached_property
    def _scratch(self) -> Path:
        self._scratch_folder = tempfile.TemporaryDirectory(prefix="openba_convert_")
        return Path(self._scratch_folder.name)

    def _stacked(self, leaf: Leaf) -> bool:
        return self.model.config.scan_layers and leaf.layer is not None

    def _path(self, leaf: Leaf) -> str:
        return leaf.path if self._stacked(leaf) else leaf.unrolled

    def _check(self, slot: str) -> None:
        axes, arrays = self.model.axes, self._arrays[slot]
        expected = {}
        for leaf in axes.leaves():
            shape = axes.shape(leaf.path)
            if self._stacked(leaf):
                shape = (len(axes.layers(leaf.path)), *shape)
            expected[self._path(leaf)] = shape
        what = f"optimizer state {slot}: " if slot else ""
        for path, shape in expected.items():
            if path not in arrays:
                raise UserError(f"{self._folder}: {what}parameter {path} is missing.")
            if arrays[path].shape != shape:
                raise UserError(
                    f"{self._folder}: {what}parameter {path} has shape "
                    f"{list(arrays[path].shape)}, the configuration asks for {list(shape)}."
                )
        for path in arrays:
            if path not in expected:
                raise UserError(
                    f"{self._folder}: {what}parameter {path} is not part of the model that the "
                    "configuration describes."
                )
