"""A checkpoint whose values are checked, and cast, while they are read."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable

import numpy as np

from openba_jax.checkpoints.checkpoint import Checkpoint, embedding_leaf
from openba_jax.checkpoints.files.tensors import RowSlice, count_not_finite
from openba_jax.checkpoints.layout import contiguous
from openba_jax.models.axes import Leaf


class InspectedCheckpoint:
    """Another checkpoint, cast to one type; what is not finite in it is counted."""

    def __init__(
        self,
        inner: Checkpoint,
        target: np.dtype | None = None,
        advance: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Reads nothing.

        Args:
          inner: where the values come from.
          target: the type to which parameters are cast; None keeps each tensor's own.
          advance: called with the bytes of every read, for a progress bar.
        """
        self._inner, self._target, self._advance = inner, target, advance
        self._lock = threading.Lock()
        self._not_finite: dict[Leaf, int] = {}
        self._overflowed: dict[Leaf, int] = {}
        embedding = self.dtype(embedding_leaf(inner.model)).name
        self.model = inner.model.replace(param_dtype=embedding)
        self.tokenizer, self.plan, self.step = inner.tokenizer, inner.plan, inner.step
        self.optimizer, self.data, self.carried = inner.optimizer, inner.data, inner.carried

    def dtype(self, leaf: Leaf) -> np.dtype:
        """The type of a leaf after the cast."""
        return self._inner.dtype(leaf) if self._target is None or leaf.slot else self._target

    def read(self, leaf: Leaf, rows: RowSlice = None) -> np.ndarray:
        """A leaf, cast."""
        array = self._inner.read(leaf, rows)
        wanted = self.dtype(leaf)
        bad, lost = count_not_finite(array), 0
        if array.dtype != wanted:
            with np.errstate(over="ignore", invalid="ignore"):
                cast = contiguous(array).astype(wanted)
            lost = count_not_finite(cast) - bad
        else:
            cast = array
        with self._lock:  # leaves are read by several threads
            self._advance(array.nbytes)
            for counts, found in ((self._not_finite, bad), (self._overflowed, lost)):
                if found:
                    counts[leaf] = counts.get(leaf, 0) + found
        return cast

    def place(self, leaf: Leaf) -> str:
        """The file and the tensor that hold a leaf."""
        return self._inner.place(leaf)

    def warnings(self) -> list[str]:
        """What was found, a sentence for each tensor of the file that was read."""
        sentences = []
        for counts, what in (
            (self._not_finite, "NaN or infinite values"),
            (self._overflowed, f"values that overflow {self._target} and became infinite"),
        ):
            totals: collections.Counter[str] = collections.Counter()
            for leaf, count in counts.items():
                totals[self.place(leaf)] += count
            sentences += [f"{place} holds {total} {what}." for place, total in totals.items()]
        return sentences
