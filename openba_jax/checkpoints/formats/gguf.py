"""GGUF files, by way of Hugging Face's names and layouts.

A file is read as float32, whatever its quantisation. What is written is F32, F16 or Q8_0.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from openba_jax.checkpoints.checkpoint import Checkpoint
from openba_jax.checkpoints.files.gguf_file import (
    MAGIC,
    GgufTensor,
    QuantType,
    interleaved,
    names_of,
    read_gguf,
    stored_type,
    write_gguf,
)
from openba_jax.checkpoints.mapped import MappedCheckpoint, check_tensors, described
from openba_jax.checkpoints.mapping import expand, read_entry
from openba_jax.data.vocabularies.gguf import gguf_fields, tokenizer_of_gguf
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.errors import UserError
from openba_jax.models import registry
from openba_jax.models.config import ModelConfig
from openba_jax.models.mapping import HuggingFace

FILE = "model.gguf"
"""The file of a folder that is written."""

_FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7}
_EMBEDDING = "token_embd.weight"
_SUFFIXES = (".weight", ".bias")


@dataclasses.dataclass
class GgufCheckpoint(MappedCheckpoint):
    """A `Checkpoint` over a GGUF file.

    Attributes:
      work: holds the tokenizer, which the file has in parts.
    """

    work: Any = None


@dataclasses.dataclass(frozen=True)
class Gguf:
    """The format of llama.cpp.

    Attributes:
      quant_type: in which matrices are written.
    """

    quant_type: QuantType = "F16"

    name = "gguf"
    description = "GGUF file, or folder with one"

    def recognises(self, path: Path) -> bool:
        """Whether `path` is a GGUF file, or a folder that holds one and no `config.json`."""
        if path.is_dir():
            return not (path / "config.json").exists() and len(list(path.glob("*.gguf"))) > 0
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC

    def open(self, path: Path) -> GgufCheckpoint:
        """Opens a file, or the only one of a folder.

        Raises:
          UserError: it is damaged, one of several parts, of no known family, or of a variant that
            the family does not have.
        """
        file = _the_file(path)
        metadata, found = read_gguf(file)
        if metadata.get("split.count", 1) > 1:
            raise UserError(
                f"{file} is one of {metadata['split.count']} parts; join them with llama.cpp's "
                "gguf-split --merge."
            )
        family = _family(metadata.get("general.architecture"), file)
        assert family.gguf is not None
        assert family.huggingface is not None
        there = family.gguf
        constants = {name: found.pop(name).read() for name in there.constants if name in found}
        architecture = str(metadata["general.architecture"])
        try:
            depth = _depth(metadata, architecture)
            theirs = _by_their_names(found, family.huggingface, architecture, depth)
            fields = there.fields(metadata, constants, theirs.keys())
            fields["vocab_size"] = found[_EMBEDDING].shape[0]
            config = family.huggingface.read_config(fields, described(theirs))
        except KeyError as error:
            raise UserError(f"{file} lacks {error.args[0]}.") from error
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
        except (ArithmeticError, TypeError, ValueError) as error:
            raise UserError(f"{file} has metadata of a wrong type or value: {error}.") from error
        model = registry.model_of(config)
        entries = expand(family.huggingface.rows, model.axes)
        copies = family.huggingface.copies(config)
        used = theirs.keys() & {*(entry.theirs for entry in entries), *copies}
        # Two of their names may be one here: what the model uses under neither is superfluous.
        known = {theirs[name].name for name in used}
        others = {name: tensor for name, tensor in found.items() if name not in known}
        tensors = {
            name: dataclasses.replace(tensor, heads=there.interleaved_heads(name, config))
            for name, tensor in theirs.items()
            if name in used
        }
        check_tensors(entries, model, {**tensors, **others}, copies, file)
        checkpoint = GgufCheckpoint(model, entries, tensors, None)
        if metadata.get("tokenizer.ggml.model", "none") == "none":
            logging.warning("%s has no tokenizer, so the model is read without one.", file)
            return checkpoint
        checkpoint.work = tempfile.TemporaryDirectory(prefix="openba_gguf_")
        try:
            checkpoint.tokenizer = tokenizer_of_gguf(metadata, Path(checkpoint.work.name))
            open_vocabulary(checkpoint.tokenizer)  # Lists may be whole, and make no tokenizer.
        except UserError as error:
            raise UserError(f"{file}, tokenizer: {error}") from error
        return checkpoint

    def write(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Writes `model.gguf`.

        Args:
          checkpoint: the model.
          folder: an empty folder.

        Raises:
          UserError: llama.cpp has no such network, the checkpoint has no tokenizer, or GGUF has no
            name for it.
        """
        model = checkpoint.model
        family = registry.family(model.config.family)
        if family.gguf is None or family.huggingface is None:
            raise UserError(f"the family {family.name} has no GGUF format; write another one.")
        metadata = family.gguf.metadata(model.config)
        if checkpoint.tokenizer is None:
            raise UserError(
                "a GGUF file holds its tokenizer, and the checkpoint has none; give one with "
                "--tokenizer."
            )
        metadata |= _tokenizer_fields(checkpoint.tokenizer, model.config)
        metadata["general.name"] = f"openba_jax {family.name}"
        metadata["general.file_type"] = _FILE_TYPES[self.quant_type]
        metadata["general.quantization_version"] = 2
        architecture = metadata["general.architecture"]
        depth = _depth(metadata, architecture)
        entries = {
            _name(entry.theirs, architecture, depth): entry
            for entry in expand(family.huggingface.rows, model.axes)
        }
        constants = family.gguf.written_constants(model.config)
        shapes = {name: entry.shape(model.axes) for name, entry in entries.items()}
        plan = {name: (array.shape, "F32") for name, array in constants.items()}
        plan |= {
            name: (shape, stored_type(shape, self.quant_type)) for name, shape in shapes.items()
        }

        def read(name: str) -> np.ndarray:
            if name in constants:
                return np.asarray(constants[name])
            entry = entries[name]
            array = read_entry(checkpoint, entry).astype(np.float32)
            assert family.gguf is not None
            array = array * np.float32(family.gguf.factor(entry.theirs, model.config))
            heads = family.gguf.interleaved_heads(entry.theirs, model.config)
            return interleaved(array, heads) if heads else array

        write_gguf(folder / FILE, metadata, plan, read)


