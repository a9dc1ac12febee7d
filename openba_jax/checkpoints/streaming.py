"""Reading parameters lazily, leaf by leaf and layer by layer, whatever file they are in.

Every conversion is one pull: a writer asks a `Source` for our leaves in the order in which its own
file wants them, so that no more is in memory than the tensor being written. Tensors of the
vocabulary, which can be larger than two layers, are moved in slices of rows.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from openba_jax.checkpoints.files.tensors import (
    WEIGHT_TYPES,
    Read,
    Rows,
    Tensor,
    count_not_finite,
    row_slices,
)
from openba_jax.checkpoints.layout import contiguous
from openba_jax.checkpoints.mapping import Entry, Leaf, Parameters, unflatten
from openba_jax.errors import UserError
from openba_jax.models.openba.config import OpenBAConfig


class Source(Protocol):
    """Parameters of one model, read leaf by leaf.

    Attributes:
      config: the model's configuration.
      parameters: its parameters by path.
      tokenizer: its sentencepiece model, if there is one.
      plan: the text of its pruning plan, if it has one.
      step: training steps that it has seen.
    """

    config: OpenBAConfig
    parameters: Parameters
    tokenizer: Path | None
    plan: str | None
    step: int

    def dtype(self, leaf: Leaf) -> np.dtype:
        """The type of a leaf."""

    def read(self, leaf: Leaf, rows: Rows = None) -> np.ndarray:
        """A leaf, its axes as in `parameters.axes`; `rows` slices its axis `vocab`."""

    def place(self, leaf: Leaf) -> str:
        """The file and the tensor that hold a leaf, for messages."""


@dataclasses.dataclass
class MappedSource:
    """A source whose tensors are those of another framework.

    Attributes:
      config: the model's configuration.
      entries: its tensors and the leaves that they hold.
      tensors: the tensors by name.
      tokenizer: its sentencepiece model.
      plan: the text of its pruning plan.
      step: training steps that it has seen.
    """

    config: OpenBAConfig
    entries: Sequence[Entry]
    tensors: Mapping[str, Tensor]
    tokenizer: Path | None = None
    plan: str | None = None
    step: int = 0

    def __post_init__(self) -> None:
        """Finds for each leaf the tensor that holds it."""
        self.parameters = Parameters(self.config)
        self._place = {
            leaf: (entry, number)
            for entry in self.entries
            for number, leaf in enumerate(entry.leaves)
        }

    def dtype(self, leaf: Leaf) -> np.dtype:
        """The type of a leaf."""
        return self.tensors[self._place[leaf][0].theirs].dtype

    def read(self, leaf: Leaf, rows: Rows = None) -> np.ndarray:
        """A leaf, mostly as a view of the mapped file."""
        entry, number = self._place[leaf]
        tensor = self.tensors[entry.theirs].read(rows)
        sizes = dict(self.parameters.sizes)
        if rows is not None:
            sizes["vocab"] = tensor.shape[0]
        return entry.layout.unpack(tensor, entry.axes, sizes, len(entry.leaves))[number]

    def place(self, leaf: Leaf) -> str:
        """The file and the tensor that hold a leaf."""
        name = self._place[leaf][0].theirs
        return f"{self.tensors[name].file}: tensor {name}"


@dataclasses.dataclass
class InspectedSource:
    """A source whose values are checked, and cast, while they are read.

    Attributes:
      inner: where the values come from.
      target: the type to which they are cast; None keeps each tensor's own.
      advance: called with the bytes of every read, for a progress bar.
      not_finite: per leaf, how many values are NaN or infinite.
      overflowed: per leaf, how many values are too large for `target`.
    """

    inner: Source
    target: np.dtype | None = None
    advance: Callable[[int], object] = lambda _: None
    not_finite: dict[Leaf, int] = dataclasses.field(default_factory=dict)
    overflowed: dict[Leaf, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Takes over what describes the model; `param_dtype` follows the type of the embedding."""
        self._lock = threading.Lock()
        embedding = Leaf("token_embedder/embedding")
        self.config = self.inner.config.replace(param_dtype=self.dtype(embedding).name)
        self.parameters = self.inner.parameters
        self.tokenizer, self.plan, self.step = (
            self.inner.tokenizer,
            self.inner.plan,
            self.inner.step,
        )

    def dtype(self, leaf: Leaf) -> np.dtype:
        """The type of a leaf after the cast."""
        return self.inner.dtype(leaf) if self.target is None else self.target

    def read(self, leaf: Leaf, rows: Rows = None) -> np.ndarray:
        """A leaf, cast."""
        array = self.inner.read(leaf, rows)
        bad, lost = count_not_finite(array), 0
        if self.target is not None and array.dtype != self.target:
            with np.errstate(over="ignore", invalid="ignore"):
                cast = contiguous(array).astype(self.target)
            lost = count_not_finite(cast) - bad
        else:
            cast = array
        with self._lock:  # leaves are read by several threads
            self.advance(array.nbytes)
            for counts, found in ((self.not_finite, bad), (self.overflowed, lost)):
                if found:
                    counts[leaf] = counts.get(leaf, 0) + found
        return cast

    def place(self, leaf: Leaf) -> str:
        """The file and the tensor that hold a leaf."""
        return self.inner.place(leaf)

    def warnings(self) -> list[str]:
        """What was found, a sentence for each tensor of the file that was read."""
        sentences = []
        for counts, what in (
            (self.not_finite, "NaN or infinite values"),
            (self.overflowed, f"values that overflow {self.target} and became infinite"),
        ):
            totals: collections.Counter[str] = collections.Counter()
            for leaf, count in counts.items():
                totals[self.place(leaf)] += count
            sentences += [f"{place} holds {total} {what}." for place, total in totals.items()]
        return sentences


