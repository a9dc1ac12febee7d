"""Hugging Face folders, of every family that says what its tensors are called there."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from absl import logging

from openba_jax.checkpoints.checkpoint import Checkpoint, embedding_leaf
from openba_jax.checkpoints.files.safetensors_file import read_safetensors, write_safetensors
from openba_jax.checkpoints.files.tensors import FileTensor, Read
from openba_jax.checkpoints.files.tokenizer_writer import write_json
from openba_jax.checkpoints.files.torch_reader import read_torch
from openba_jax.checkpoints.files.torch_writer import TensorSpec, TorchWriter
from openba_jax.checkpoints.mapped import MappedCheckpoint, check_tensors, described
from openba_jax.checkpoints.mapping import Entry, entry_dtype, entry_reads, expand
from openba_jax.checkpoints.tokenizer_files import find_tokenizer, write_tokenizer
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.errors import UserError
from openba_jax.files import reject_lfs_pointer
from openba_jax.models import mapping, registry

WeightFormat = Literal["safetensors", "torch"]

DEFAULT_SHARD_BYTES = 10 * 10**9
_STEMS: dict[WeightFormat, tuple[str, str]] = {
    "safetensors": ("model", "safetensors"),
    "torch": ("pytorch_model", "bin"),
}


@dataclasses.dataclass(frozen=True)
class HuggingFace:
    """The format of `transformers`.

    Attributes:
      weight_format: what is written: safetensors or `torch.save`.
      max_shard_bytes: largest size of a file of weights; a larger tensor has a file of its own.
    """

    weight_format: WeightFormat = "safetensors"
    max_shard_bytes: int = DEFAULT_SHARD_BYTES

    name = "huggingface"
    description = "Hugging Face folder (config.json with model_type)"

    def recognises(self, path: Path) -> bool:
        """Whether `path` has a `config.json` with `model_type`, and not one of this package."""
        config = path / "config.json"
        if not config.is_file():
            return False
        fields = read_json(config)
        return "model_type" in fields and "family" not in fields

    def open(self, path: Path) -> MappedCheckpoint:
        """Opens a folder with `config.json` and weights, in one file or in shards.

        Raises:
          UserError: anything is missing, damaged or contradictory, or the family is unknown; the
            message names file and tensor.
        """
        file = path / "config.json"
        fields = read_json(file)
        family = _family(fields.get("model_type"), file)
        tensors = _read_tensors(path)
        _reject_wrappers(tensors)
        description = described(tensors)
        try:
            config = family.read_config(fields, description)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        model = registry.model_of(config)
        entries = expand(family.rows, model.axes)
        copies = family.copies(config)
        constants = {name for name in tensors if re.fullmatch(family.buffers, name)}
        check_tensors(entries, model, tensors, constants | copies.keys(), path)
        for name, original in copies.items():
            if name not in tensors:
                continue
            if original is None:
                logging.warning(
                    "%s: tensor %s is left out; transformers does not read it either.",
                    tensors[name].file,
                    name,
                )
            elif not description.equal(name, original):
                raise UserError(
                    f"{tensors[name].file}: tensor {name} should be a copy of {original} and is "
                    "not."
                )
        return MappedCheckpoint(model, entries, tensors, find_tokenizer(path, family.tokenizer))

    def write(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Writes a folder that the family's own modelling code loads.

        Args:
          checkpoint: the model.
          folder: an empty folder.

        Raises:
          UserError: the format cannot express the model.
        """
        model = checkpoint.model
        family = registry.family(model.config.family).huggingface
        if family is None:
            raise UserError(
                f"the family {model.config.family} has no Hugging Face format; write another one."
            )
        weight_type = checkpoint.dtype(embedding_leaf(model)).name
        fields = family.config_fields(model.config, weight_type)
        entries = _with_copies(expand(family.rows, model.axes), family.written_copies(model.config))
        specs = [
            TensorSpec(entry.theirs, entry.shape(model.axes), entry_dtype(checkpoint, entry))
            for entry in entries
        ]
        generation = family.generation_fields(model.config)
        if checkpoint.tokenizer is not None:
            vocabulary = open_vocabulary(checkpoint.tokenizer)
            ids = {"bos_token_id": vocabulary.bos_id, "eos_token_id": vocabulary.eos_id}
            ids = {name: i for name, i in ids.items() if i is not None}
            fields, generation = {**fields, **ids}, {**generation, **ids}
            if len(vocabulary.stop_ids) > 1:
                generation["eos_token_id"] = list(vocabulary.stop_ids)
            config = model.config
            if vocabulary.kind == "openba" != family.tokenizer:
                logging.warning(
                    "transformers has no class for the tokenizer of this %s, which is OpenBA's: it "
                    "needs OpenBA's tokenization_openba.py in the folder.",
                    config.family,
                )
            write_tokenizer(checkpoint.tokenizer, folder, config.vocab_size, config.lengths[0])
        write_json(folder / "config.json", fields)
        write_json(folder / "generation_config.json", generation)
        by_name = {entry.theirs: entry for entry in entries}
        self._write_weights(folder, specs, lambda name: entry_reads(checkpoint, by_name[name]))

    def _write_weights(
        self, folder: Path, specs: list[TensorSpec], reads: Callable[[str], Iterable[Read]]
    ) -> None:
        stem, suffix = _STEMS[self.weight_format]
        shards = _shards(specs, self.max_shard_bytes)
        weight_map = {}
        for number, shard in enumerate(shards, start=1):
            file = f"{stem}.{suffix}"
            if len(shards) > 1:
                file = f"{stem}-{number:05}-of-{len(shards):05}.{suffix}"
            weight_map.update({spec.name: file for spec in shard})
            if self.weight_format == "safetensors":
                plan = {spec.name: (spec.shape, spec.dtype) for spec in shard}
                write_safetensors(folder / file, plan, reads)
            else:
                with TorchWriter(folder / file, {spec.name: spec for spec in shard}) as writer:
                    for spec in shard:
                        writer.write(spec, reads(spec.name))
        if len(shards) > 1:
            total = sum(_size(spec) for spec in specs)
            write_json(
                folder / f"{stem}.{suffix}.index.json",
                {"metadata": {"total_size": total}, "weight_map": weight_map},
            )