def _the_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise UserError(f"{path} holds {len(files)} GGUF files; name one of them, {files[0].name}.")
    return files[0]


def _family(architecture: object, file: Path) -> registry.Family:
    known = {
        name: family
        for family in registry.families()
        if family.gguf is not None
        for name in family.gguf.architectures
    }
    if architecture not in known:
        raise UserError(
            f"{file}: general.architecture is {architecture!r}; those that can be read: "
            f"{', '.join(map(repr, known))}."
        )
    return known[str(architecture)]


def _depth(metadata: Mapping[str, Any], architecture: str) -> int:
    """Layers of the deepest stack: names are known up to there."""
    layers = int(metadata[f"{architecture}.block_count"])
    return max(layers, int(metadata.get(f"{architecture}.decoder_block_count", 0)))


def _by_their_names(
    found: Mapping[str, GgufTensor], family: HuggingFace, architecture: str, depth: int
) -> dict[str, GgufTensor]:
    """The tensors under the names that they have in Hugging Face's format."""
    theirs = dict.fromkeys(
        row.theirs.format(n=number) for row in family.rows for number in range(depth)
    )
    names = {name: names_of(architecture, depth).get_name(name, _SUFFIXES) for name in theirs}
    return {name: found[there] for name, there in names.items() if there in found}


def _name(theirs: str, architecture: str, depth: int) -> str:
    """GGUF's name of a tensor, from Hugging Face's."""
    name = names_of(architecture, depth).get_name(theirs, _SUFFIXES)
    if name is None:
        raise UserError(f"GGUF's {architecture} has no tensor for {theirs}; write another format.")
    return str(name)


def _tokenizer_fields(tokenizer: Path, config: ModelConfig) -> dict[str, Any]:
    """The lists of a tokenizer, as long as the embedding has rows."""
    fields = gguf_fields(open_vocabulary(tokenizer))
    tokens = fields["tokenizer.ggml.tokens"]
    more = config.vocab_size - len(tokens)
    fields["tokenizer.ggml.tokens"] = tokens + [f"[PAD{len(tokens) + i}]" for i in range(more)]
    fields["tokenizer.ggml.token_type"] = fields["tokenizer.ggml.token_type"] + [5] * more
    if "tokenizer.ggml.scores" in fields:
        fields["tokenizer.ggml.scores"] = fields["tokenizer.ggml.scores"] + [-1000.0] * more
    if charsmap := fields.pop("tokenizer.ggml.precompiled_charsmap", None):
        fields["tokenizer.ggml.precompiled_charsmap"] = bytes(charsmap)
    return fields
