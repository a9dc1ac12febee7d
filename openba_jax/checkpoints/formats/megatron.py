"""Megatron folders of any tensor-parallel size: read, and written (reference §5.7, §6.6).

A folder holds `mp_rank_XX/model_optim_rng.pt`, one file per rank. Reading one size and writing
another is the counterpart of the original's split tool. Which axis a tensor is cut along follows
from its layout: the dimension that holds `vocab`, `heads` or `mlp`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openba_jax.checkpoints.files.tensors import (
    FileTensor,
    JoinedTensor,
    Read,
    Tensor,
    equal_tensors,
    row_slices,
)
from openba_jax.checkpoints.files.torch_reader import TorchDtype, read_torch
from openba_jax.checkpoints.files.torch_writer import TensorSpec, TorchWriter
from openba_jax.checkpoints.formats.huggingface import (
    check_constants,
    ffn_hidden_size,
    rule_of_width,
)
from openba_jax.checkpoints.layout import contiguous
from openba_jax.checkpoints.mapping import (
    MEGATRON,
    Entry,
    Leaf,
    Parameters,
    expand,
    flatten,
    unflatten,
)
from openba_jax.checkpoints.streaming import (
    MappedSource,
    Source,
    check_tensors,
    entry_dtype,
    model_config,
    read_entry,
    weight_type,
)
from openba_jax.errors import UserError
from openba_jax.models.openba.config import VOCABULARY_MULTIPLE, OpenBAConfig

_FILE = "model_optim_rng.pt"
_TRACKER = "latest_checkpointed_iteration.txt"
_EMBEDDING = "language_model/embedding/word_embeddings/weight"
_FREQUENCIES = "self_attention.rotary_embed.inv_freq"


class MegatronSource(MappedSource):
    """A Megatron checkpoint; `arguments` are those with which it was trained."""

    arguments: argparse.Namespace = argparse.Namespace()


def is_megatron(folder: Path) -> bool:
    """Whether a folder is one of Megatron's, whole or not."""
    return (folder / _TRACKER).is_file() or any(map(Path.is_dir, folder.glob("mp_rank_[0-9]*")))


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


def open_megatron(folder: Path) -> MegatronSource:
    """Opens a Megatron checkpoint; ranks may hold unequal parts, as pruning leaves them (§6.3).

    Raises:
      UserError: anything is missing, damaged or contradictory; the message names file and tensor.
    """
    folder = find_iteration(folder)
    first = read_torch(_rank_file(folder, 0))
    arguments = first.get("args") if isinstance(first, dict) else None
    if not isinstance(arguments, argparse.Namespace):
        raise UserError(f"{_rank_file(folder, 0)} holds no training arguments (key 'args').")
    ranks = _argument(folder, arguments, "tensor_model_parallel_size", int, 1)
    if _argument(folder, arguments, "pipeline_model_parallel_size", int, 1) != 1:
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
    parts = [_model_tensors(_rank_file(folder, rank), tree) for rank, tree in enumerate(trees)]
    config = _config(folder, arguments, parts)
    parameters = Parameters(config)
    entries = expand(MEGATRON, parameters)
    tensors = _join(entries, parts, folder)
    check_tensors(entries, parameters, tensors, (), folder)
    source = MegatronSource(config, entries, tensors)
    source.arguments = arguments
    iteration = first.get("iteration", 0)
    source.step = iteration if isinstance(iteration, int) and iteration > 0 else 0
    return source


