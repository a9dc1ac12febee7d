"""Megatron folders of any tensor-parallel size.

A folder holds `mp_rank_XX/model_optim_rng.pt`, one file per rank. Reading one size and writing
another is the counterpart of the original's split tool. Which axis a tensor is cut along follows
from its layout: the dimension that holds `vocab`, `heads` or `mlp`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openba_jax.checkpoints.checkpoint import Checkpoint, embedding_leaf
from openba_jax.checkpoints.files.tensors import (
    FileTensor,
    JoinedTensor,
    Read,
    Tensor,
    equal_tensors,
    row_slices,
    split_axis,
)
from openba_jax.checkpoints.files.torch_reader import TorchDtype, read_torch
from openba_jax.checkpoints.files.torch_writer import TensorSpec, TorchWriter
from openba_jax.checkpoints.layout import SHARDED_AXES, Layout, contiguous
from openba_jax.checkpoints.mapped import MappedCheckpoint, check_tensors, described
from openba_jax.checkpoints.mapping import Entry, entry_dtype, expand, read_entry
from openba_jax.errors import UserError
from openba_jax.models import mapping, registry
from openba_jax.models.axes import VOCAB, flatten, unflatten
from openba_jax.models.base import Model

_FILE = "model_optim_rng.pt"
_TRACKER = "latest_checkpointed_iteration.txt"


@dataclasses.dataclass(frozen=True)
class Megatron:
    """The format of Megatron-LM.

    Attributes:
      tensor_parallel: number of ranks to write.
    """

    tensor_parallel: int = 1

    name = "megatron"
    description = "Megatron folder (mp_rank_00)"

    def recognises(self, path: Path) -> bool:
        """Whether a folder is one of Megatron's, whole or not."""
        return (path / _TRACKER).is_file() or any(map(Path.is_dir, path.glob("mp_rank_[0-9]*")))

    def open(self, path: Path) -> MappedCheckpoint:
        """Opens a folder; ranks may hold unequal parts, as pruning by the original leaves them.

        Raises:
          UserError: anything is missing, damaged or contradictory; the message names file and
            tensor.
        """
        folder = find_iteration(path)
        first = read_torch(_rank_file(folder, 0))
        arguments = first.get("args") if isinstance(first, dict) else None
        if not isinstance(arguments, argparse.Namespace):
            raise UserError(f"{_rank_file(folder, 0)} holds no training arguments (key 'args').")
        ranks = _parallel_size(folder, arguments, "tensor_model_parallel_size")
        if _parallel_size(folder, arguments, "pipeline_model_parallel_size") != 1:
            raise UserError(f"{folder}: pipeline parallelism is not supported; merge to one stage.")
        trees = [first]
        for rank in range(1, ranks):
            trees.append(read_torch(_rank_file(folder, rank)))
        _check_ranks(folder, trees)
        if (folder / f"mp_rank_{ranks:02}").is_dir():
            raise UserError(
                f"{folder} holds mp_rank_{ranks:02}, but its arguments say "
                f"tensor_model_parallel_size {ranks}."
            )
        contents = [_content(_rank_file(folder, rank), tree) for rank, tree in enumerate(trees)]
        family = _recognised(folder, contents[0])
        parts = [
            _weights(_rank_file(folder, rank), content, family)
            for rank, content in enumerate(contents)
        ]
        model = _model(folder, family, arguments, parts)
        entries = expand(family.rows, model.axes)
        tensors = _join(entries, parts, folder)
        check_tensors(entries, model, tensors, (), folder)
        iteration = first.get("iteration", 0)
        step = iteration if isinstance(iteration, int) and iteration > 0 else 0
        return MappedCheckpoint(model, entries, tensors, step=step, carried=vars(arguments))

    def write(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Writes all ranks at once.

        The vocabulary is enlarged to a multiple of the family's times the ranks by repeating its
        last row.

        Args:
          checkpoint: the model.
          folder: an empty folder.

        Raises:
          UserError: Megatron cannot express the model, or the ranks do not divide it.
        """
        ranks, model = self.tensor_parallel, checkpoint.model
        family = _mapping(model.config.family)
        entries = expand(family.rows, model.axes)
        carried = _plain(checkpoint.carried)
        arguments = family.arguments(model.config, carried)
        _check_divides(entries, model, ranks)
        multiple = family.vocabulary_multiple * ranks
        vocab_size = -(-model.axes.sizes[VOCAB] // multiple) * multiple
        iteration = max(checkpoint.step, 1)
        namespace = argparse.Namespace(
            **{
                **carried,
                **arguments,
                "padded_vocab_size": vocab_size,
                "tensor_model_parallel_size": ranks,
                "iteration": iteration,
            }
        )
        (folder / _TRACKER).write_text(str(iteration))
        specs = [_spec(entry, vocab_size, ranks, checkpoint) for entry in entries]
        weight_type = checkpoint.dtype(embedding_leaf(model))
        buffers = {
            TensorSpec(name, values.shape, weight_type): values.astype(weight_type)
            for name, values in family.buffers(model.config).items()
        }
        content = {
            "model": unflatten({spec.name: spec for spec in [*specs, *buffers]}),
            "args": namespace,
            "checkpoint_version": 3.0,
            "iteration": iteration,
        }
        with contextlib.ExitStack() as stack:
            writers = []
            for rank in range(ranks):
                file = _rank_file(folder / f"iter_{iteration:07}", rank)
                file.parent.mkdir(parents=True)
                writers.append(stack.enter_context(TorchWriter(file, content)))
            for entry, spec in zip(entries, specs, strict=True):
                axis = entry.layout.sharded_dim
                if VOCAB in entry.axes:
                    for rank, writer in enumerate(writers):
                        writer.write(spec, _vocabulary_rows(checkpoint, entry, spec, rank))
                    continue
                tensor = read_entry(checkpoint, entry)
                pieces = [tensor] * ranks if axis is None else _cut(entry, tensor, axis, ranks)
                for writer, piece in zip(writers, pieces, strict=True):
                    writer.write(spec, [functools.partial(contiguous, piece)])
            for spec, values in buffers.items():
                for writer in writers:
                    writer.write(spec, [functools.partial(contiguous, values)])


def _mapping(family: str) -> mapping.Megatron:
    found = registry.family(family).megatron
    if found is None:
        raise UserError(f"the family {family} has no Megatron format; write another one.")
    return found


def _recognised(folder: Path, names: Collection[str]) -> mapping.Megatron:
    """The family of a folder, which only its tensors tell.

    Raises:
      UserError: no family has such tensors, or several have.
    """
    able = {each.name: each.megatron for each in registry.families() if each.megatron is not None}
    found = {name: each for name, each in able.items() if each.recognises(names)}
    if len(found) != 1:
        raise UserError(
            f"{folder} holds a model of {' or '.join(found) or 'an unknown family'}; those that "
            f"can be read from Megatron's format: {', '.join(able)}."
        )
    return next(iter(found.values()))


def _cut(entry: Entry, tensor: np.ndarray, axis: int, ranks: int) -> list[np.ndarray]:
    """The parts of all ranks; what is joined in blocks is cut in each of them."""
    blocks = split_axis(tensor, axis, entry.layout.sharded_blocks(len(entry.leaves)))
    shape = [*tensor.shape]
    shape[axis] //= ranks
    return [piece.reshape(shape) for piece in np.split(blocks, ranks, axis + 1)]


def find_iteration(folder: Path) -> Path:
    """The folder with the ranks: `folder` itself, or the iteration that its tracker names.

    Raises:
      UserError: there is none.
    """
    tracker = folder / _TRACKER
    if tracker.is_file():
        text = tracker.read_text(encoding="utf-8", errors="replace").strip()
        if text != "release" and not text.isdecimal():
            raise UserError(f"{tracker} holds {text!r}, which is no iteration.")
        folder = folder / (text if text == "release" else f"iter_{int(text):07}")
    if not any((folder / name).is_dir() for name in ("mp_rank_00", "mp_rank_00_000")):
        raise UserError(f"{folder} holds no mp_rank_00; it is no Megatron checkpoint.")
    return folder


def _check_ranks(folder: Path, trees: Sequence[Any]) -> None:
    """Checks that all ranks are of one save, in the layout and architecture that is known.

    Raises:
      UserError: they are not.
    """
    first = trees[0]
    for rank, tree in enumerate(trees):
        if not isinstance(tree, dict):
            raise UserError(f"{_rank_file(folder, rank)} holds no weights (key 'model').")
        if tree.get("iteration") != first.get("iteration"):
            raise UserError(
                f"{_rank_file(folder, rank)} is of iteration {tree.get('iteration')}, rank 0 of "
                f"{first.get('iteration')}."
            )
    version = first.get("checkpoint_version")
    if version not in (2.0, 3.0):
        raise UserError(
            f"{_rank_file(folder, 0)}: checkpoint_version is {version}, whose order of queries, "
            "keys and values is another; 2.0 and 3.0 are known."
        )


def _rank_file(folder: Path, rank: int) -> Path:
    for name in (f"mp_rank_{rank:02}", f"mp_rank_{rank:02}_000"):
        if (folder / name).is_dir():
            return folder / name / _FILE
    return folder / f"mp_rank_{rank:02}" / _FILE


def _parallel_size(folder: Path, arguments: argparse.Namespace, name: str) -> int:
    """A training argument that counts ranks; 1 where it is missing."""
    value = getattr(arguments, name, 1)
    if type(value) is not int:
        raise UserError(f"{folder}: the training argument {name} is {value!r}.")
    return value


def _content(file: Path, tree: Any) -> dict[str, Any]:
    """What one rank holds, by name."""
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise UserError(f"{file} holds no weights (key 'model').")
    try:
        return flatten(tree["model"])
    except RecursionError as error:
        raise UserError(f"{file} is damaged: a dictionary in it holds itself.") from error


def _weights(
    file: Path, content: Mapping[str, Any], family: mapping.Megatron
) -> dict[str, FileTensor]:
    """The weights of one rank by name; buffers and what is ignored left out."""
    tensors = {}
    for name, value in content.items():
        if family.buffer and name.endswith(family.buffer):
            continue
        if name.partition("/")[0] in family.ignored:
            continue
        if not isinstance(value, FileTensor):
            raise UserError(f"{file}: {name} is no tensor.")
        tensors[name] = value
    return tensors


def _model(
    folder: Path,
    family: mapping.Megatron,
    arguments: argparse.Namespace,
    parts: Sequence[Mapping[str, FileTensor]],
) -> Model:
    """The model that arguments and tensors describe."""
    entries_axes = {row.theirs: Layout.parse(row.layout).sharded_dim for row in family.rows}
    described_first = described(parts[0])
    shapes = dict(described_first.shapes)
    for name, shape in shapes.items():
        axis = entries_axes.get(re.sub(r"layers\.\d+\.", "layers.{n}.", name))
        held = [tensors[name].shape for tensors in parts if name in tensors]
        if axis is not None and all(len(other) > axis for other in held):
            whole = sum(other[axis] for other in held)
            shapes[name] = (*shape[:axis], whole, *shape[axis + 1 :])
    try:
        config = family.read_config(vars(arguments), described_first._replace(shapes=shapes))
    except UserError as error:
        raise UserError(f"{_rank_file(folder, 0)}: {error}") from error
    return registry.model_of(config)


def _join(
    entries: Sequence[Entry], parts: Sequence[Mapping[str, FileTensor]], folder: Path
) -> dict[str, Tensor]:
    """The tensors of all ranks, joined where they are cut."""
    axes = {entry.theirs: entry.layout.sharded_dim for entry in entries}
    blocks = {entry.theirs: entry.layout.sharded_blocks(len(entry.leaves)) for entry in entries}
    joined: dict[str, Tensor] = {}
    for name, tensor in parts[0].items():
        axis = axes.get(name)
        if len(parts) == 1:
            joined[name] = tensor
            continue
        for rank, tensors in enumerate(parts):
            other = tensors.get(name)
            if other is None:
                raise UserError(f"{_rank_file(folder, rank)}: tensor {name} is missing.")
            if axis is None:
                if name in axes and not equal_tensors(other, tensor):
                    raise UserError(
                        f"{other.file}: tensor {name}, which every rank should hold whole, differs "
                        "from that of rank 0."
                    )
                continue
            if len(tensor.shape) <= axis or _rest(other, axis) != _rest(tensor, axis):
                raise UserError(
                    f"{other.file}: tensor {name} is {other.dtype}{list(other.shape)}, which does "
                    f"not fit {tensor.dtype}{list(tensor.shape)} on rank 0."
                )
        if axis is None:
            joined[name] = tensor
            continue
        for tensors in parts:
            if (size := tensors[name].shape[axis]) % blocks[name]:
                raise UserError(
                    f"{tensors[name].file}: tensor {name} has {size} rows, which cannot be "
                    f"{blocks[name]} equal parts."
                )
        joined[name] = JoinedTensor(tuple(tensors[name] for tensors in parts), axis, blocks[name])
    for rank, tensors in enumerate(parts):
        extra = [name for name in tensors if name not in parts[0]]
        if extra:
            raise UserError(f"{_rank_file(folder, rank)}: tensor {extra[0]} is not on rank 0.")
    return joined


def _rest(tensor: Tensor, axis: int) -> tuple[object, ...]:
    return (tensor.dtype, *tensor.shape[:axis], *tensor.shape[axis + 1 :])


def _check_divides(entries: Sequence[Entry], model: Model, ranks: int) -> None:
    """Checks that every tensor that is cut can be cut into equal parts.

    Raises:
      UserError: one cannot.
    """
    for entry in entries:
        for axis in sorted((SHARDED_AXES - {VOCAB}) & set(entry.axes)):
            size = model.axes.sizes_at(entry.leaves[0].path)[axis]
            if ranks < 1 or size % ranks:
                raise UserError(
                    f"tensor_parallel {ranks} does not divide {axis} {size}, along which tensors "
                    f"such as {entry.theirs} are cut."
                )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments that are plain data."""
    kinds = (type(None), bool, int, float, str, TorchDtype)

    def is_plain(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(is_plain(item) for item in value)
        return isinstance(value, kinds)

    return {name: value for name, value in values.items() if is_plain(value)}


def _spec(entry: Entry, vocab_size: int, ranks: int, checkpoint: Checkpoint) -> TensorSpec:
    """The part of a tensor that one rank holds."""
    sizes = {**checkpoint.model.axes.sizes_at(entry.leaves[0].path), VOCAB: vocab_size}
    shape = list(entry.layout.shape(sizes, len(entry.leaves)))
    axis = entry.layout.sharded_dim
    if axis is not None:
        shape[axis] //= ranks
    return TensorSpec(entry.theirs, tuple(shape), entry_dtype(checkpoint, entry))


def _vocabulary_rows(
    checkpoint: Checkpoint, entry: Entry, spec: TensorSpec, rank: int
) -> Iterator[Read]:
    """Reads of the rows of one rank; beyond the end the last row is repeated."""
    count = checkpoint.model.axes.sizes[VOCAB]
    start = rank * spec.shape[0]
    row_bytes = spec.dtype.itemsize * math.prod(spec.shape[1:])
    for rows in row_slices(spec.shape[0], row_bytes):
        first, stop = start + rows.start, start + rows.stop
        real = slice(min(first, count), min(stop, count))
        if real.start < real.stop:
            yield functools.partial(read_entry, checkpoint, entry, real)
        missing = (stop - first) - (real.stop - real.start)
        if missing:
            yield functools.partial(_last_row, checkpoint, entry, missing)


def _last_row(checkpoint: Checkpoint, entry: Entry, times: int) -> np.ndarray:
    count = checkpoint.model.axes.sizes[VOCAB]
    return np.repeat(read_entry(checkpoint, entry, slice(count - 1, count)), times, axis=0)