def read_entry(source: Source, entry: Entry, rows: Rows = None) -> np.ndarray:
    """One of their tensors, in C order; `rows` are those of the vocabulary."""
    arrays = [source.read(leaf, rows) for leaf in entry.leaves]
    return contiguous(entry.layout.pack(arrays, entry.axes))


def entry_reads(source: Source, entry: Entry) -> Iterator[Read]:
    """Reads of one of their tensors: of consecutive rows if it is one of the vocabulary."""
    if "vocab" not in entry.axes:
        yield functools.partial(read_entry, source, entry)
        return
    shape = entry.layout.shape(source.parameters.sizes, len(entry.leaves))
    row_bytes = entry_dtype(source, entry).itemsize * math.prod(shape[1:])
    for rows in row_slices(shape[0], row_bytes):
        yield functools.partial(read_entry, source, entry, rows)


def entry_dtype(source: Source, entry: Entry) -> np.dtype:
    """The type of one of their tensors.

    Raises:
      UserError: its leaves have different types.
    """
    dtypes = {source.dtype(leaf) for leaf in entry.leaves}
    if len(dtypes) > 1:
        names = ", ".join(str(leaf) for leaf in entry.leaves)
        raise UserError(
            f"{names} have different types ({', '.join(sorted(map(str, dtypes)))}) and cannot make "
            f"up {entry.theirs}; choose one with --dtype."
        )
    return dtypes.pop()


def model_config(where: Path, **fields: Any) -> OpenBAConfig:
    """The configuration that a file of another framework describes.

    Raises:
      UserError: no model can have it; the message names the file.
    """
    try:
        return OpenBAConfig(**fields)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def check_tensors(
    entries: Iterable[Entry],
    parameters: Parameters,
    tensors: Mapping[str, Tensor],
    ignored: Collection[str],
    where: Path,
) -> None:
    """Checks that exactly the tensors of a model are there, with the right shapes.

    Args:
      entries: what the model needs.
      parameters: the model's parameters.
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
        expected = entry.layout.shape(parameters.sizes, len(entry.leaves))
        tensor = tensors[name]
        if tensor.shape != expected:
            raise UserError(
                f"{tensor.file}: tensor {name} has shape {list(tensor.shape)}, the configuration "
                f"asks for {list(expected)}."
            )
        weight_type(name, tensor)


def weight_type(name: str, tensor: Tensor) -> str:
    """The name of a tensor's type.

    Raises:
      UserError: weights cannot have it.
    """
    if tensor.dtype not in WEIGHT_TYPES:
        raise UserError(
            f"{tensor.file}: tensor {name} has type {tensor.dtype}; weights are float32, float16 "
            "or bfloat16."
        )
    return tensor.dtype.name


def load_params(source: Source) -> dict[str, Any]:
    """All parameters as nested dictionaries of numpy arrays, layers stacked when scanned.

    Raises:
      UserError: the layers of one parameter have different types.
    """
    params: dict[str, np.ndarray] = {}
    parameters = source.parameters
    for path in parameters.axes:
        layers = parameters.layers(path)
        if not source.config.scan_layers or layers == [None]:
            for layer in layers:
                leaf = Leaf(path, layer)
                params[unrolled_path(leaf)] = np.array(source.read(leaf), order="C")
            continue
        params[path] = np.empty((len(layers), *parameters.shape(path)), stacked_dtype(source, path))
        for place, layer in enumerate(layers):
            params[path][place] = source.read(Leaf(path, layer))
    return unflatten(params)


def stacked_dtype(source: Source, path: str) -> np.dtype:
    """The type that all layers of a parameter share.

    Raises:
      UserError: they have different types.
    """
    dtypes = {source.dtype(Leaf(path, layer)) for layer in source.parameters.layers(path)}
    if len(dtypes) > 1:
        raise UserError(
            f"{path} has different types in different layers "
            f"({', '.join(sorted(map(str, dtypes)))}); choose one with --dtype."
        )
    return dtypes.pop()


def unrolled_path(leaf: Leaf) -> str:
    """The path of a leaf in a tree whose layers are not scanned: `layers_3` for `layers`."""
    if leaf.layer is None:
        return leaf.path
    return leaf.path.replace("/layers/", f"/layers_{leaf.layer}/", 1)


def _and_more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