def _family(model_type: object, file: Path) -> mapping.HuggingFace:
    """The mapping of the family that has this `model_type`."""
    known: dict[str, mapping.HuggingFace] = {}
    refused: dict[str, str] = {}
    for family in registry.families():
        if family.huggingface is not None:
            known |= dict.fromkeys(family.huggingface.model_types, family.huggingface)
            refused |= family.huggingface.refused
    if model_type in refused:
        raise UserError(f"{file}: model_type is {model_type!r}. {refused[str(model_type)]}")
    if model_type not in known:
        names = ", ".join(map(repr, known))
        raise UserError(f"{file}: model_type is {model_type!r}; those that can be read: {names}.")
    return known[str(model_type)]


def _with_copies(entries: list[Entry], copies: Mapping[str, str]) -> list[Entry]:
    """The entries, and behind the last matrix of the vocabulary those that copy others."""
    by_name = {entry.theirs: entry for entry in entries}
    made = [dataclasses.replace(by_name[of], theirs=name) for name, of in copies.items()]
    head = [entry for entry in entries if "logits_dense/" in entry.leaves[0].path]
    return [*(entry for entry in entries if entry not in head), *made, *head]


def _reject_wrappers(tensors: Mapping[str, FileTensor]) -> None:
    """Checks that the tensors are those of the model itself.

    Raises:
      UserError: `torch.compile` or a data-parallel wrapper has put its prefix before their names.
    """
    for prefix, wrapper in _WRAPPERS.items():
        for name in tensors:
            if name.startswith(prefix):
                raise UserError(
                    f"{tensors[name].file}: tensor {name} begins with {prefix}, as {wrapper} names "
                    f"it; save the model inside, {prefix.removesuffix('.')}, instead."
                )


_WRAPPERS = {"_orig_mod.": "torch.compile", "module.": "DataParallel"}


def _size(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * spec.dtype.itemsize


def _shards(specs: Iterable[TensorSpec], max_bytes: int) -> list[list[TensorSpec]]:
    """Cuts the tensors, in order, into files of at most `max_bytes`."""
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in specs:
        if shards[-1] and filled + _size(spec) > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += _size(spec)
    return shards


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
      UserError: the file is missing, a pointer of Git LFS, or holds none.
    """
    reject_lfs_pointer(file)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} is no JSON object.")
    return value


def _read_file(file: Path) -> Mapping[str, FileTensor]:
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    content = read_torch(file)
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no dictionary of tensors.")
    for name, value in content.items():
        if not isinstance(value, FileTensor):
            raise UserError(f"{file}: {name} is no tensor.")
    return content


def _read_tensors(folder: Path) -> dict[str, FileTensor]:
    for stem, suffix in _STEMS.values():
        single, index = folder / f"{stem}.{suffix}", folder / f"{stem}.{suffix}.index.json"
        if single.is_file():  # In the order in which Hugging Face looks for them.
            return dict(_read_file(single))
        if index.is_file():
            return _read_shards(index)
    raise UserError(
        f"{folder} holds no weights: no model.safetensors, no pytorch_model.bin, and no index of "
        "shards."
    )


def _read_shards(index: Path) -> dict[str, FileTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(shard, str) for shard in weight_map.values()
    ):
        raise UserError(f"{index} has no weight_map of tensors to files.")
    tensors: dict[str, FileTensor] = {}
    for shard in sorted(set(weight_map.values())):
        file = index.parent / shard
        if Path(shard).name != shard:
            raise UserError(f"{index} names {shard}, which is no file of its folder.")
        if not file.is_file():
            name = next(name for name, other in weight_map.items() if other == shard)
            raise UserError(f"{file} is missing; {index.name} says that it holds {name}.")
        held = _read_file(file)
        for name, tensor in held.items():
            if weight_map.get(name) != shard:
                raise UserError(f"{file}: tensor {name} is not in {index.name}.")
            tensors[name] = tensor
    for name, shard in weight_map.items():
        if name not in tensors:
            raise UserError(f"{index} says that {shard} holds tensor {name}, which is not there.")
    return tensors
