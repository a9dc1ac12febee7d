r"""Converts checkpoints between OpenBA's formats, and compares them.

openba-convert to_native      --input=OpenBA-LM --output=models/openba
openba-convert to_huggingface --input=models/openba --output=OpenBA-V2
openba-convert to_megatron    --input=release/ --output=release_tp4 --tensor_parallel=4
openba-convert to_t5x         --input=models/openba --output=models/openba_t5x
openba-convert to_t5x         --input=runs/small --output=runs/small_t5x --keep_optimizer
openba-convert verify         --input=models/openba --other=OpenBA-LM --prompt='<S>Hi<extra_id_0>'

The input may be of any kind (model folder, Hugging Face, Megatron, T5X) and is recognised. Tensors
are moved layer by layer, so a model of any size needs little memory. See docs/checkpoints.md.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from openba_jax import cli
from openba_jax.errors import UserError
from openba_jax.files import only_process
from openba_jax.paths import local, reject_overlap

if TYPE_CHECKING:
    from openba_jax.checkpoints.streaming import Source
    from openba_jax.models.openba.config import OpenBAConfig

COMMANDS = ("to_native", "to_huggingface", "to_megatron", "to_t5x", "verify")

_FLAGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("output", "dtype", "ffn_rule"), COMMANDS[:-1]),
    "tokenizer": ("to_native", "to_huggingface", "to_t5x"),
    "keep_optimizer": ("to_native", "to_t5x"),
    **dict.fromkeys(("weight_format", "max_shard_size"), ("to_huggingface",)),
    "tensor_parallel": ("to_megatron",),
    "t5x_format": ("to_t5x",),
    **dict.fromkeys(("other", "prompt", "tolerance", "quiet"), ("verify",)),
}
"""The commands that read a flag; all read the others."""


def main(argv: Sequence[str]) -> None:
    """Carries out one command."""
    if len(argv) != 2 or argv[1] not in COMMANDS:
        raise UserError(f"Name one command: {', '.join(COMMANDS)}; --help shows examples.")
    values = flags.FLAGS
    for name, commands in _FLAGS.items():
        if values[name].present and argv[1] not in commands:
            raise UserError(f"--{name} is for {', '.join(commands)}; {argv[1]} has no use for it.")
    if not values.input:
        raise UserError("Name the checkpoint with --input.")
    from openba_jax.checkpoints.folders import require_free
    from openba_jax.checkpoints.formats.native import split_path
    from openba_jax.checkpoints.registry import detect, open_checkpoint

    path = local(values.input)
    if argv[1] == "verify":
        _verify(path)
        return
    if not values.output:
        raise UserError("Name the folder to write with --output.")
    output = local(values.output)
    reject_overlap(split_path(path)[0], output, "checkpoint of --input")
    require_free(output)
    source = open_checkpoint(path, _model_config(values.model_config))
    sys.stdout.write(f"{path}: {detect(path)}, {_describe(source)}\n")
    if values.keep_optimizer:
        with only_process(output):
            _move(path, argv[1], output)
    else:
        convert(source, argv[1], output)


def convert(source: Source, command: str, output: Path) -> None:
    """Writes `source` in another format; the folder appears when it is complete."""
    import numpy as np
    from ml_dtypes import bfloat16
    from tqdm import tqdm

    from openba_jax.checkpoints.folders import new_folder
    from openba_jax.checkpoints.streaming import InspectedSource
    from openba_jax.data.vocabulary import Vocabulary

    values = flags.FLAGS
    if values.tokenizer:
        source.tokenizer = local(values.tokenizer)
    if values.ffn_rule:
        source.config = source.config.replace(ffn_rule=values.ffn_rule)
    if source.tokenizer is not None:
        Vocabulary(source.tokenizer).check_rows(source.config.vocab_size)
    dtypes = {"float32": np.float32, "float16": np.float16, "bfloat16": bfloat16}
    target = np.dtype(dtypes[values.dtype]) if values.dtype else None
    total = sum(
        math.prod(source.parameters.shape(leaf.path)) * source.dtype(leaf).itemsize
        for leaf in source.parameters.leaves()
    )
    with tqdm(total=total, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
        inspected = InspectedSource(source, target, bar.update)
        with new_folder(output) as folder:
            _write(inspected, source, command, folder)
    for warning in inspected.warnings():
        sys.stderr.write(f"warning: {warning}\n")
    sys.stdout.write(f"{output}: written\n")


def _move(path: Path, command: str, output: Path) -> None:
    """Moves a whole training state between the native runner and T5X."""
    import numpy as np

    from openba_jax.checkpoints.files.tensors import count_not_finite
    from openba_jax.checkpoints.mapping import flatten
    from openba_jax.checkpoints.training_state import WholeKind, read_whole, write_whole
    from openba_jax.data.vocabulary import Vocabulary

    values = flags.FLAGS
    kinds: dict[str, WholeKind] = {"to_native": "native", "to_t5x": "t5x"}
    if command not in kinds or values.dtype or values.t5x_format == "legacy":
        raise UserError(
            "--keep_optimizer is for to_native and to_t5x between model folders and T5X folders, "
            "without --dtype and in T5X's orbax format."
        )
    whole = read_whole(path, _model_config(values.model_config))
    if whole.opt_state is None:
        raise UserError(f"{path} has no optimizer state; convert without --keep_optimizer.")
    for name, leaf in flatten(whole.params).items():
        if count := count_not_finite(np.asarray(leaf)):
            sys.stderr.write(f"warning: {path}: {name} holds {count} NaN or infinite values.\n")
    if values.ffn_rule:
        whole = dataclasses.replace(whole, config=whole.config.replace(ffn_rule=values.ffn_rule))
    if values.tokenizer:
        whole = dataclasses.replace(whole, tokenizer=local(values.tokenizer))
    if whole.tokenizer is not None:
        Vocabulary(whole.tokenizer).check_rows(whole.config.vocab_size)
    write_whole(whole, output, kinds[command])
    sys.stdout.write(f"{output}: written, with optimizer state, at step {whole.step}\n")


def _write(inspected: Source, source: Source, command: str, folder: Path) -> None:
    values = flags.FLAGS
    if command in ("to_huggingface", "to_megatron"):
        rule = source.config.ffn_rule
        sys.stdout.write(f"ffn_hidden_size follows the rule of OpenBA {rule} (--ffn_rule)\n")
    if command == "to_native":
        from openba_jax.checkpoints.formats.native_arrays import write_native

        write_native(inspected, folder)
    elif command == "to_huggingface":
        from openba_jax.checkpoints.formats.huggingface import write_huggingface

        write_huggingface(
            inspected,
            folder,
            weight_format=values.weight_format,
            max_shard_bytes=_bytes(values.max_shard_size),
        )
    elif command == "to_megatron":
        from openba_jax.checkpoints.formats.megatron import MegatronSource, write_megatron

        write_megatron(
            inspected,
            folder,
            tensor_parallel=values.tensor_parallel,
            arguments=source.arguments if isinstance(source, MegatronSource) else None,
        )
    else:
        from openba_jax.checkpoints.formats.t5x import write_t5x

        write_t5x(inspected, folder, t5x_format=values.t5x_format)


def _verify(path: Path) -> None:
    from openba_jax.checkpoints.registry import detect, open_checkpoint
    from openba_jax.checkpoints.verify import compare, compare_logits, encode_prompt

    values = flags.FLAGS
    if not values.other:
        raise UserError("Name the checkpoint to compare with by --other.")
    opened = []
    for each in (path, local(values.other)):
        kind = detect(each)
        config = _model_config(values.model_config) if kind == "t5x" else None
        opened.append(open_checkpoint(each, config))
        sys.stdout.write(f"{each}: {kind}, {_describe(opened[-1])}\n")
    if values.model_config and all(detect(each) != "t5x" for each in (path, local(values.other))):
        raise UserError("--model_config is for T5X checkpoints; neither of the two is one.")
    source, other = opened
    worst = 0.0
    for difference in compare(source, other):
        worst = max(worst, difference.largest)
        if values.quiet and difference.largest <= values.tolerance:
            continue
        types = " and ".join(dict.fromkeys(difference.dtypes))
        sys.stdout.write(
            f"{difference.largest:10.3g}  {difference.where}  {types}  {difference.note}\n"
        )
    sys.stdout.write(f"largest difference of a weight: {worst:.3g}\n")
    if values.prompt:
        with_text = source if source.tokenizer is not None else other
        prompts = [encode_prompt(prompt, with_text) for prompt in values.prompt]
        for prompt, value in zip(
            values.prompt, compare_logits(source, other, prompts), strict=True
        ):
            worst = max(worst, value)
            sys.stdout.write(f"largest difference of a logit: {value:.3g}  {prompt!r}\n")
    if worst > values.tolerance:
        raise UserError(f"The checkpoints differ by {worst:.3g}, more than {values.tolerance:g}.")


def _describe(source: Source) -> str:
    config = source.config
    count = sum(
        math.prod(source.parameters.shape(leaf.path)) for leaf in source.parameters.leaves()
    )
    return (
        f"{count:,} parameters, {config.encoder_layers}+{config.decoder_layers} layers, "
        f"embed {config.embed_dim}, heads {config.num_heads}x{config.head_dim}, "
        f"mlp {config.mlp_dim}, vocabulary {config.vocab_size}, {config.param_dtype}"
        f"{', tied' if config.tie_embeddings else ''}"
    )


def _model_config(value: str | None) -> OpenBAConfig | None:
    """A named size, or a `config.json`."""
    from openba_jax.models.openba.config import NAMED_CONFIGS, OpenBAConfig

    if not value:
        return None
    return NAMED_CONFIGS[value] if value in NAMED_CONFIGS else OpenBAConfig.load(local(value))


def _bytes(text: str) -> int:
    """Reads e.g. `5GB` or `200MB`."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
    number, unit = text[:-2].strip(), text[-2:].upper()
    if unit not in units or not number.isdigit() or int(number) == 0:
        raise UserError(f"--max_shard_size is {text!r}; write e.g. 5GB or 200MB.")
    return int(number) * units[unit]


