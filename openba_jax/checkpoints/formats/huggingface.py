"""OpenBA folders of Hugging Face, v1 and v2: read, and written.

v1 and v2 differ in one number: `ffn_hidden_size` in `config.json` is the width of the feed-forward
layer in v2, and in v1 goes through a rule first (reference §1.6). The tensors are the same.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from openba_jax.checkpoints.files.safetensors_file import read_safetensors, write_safetensors
from openba_jax.checkpoints.files.tensors import FileTensor, Read, equal_tensors
from openba_jax.checkpoints.files.torch_reader import read_torch
from openba_jax.checkpoints.files.torch_writer import TensorSpec, TorchWriter
from openba_jax.checkpoints.layout import Layout
from openba_jax.checkpoints.mapping import HUGGING_FACE, Entry, Leaf, Parameters, expand
from openba_jax.checkpoints.streaming import (
    MappedSource,
    Source,
    check_tensors,
    entry_dtype,
    entry_reads,
    model_config,
    weight_type,
)
from openba_jax.checkpoints.tokenizer_files import find_tokenizer, write_json, write_tokenizer
from openba_jax.errors import UserError
from openba_jax.files import reject_lfs_pointer
from openba_jax.models.openba.config import FfnRule, OpenBAConfig

WeightFormat = Literal["safetensors", "torch"]

DEFAULT_SHARD_BYTES = 10 * 10**9
_EMBEDDING = "shared_embedding.weight"
_HEAD = "lm_head.weight"
_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_STEMS: dict[WeightFormat, tuple[str, str]] = {
    "safetensors": ("model", "safetensors"),
    "torch": ("pytorch_model", "bin"),
}

# What the original's configuration class assumes where config.json says nothing (reference §1.10).
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32128,
    "hidden_size": 512,
    "kv_channels": 64,
    "ffn_hidden_size": 2048,
    "num_layers": 12,
    "num_heads": 8,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "add_qkv_bias": False,
    "add_ffn_bias": False,
    "add_lm_head_bias": False,
    "max_seq_length": 1024,
    "decoder_max_seq_length": 256,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


def v1_width(ffn_hidden_size: int) -> int:
    """Width of the feed-forward layer by v1's rule: two thirds, rounded up to 256."""
    return -(-(2 * ffn_hidden_size // 3) // 256) * 256


def ffn_hidden_size(config: OpenBAConfig, known: int | None = None) -> int:
    """The number that stands for the width of the feed-forward layer in their configuration.

    Under v1 many numbers stand for one width. The first of these that does is taken: `known`; the
    width itself (256 and 512), which is right under v2, too; four times the model width, the usual
    choice; three halves of the width.

    Raises:
      UserError: v1 has no number for the width.
    """
    if config.ffn_rule == "v2":
        return config.mlp_dim
    if config.mlp_dim % 256:
        raise UserError(
            f"mlp_dim is {config.mlp_dim}, and v1 of the format knows only multiples of 256; "
            "write v2 with --ffn_rule=v2."
        )
    for number in (known, config.mlp_dim, 4 * config.embed_dim):
        if number is not None and v1_width(number) == config.mlp_dim:
            return number
    return config.mlp_dim * 3 // 2


def rule_of_width(width: int, ffn_hidden_size: int, where: Path) -> FfnRule:
    """The rule under which a configuration states the width of the tensors; v1 if both do.

    Raises:
      UserError: neither does.
    """
    if width == v1_width(ffn_hidden_size):
        return "v1"
    if width == ffn_hidden_size:
        return "v2"
    raise UserError(
        f"{where} says ffn_hidden_size {ffn_hidden_size}, which means width "
        f"{v1_width(ffn_hidden_size)} (v1) or {ffn_hidden_size} (v2), but the tensors have "
        f"width {width}."
    )


def check_constants(config: OpenBAConfig, names: Iterable[str], family: str) -> None:
    """Checks what a family's code has as a constant, and no configuration can say.

    Raises:
      UserError: the model has another value.
    """
    for field in dataclasses.fields(OpenBAConfig):
        value = getattr(config, field.name)
        if field.name in names and value != field.default:
            raise UserError(
                f"{field.name} is {value:g}, and {family} always takes {field.default:g}."
            )


def open_huggingface(folder: Path) -> MappedSource:
    """Opens a folder with `config.json` and weights, in one file or in shards.

    A head that is a copy of the embedding, as the original's converter writes it, is read as a tied
    one, as in training.

    Raises:
      UserError: anything is missing, damaged or contradictory; the message names file and tensor.
    """
    fields = _read_config(folder / "config.json")
    tensors = _read_tensors(folder)
    _reject_wrappers(tensors)
    for name in (_EMBEDDING, "encoder.block.0.mlp.fc_in.weight"):
        if name not in tensors:
            raise UserError(f"{folder}: tensor {name} is missing.")
    wide = tensors["encoder.block.0.mlp.fc_in.weight"]
    if len(wide.shape) != 2:
        raise UserError(
            f"{wide.file}: tensor encoder.block.0.mlp.fc_in.weight has shape {list(wide.shape)}; "
            "it should be a matrix."
        )
    width = wide.shape[0] // 2
    rule = rule_of_width(width, fields["ffn_hidden_size"], folder / "config.json")
    dtype = weight_type(_EMBEDDING, tensors[_EMBEDDING])
    scaled = bool(fields["tie_word_embeddings"])
    tied = scaled or (_HEAD in tensors and equal_tensors(tensors[_EMBEDDING], tensors[_HEAD]))
    config = model_config(
        folder / "config.json",
        vocab_size=fields["vocab_size"],
        embed_dim=fields["hidden_size"],
        num_heads=fields["num_heads"],
        head_dim=fields["kv_channels"],
        mlp_dim=width,
        encoder_layers=fields["num_layers"],
        decoder_layers=fields["num_decoder_layers"],
        qkv_bias=fields["add_qkv_bias"],
        mlp_bias=fields["add_ffn_bias"],
        logits_bias=fields["add_lm_head_bias"],
        tie_embeddings=tied,
        scale_tied_logits=scaled,
        embedding_dropout=False,
        dropout_rate=fields["hidden_dropout"],
        attention_dropout_rate=fields["attention_dropout"],
        max_encoder_length=fields["max_seq_length"],
        max_decoder_length=fields["decoder_max_seq_length"],
        dtype=dtype,
        param_dtype=dtype,
        ffn_rule=rule,
    )
    parameters = Parameters(config)
    entries = expand(HUGGING_FACE, parameters)
    aliases = [*_ALIASES, _HEAD] if tied else list(_ALIASES)
    check_tensors(entries, parameters, tensors, aliases, folder)
    for name in aliases:
        if name in tensors and not equal_tensors(tensors[name], tensors[_EMBEDDING]):
            raise UserError(
                f"{tensors[name].file}: tensor {name} should be a copy of {_EMBEDDING} and is not."
            )
    return MappedSource(config, entries, tensors, find_tokenizer(folder))


def write_huggingface(
    source: Source,
    folder: Path,
    *,
    weight_format: WeightFormat = "safetensors",
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Writes a folder that the original's modelling code loads.

    Args:
      source: the model.
      folder: an empty folder.
      weight_format: safetensors or `torch.save`.
      max_shard_bytes: largest size of a file of weights; a larger tensor has a file of its own.

    Raises:
      UserError: the format cannot express the model.
    """
    config = source.config
    check_constants(config, ("layer_norm_epsilon", "rope_theta"), "Hugging Face's OpenBA")
    entries = expand(HUGGING_FACE, source.parameters)
    if config.tie_embeddings and not config.scale_tied_logits:
        # The original cannot tie without scaling the logits, so its converter copies (§1.2).
        copy = Entry(
            _HEAD,
            (Leaf("token_embedder/embedding"),),
            ("vocab", "embed"),
            Layout.parse("vocab embed"),
        )
        entries.insert(len(entries) - config.logits_bias, copy)
    specs = {
        entry.theirs: TensorSpec(
            entry.theirs,
            entry.layout.shape(source.parameters.sizes, len(entry.leaves)),
            entry_dtype(source, entry),
        )
        for entry in entries
    }
    write_json(folder / "config.json", _config_json(source))
    write_json(
        folder / "generation_config.json",
        {
            "_from_model_config": True,
            "decoder_start_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "transformers_version": "4.31.0",
        },
    )
    if source.tokenizer is not None:
        write_tokenizer(source.tokenizer, folder, config.vocab_size, config.max_encoder_length)
    by_name = {entry.theirs: entry for entry in entries}

    def reads(name: str) -> Iterable[Read]:
        return entry_reads(source, by_name[name])

    stem, suffix = _STEMS[weight_format]
    shards = _shards(specs.values(), max_shard_bytes)
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"{stem}.{suffix}"
        if len(shards) > 1:
            file = f"{stem}-{number:05}-of-{len(shards):05}.{suffix}"
        weight_map.update({spec.name: file for spec in shard})
        if weight_format == "safetensors":
            plan = {spec.name: (spec.shape, spec.dtype) for spec in shard}
            write_safetensors(folder / file, plan, reads)
        else:
            with TorchWriter(folder / file, {spec.name: spec for spec in shard}) as writer:
                for spec in shard:
                    writer.write(spec, reads(spec.name))
    if len(shards) > 1:
        total = sum(_size(spec) for spec in specs.values())
        write_json(
            folder / f"{stem}.{suffix}.index.json",
            {"metadata": {"total_size": total}, "weight_map": weight_map},
        )


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


def _config_json(source: Source) -> dict[str, Any]:
    config = source.config
    modelling = "modeling_openba.OpenBAForConditionalGeneration"
    return {
        "add_ffn_bias": config.mlp_bias,
        "add_lm_head_bias": config.logits_bias,
        "add_qkv_bias": config.qkv_bias,
        "architectures": ["OpenBAForConditionalGeneration"],
        "attention_dropout": config.attention_dropout_rate,
        "auto_map": {
            "AutoConfig": "configuration_openba.OpenBAConfig",
            "AutoModel": modelling,
            "AutoModelForCausalLM": modelling,
            "AutoModelForSeq2SeqLM": modelling,
        },
        "decoder_max_seq_length": config.max_decoder_length,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "ffn_hidden_size": ffn_hidden_size(config),
        "hidden_dropout": config.dropout_rate,
        "hidden_size": config.embed_dim,
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "kv_channels": config.head_dim,
        "max_seq_length": config.max_encoder_length,
        "model_type": "openba",
        "num_decoder_layers": config.decoder_layers,
        "num_heads": config.num_heads,
        "num_layers": config.encoder_layers,
        "pad_token_id": 0,
        "tie_word_embeddings": config.tie_embeddings and config.scale_tied_logits,
        "tokenizer_class": "OpenBATokenizer",
        "torch_dtype": source.dtype(Leaf("token_embedder/embedding")).name,
        "transformers_version": "4.31.0",
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def _read_config(file: Path) -> dict[str, Any]:
    read = read_json(file)
    if read.get("model_type") != "openba":
        raise UserError(
            f"{file}: model_type is {read.get('model_type')!r}; only 'openba' can be converted."
        )
    read.setdefault("num_heads", read.get("num_attention_heads", _DEFAULTS["num_heads"]))
    read.setdefault("num_layers", read.get("num_hidden_layers", _DEFAULTS["num_layers"]))
    fields = {**_DEFAULTS, **read}
    if fields.get("num_decoder_layers") is None:
        fields["num_decoder_layers"] = fields["num_layers"]
    for name, default in {**_DEFAULTS, "num_decoder_layers": 0}.items():
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        if type(fields[name]) not in kinds:
            raise UserError(
                f"{file}: {name} is {fields[name]!r}, which is no {kinds[-1].__name__}."
            )
    for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
        if fields[name] != _DEFAULTS[name]:
            raise UserError(f"{file}: {name} is {fields[name]}; it is {_DEFAULTS[name]} here.")
    return fields


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