def write_megatron(
    source: Source,
    folder: Path,
    *,
    tensor_parallel: int = 1,
    arguments: argparse.Namespace | None = None,
) -> None:
    """Writes a Megatron checkpoint, all ranks at once.

    The vocabulary is enlarged to a multiple of 128 times the ranks by repeating its last row.

    Args:
      source: the model.
      folder: an empty folder.
      tensor_parallel: number of ranks.
      arguments: arguments to carry over; sizes are corrected.

    Raises:
      UserError: Megatron cannot express the model, or the ranks do not divide it.
    """
    config = source.config
    _check_expressible(config, tensor_parallel)
    entries = expand(MEGATRON, source.parameters)
    multiple = VOCABULARY_MULTIPLE * tensor_parallel
    vocab_size = -(-config.vocab_size // multiple) * multiple
    iteration = max(source.step, 1)
    carried = {} if arguments is None else _plain(vars(arguments))
    namespace = argparse.Namespace(
        **{
            **carried,
            **_arguments(config, carried.get("ffn_hidden_size")),
            "padded_vocab_size": vocab_size,
            "tensor_model_parallel_size": tensor_parallel,
            "iteration": iteration,
        }
    )
    (folder / _TRACKER).write_text(str(iteration))
    sizes = {**source.parameters.sizes, "vocab": vocab_size}
    specs = [_spec(entry, sizes, tensor_parallel, source) for entry in entries]
    buffers = _frequencies(source)
    everything = [*specs, *(spec for spec, _ in buffers)]
    content = {
        "model": unflatten({spec.name: spec for spec in everything}),
        "args": namespace,
        "checkpoint_version": 3.0,
        "iteration": iteration,
    }
    with contextlib.ExitStack() as stack:
        writers = []
        for rank in range(tensor_parallel):
            file = _rank_file(folder / f"iter_{iteration:07}", rank)
            file.parent.mkdir(parents=True)
            writers.append(stack.enter_context(TorchWriter(file, content)))
        for entry, spec in zip(entries, specs, strict=True):
            axis = entry.layout.sharded_dim
            if "vocab" in entry.axes:
                for rank, writer in enumerate(writers):
                    writer.write(spec, _vocabulary_rows(source, entry, spec, rank))
                continue
            tensor = read_entry(source, entry)
            pieces = [tensor] * tensor_parallel
            if axis is not None:
                pieces = np.split(tensor, tensor_parallel, axis)
            for writer, piece in zip(writers, pieces, strict=True):
                writer.write(spec, [functools.partial(contiguous, piece)])
        for spec, values in buffers:
            for writer in writers:
                writer.write(spec, [functools.partial(contiguous, values)])


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
    for name, known in (("mlp_type", "SwiGLU"), ("pos_emb_type", "rotary")):
        value = getattr(first["args"], name, known)
        if value != known:
            raise UserError(f"{folder}: the training argument {name} is {value!r}, not {known!r}.")


def _rank_file(folder: Path, rank: int) -> Path:
    for name in (f"mp_rank_{rank:02}", f"mp_rank_{rank:02}_000"):
        if (folder / name).is_dir():
            return folder / name / _FILE
    return folder / f"mp_rank_{rank:02}" / _FILE


def _argument(
    folder: Path, arguments: argparse.Namespace, name: str, kind: type, default: Any = None
) -> Any:
    value = getattr(arguments, name, default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"{folder}: the training argument {name} is {value!r}.")
    return value


def _model_tensors(file: Path, tree: Any) -> dict[str, FileTensor]:
    """The weights of one rank by name; buffers left out."""
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise UserError(f"{file} holds no weights (key 'model').")
    try:
        flat = flatten(tree["model"])
    except RecursionError as error:
        raise UserError(f"{file} is damaged: a dictionary in it holds itself.") from error
    tensors = {}
    for name, value in flat.items():
        if name.endswith(_FREQUENCIES):
            continue
        if not isinstance(value, FileTensor):
            raise UserError(f"{file}: {name} is no tensor.")
        tensors[name] = value
    return tensors


def _config(
    folder: Path, arguments: argparse.Namespace, parts: Sequence[Mapping[str, Tensor]]
) -> OpenBAConfig:
    def number(name: str) -> int:
        return _argument(folder, arguments, name, int)

    wide = "language_model/encoder/layers.0.mlp.w1.weight"
    for name in (_EMBEDDING, wide):
        for rank, tensors in enumerate(parts):
            if name not in tensors:
                raise UserError(f"{_rank_file(folder, rank)}: tensor {name} is missing.")
    width = sum(sum(tensors[wide].shape[:1]) for tensors in parts)
    rule = rule_of_width(width, number("ffn_hidden_size"), folder)
    dtype = weight_type(_EMBEDDING, parts[0][_EMBEDDING])
    names = parts[0]
    decoder_layers = getattr(arguments, "decoder_num_layers", None) or number("num_layers")
    return model_config(
        _rank_file(folder, 0),
        vocab_size=number("padded_vocab_size"),
        embed_dim=number("hidden_size"),
        num_heads=number("num_attention_heads"),
        head_dim=number("kv_channels"),
        mlp_dim=width,
        encoder_layers=getattr(arguments, "encoder_num_layers", None) or number("num_layers"),
        decoder_layers=decoder_layers,
        qkv_bias="language_model/encoder/layers.0.self_attention.dense.bias" in names,
        mlp_bias="language_model/encoder/layers.0.mlp.w1.bias" in names,
        logits_bias="lm_head/bias" in names,
        dropout_rate=_argument(folder, arguments, "hidden_dropout", float, 0.1),
        attention_dropout_rate=_argument(folder, arguments, "attention_dropout", float, 0.1),
        layer_norm_epsilon=_argument(folder, arguments, "layernorm_epsilon", float, 1e-5),
        initializer_std=_argument(folder, arguments, "init_method_std", float, 0.02),
        max_encoder_length=_argument(folder, arguments, "encoder_seq_length", int, 1024),
        max_decoder_length=_argument(folder, arguments, "decoder_seq_length", int, 1024),
        dtype=dtype,
        param_dtype=dtype,
        ffn_rule=rule,
    )


def _join(
    entries: Sequence[Entry], parts: Sequence[Mapping[str, FileTensor]], folder: Path
) -> dict[str, Tensor]:
    """The tensors of all ranks, joined where they are cut."""
    axes = {entry.theirs: entry.layout.sharded_dim for entry in entries}
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
        joined[name] = JoinedTensor(tuple(tensors[name] for tensors in parts), axis)
    for rank, tensors in enumerate(parts):
        extra = [name for name in tensors if name not in parts[0]]
        if extra:
            raise UserError(f"{_rank_file(folder, rank)}: tensor {extra[0]} is not on rank 0.")
    return joined


def _rest(tensor: Tensor, axis: int) -> tuple[object, ...]:
    return (tensor.dtype, *tensor.shape[:axis], *tensor.shape[axis + 1 :])


def _check_expressible(config: OpenBAConfig, tensor_parallel: int) -> None:
    check_constants(config, ("rope_theta",), "Megatron's OpenBA")
    if not config.tie_embeddings:
        raise UserError(
            "logits_dense/kernel differs from the embedding, and Megatron has no place for it: its "
            "logits always use the embedding."
        )
    if config.scale_tied_logits:
        raise UserError(
            "The model scales its logits by embed_dim ** -0.5 (tie_word_embeddings of Hugging "
            "Face), which Megatron does not do."
        )
    if not config.logits_bias or not config.qkv_bias:
        raise UserError("Megatron's model has biases on attention and logits; this one has none.")
    for name, size, tensor in (
        ("num_heads", config.num_heads, "self_attention.query_key_value.weight"),
        ("mlp_dim", config.mlp_dim, "mlp.w1.weight"),
    ):
        if tensor_parallel < 1 or size % tensor_parallel:
            raise UserError(
                f"tensor_parallel {tensor_parallel} does not divide {name} {size}, along which "
                f"tensors such as {tensor} are cut."
            )


def _arguments(config: OpenBAConfig, known: int | None) -> dict[str, Any]:
    return {
        "hidden_size": config.embed_dim,
        "kv_channels": config.head_dim,
        "ffn_hidden_size": ffn_hidden_size(config, known),
        "num_layers": config.encoder_layers,
        "encoder_num_layers": config.encoder_layers,
        "decoder_num_layers": config.decoder_layers,
        "hidden_dropout": config.dropout_rate,
        "attention_dropout": config.attention_dropout_rate,
        "num_attention_heads": config.num_heads,
        "encoder_seq_length": config.max_encoder_length,
        "decoder_seq_length": config.max_decoder_length,
        "pipeline_model_parallel_size": 1,
        "layernorm_epsilon": config.layer_norm_epsilon,
        "init_method_std": config.initializer_std,
        "mlp_type": "SwiGLU",
        "pos_emb_type": "rotary",
        "make_vocab_size_divisible_by": VOCABULARY_MULTIPLE,
        "vocab_extra_ids": 100,
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments that are plain data."""
    kinds = (type(None), bool, int, float, str, TorchDtype)

    def is_plain(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(is_plain(item) for item in value)
        return isinstance(value, kinds)

    return {name: value for name, value in values.items() if is_plain(value)}


def _spec(entry: Entry, sizes: Mapping[str, int], ranks: int, source: Source) -> TensorSpec:
    """The part of a tensor that one rank holds."""
    shape = list(entry.layout.shape(sizes, len(entry.leaves)))
    axis = entry.layout.sharded_dim
    if axis is not None:
        shape[axis] //= ranks
    return TensorSpec(entry.theirs, tuple(shape), entry_dtype(source, entry))


def _vocabulary_rows(source: Source, entry: Entry, spec: TensorSpec, rank: int) -> Iterator[Read]:
    """Reads of the rows of one rank; beyond the end the last row is repeated."""
    count = source.config.vocab_size
    start = rank * spec.shape[0]
    row_bytes = spec.dtype.itemsize * math.prod(spec.shape[1:])
    for rows in row_slices(spec.shape[0], row_bytes):
        first, stop = start + rows.start, start + rows.stop
        real = slice(min(first, count), min(stop, count))
        if real.start < real.stop:
            yield functools.partial(read_entry, source, entry, real)
        missing = (stop - first) - (real.stop - real.start)
        if missing:
            yield functools.partial(_last_row, source, entry, missing)


def _last_row(source: Source, entry: Entry, times: int) -> np.ndarray:
    count = source.config.vocab_size
    return np.repeat(read_entry(source, entry, slice(count - 1, count)), times, axis=0)


def _frequencies(source: Source) -> list[tuple[TensorSpec, np.ndarray]]:
    """The rotary buffer of every layer, which Megatron keeps beside the weights (§1.5)."""
    config = source.config
    dtype = source.dtype(Leaf("encoder/layers/mlp/wo/kernel", 0))
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    values = (np.float32(1) / np.float32(config.rope_theta) ** exponents).astype(dtype)
    return [
        (
            TensorSpec(
                f"language_model/{stack}/layers.{n}.{_FREQUENCIES}", values.shape, values.dtype
            ),
            values,
        )
        for stack, depth in source.parameters.depth.items()
        for n in range(depth)
    ]