def define_flags() -> None:
    """Defines the flags of this main."""
    flags.DEFINE_string("input", None, "Folder of the checkpoint to read.")
    flags.DEFINE_string("output", None, "Folder to write; it must be new or empty.")
    flags.DEFINE_enum(
        "dtype",
        None,
        ["float32", "bfloat16", "float16"],
        "Type to cast to; by default every tensor keeps its own.",
    )
    flags.DEFINE_string(
        "tokenizer",
        None,
        "Sentencepiece model to put into the output; Megatron has no place for it.",
    )
    flags.DEFINE_enum(
        "ffn_rule",
        None,
        ["v1", "v2"],
        "Whether ffn_hidden_size of Hugging Face and Megatron goes through OpenBA v1's two-thirds "
        "rule or is the width itself, as in OpenBA-V2; by default as in the input.",
    )
    flags.DEFINE_enum(
        "weight_format",
        "safetensors",
        ["safetensors", "torch"],
        "to_huggingface: model*.safetensors or pytorch_model*.bin.",
    )
    flags.DEFINE_string("max_shard_size", "10GB", "to_huggingface: largest file of weights.")
    flags.DEFINE_integer("tensor_parallel", 1, "to_megatron: number of ranks.", lower_bound=1)
    flags.DEFINE_enum(
        "t5x_format", "orbax", ["orbax", "legacy"], "to_t5x: which of T5X's checkpointers reads it."
    )
    flags.DEFINE_bool(
        "keep_optimizer", False, "to_native, to_t5x: move optimizer state and step, too, in memory."
    )
    flags.DEFINE_string(
        "model_config",
        None,
        "Named size or config.json of a T5X input; by default sizes follow from the shapes.",
    )
    flags.DEFINE_string("other", None, "verify: the checkpoint to compare with.")
    flags.DEFINE_multi_string(
        "prompt", [], "verify: text, or ids like 12,5,7, whose logits are compared; may repeat."
    )
    flags.DEFINE_bool("quiet", False, "verify: no line for weights that do not differ.")
    flags.DEFINE_float("tolerance", 0.0, "verify: largest difference that is accepted.")


def run() -> None:
    """Entry point."""
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run()
