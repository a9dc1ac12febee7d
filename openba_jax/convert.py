r"""Converts checkpoints between formats, and compares them.

openba-convert to_native      --input=OpenBA-LM --output=models/openba
openba-convert to_huggingface --input=models/openba --output=OpenBA-V2
openba-convert to_megatron    --input=release/ --output=release_tp4 --tensor_parallel=4
openba-convert to_t5x         --input=models/openba --output=models/openba_t5x
openba-convert to_t5x         --input=runs/small --output=runs/small_t5x --keep_optimizer
openba-convert to_gguf        --input=models/llama --output=llama_gguf --quant_type=Q8_0
openba-convert verify         --input=models/openba --other=OpenBA-LM --prompt='<S>Hi<extra_id_0>'

The input may be of any kind (model folder, Hugging Face, Megatron, T5X, GGUF) and is recognised.
Tensors are moved layer by layer, so a model of any size needs little memory. See
docs/checkpoints.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from openba_jax import cli
from openba_jax.cli.progress import show_progress
from openba_jax.errors import UserError
from openba_jax.paths import local, reject_overlap

if TYPE_CHECKING:
    from openba_jax.checkpoints.checkpoint import Checkpoint
    from openba_jax.checkpoints.registry import Format
    from openba_jax.models.config import ModelConfig

COMMANDS = ("to_native", "to_huggingface", "to_megatron", "to_t5x", "to_gguf", "verify")

_FLAGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("output", "dtype", "ffn_rule"), COMMANDS[:-1]),
    "compute_dtype": ("to_native", "to_t5x"),
    "tokenizer": ("to_native", "to_huggingface", "to_t5x", "to_gguf"),
    "keep_optimizer": ("to_native", "to_t5x"),
    **dict.fromkeys(("weight_format", "max_shard_size"), ("to_huggingface",)),
    "tensor_parallel": ("to_megatron",),
    **dict.fromkeys(("t5x_format", "t5x_network"), ("to_t5x",)),
    "quant_type": ("to_gguf",),
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
    from openba_jax.checkpoints.model_folder import split_path
    from openba_jax.checkpoints.registry import detect, open_checkpoint
    from openba_jax.pruning.saved_plan import plan_of

    path = local(values.input)
    if argv[1] == "verify":
        _verify(path)
        return
    if not values.output:
        raise UserError("Name the folder to write with --output.")
    output, kind = local(values.output), detect(path)
    reject_overlap(split_path(path)[0], output, "checkpoint of --input")
    require_free(output)
    source = open_checkpoint(path, _model_config(values.model_config))
    plan_of(source, path)  # Raises where it is the plan of another model.
    sys.stdout.write(f"{path}: {kind.name}, {_describe(source)}\n")
    convert(source, _writer(argv[1]), output)


def convert(source: Checkpoint, writer: Format, output: Path) -> None:
    """Writes `source` in another format; the folder appears when it is complete.

    Raises:
      UserError: the flags ask for what the source or the format cannot give.
    """
    import numpy as np
    from ml_dtypes import bfloat16

    from openba_jax.checkpoints.checkpoint import total_bytes
    from openba_jax.checkpoints.folders import new_folder
    from openba_jax.checkpoints.formats.megatron import Megatron
    from openba_jax.checkpoints.inspection import InspectedCheckpoint
    from openba_jax.checkpoints.model_folder import check_tokenizer_kind, warn_without_tokenizer
    from openba_jax.data.vocabularies.registry import open_vocabulary

    values = flags.FLAGS
    if values.keep_optimizer and source.optimizer is None:
        raise UserError(f"{values.input} has no optimizer state; convert without --keep_optimizer.")
    if not values.keep_optimizer:
        source.optimizer, source.data = None, {}
    if values.tokenizer:
        source.tokenizer = local(values.tokenizer)
    if values.ffn_rule:
        source.model = source.model.replace(ffn_rule=values.ffn_rule)
    if compute := values.compute_dtype or values.dtype:
        source.model = source.model.replace(dtype=compute)
    if source.tokenizer is not None:
        check_tokenizer_kind(source.model, source.tokenizer)
        open_vocabulary(source.tokenizer).check_rows(source.model.config.vocab_size)
    dtypes = {"float32": np.float32, "float16": np.float16, "bfloat16": bfloat16}
    target = np.dtype(dtypes[values.dtype]) if values.dtype else None
    with (
        show_progress(f"writing {output}", total_bytes(source), "B") as advance,
        new_folder(output) as folder,
    ):
        inspected = InspectedCheckpoint(source, target, advance)
        writer.write(inspected, folder)
    if writer.name != Megatron.name:  # It has no place for one.
        warn_without_tokenizer(source, output)
    for warning in inspected.warnings():
        sys.stderr.write(f"warning: {warning}\n")
    if writer.name in ("huggingface", "megatron"):
        rule = getattr(source.model.config, "ffn_rule", None)
        if rule:
            sys.stdout.write(f"ffn_hidden_size follows the rule of OpenBA {rule} (--ffn_rule)\n")
    kept = f", with optimizer state, at step {source.step}" if values.keep_optimizer else ""
    sys.stdout.write(f"{output}: written{kept}\n")


def _writer(command: str) -> Format:
    """The format that a command writes, as the flags say."""
    from openba_jax.checkpoints.formats.gguf import Gguf
    from openba_jax.checkpoints.formats.huggingface import HuggingFace
    from openba_jax.checkpoints.formats.megatron import Megatron
    from openba_jax.checkpoints.formats.native import Native
    from openba_jax.checkpoints.formats.t5x import T5X

    values = flags.FLAGS
    if command == "to_native":
        return Native()
    if command == "to_huggingface":
        return HuggingFace(values.weight_format, _bytes(values.max_shard_size))
    if command == "to_megatron":
        return Megatron(values.tensor_parallel)
    if command == "to_gguf":
        return Gguf(values.quant_type)
    return T5X(values.t5x_format, network=values.t5x_network)


def _verify(path: Path) -> None:
    from openba_jax.checkpoints.registry import detect, open_checkpoint
    from openba_jax.evaluation.verify import compare, compare_logits, encode_prompt

    values = flags.FLAGS
    if not values.other:
        raise UserError("Name the checkpoint to compare with by --other.")
    opened = []
    for each in (path, local(values.other)):
        kind = detect(each).name
        config = _model_config(values.model_config) if kind == "t5x" else None
        opened.append(open_checkpoint(each, config))
        sys.stdout.write(f"{each}: {kind}, {_describe(opened[-1])}\n")
    if values.model_config and all(
        detect(each).name != "t5x" for each in (path, local(values.other))
    ):
        raise UserError("--model_config is for T5X checkpoints; neither of the two is one.")
    source, other = opened
    with_text = source if source.tokenizer is not None else other
    prompts = [encode_prompt(prompt, with_text) for prompt in values.prompt]
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
    if prompts:
        for prompt, value in zip(
            values.prompt, compare_logits(source, other, prompts), strict=True
        ):
            worst = max(worst, value)
            sys.stdout.write(f"largest difference of a logit: {value:.3g}  {prompt!r}\n")
    if worst > values.tolerance:
        raise UserError(f"The checkpoints differ by {worst:.3g}, more than {values.tolerance:g}.")


def _describe(source: Checkpoint) -> str:
    model = source.model
    sizes = ", ".join(f"{key} {size:,}" for key, size in model.axes.sizes.items())
    return (
        f"{model.config.family}, {model.axes.count():,} parameters in {model.config.param_dtype}: "
        f"{sizes}"
    )


def _model_config(value: str | None) -> ModelConfig | None:
    """A named size, or a `config.json`."""
    from openba_jax.models.registry import load_config, named_configs

    if not value:
        return None
    return named_configs().get(value) or load_config(local(value))


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
        "Type to cast parameters to, and to compute in; by default every tensor keeps its own.",
    )
    flags.DEFINE_enum(
        "compute_dtype",
        None,
        ["float32", "bfloat16", "float16"],
        "to_native, to_t5x: type to compute in; by default that of --dtype, or as in the input.",
    )
    flags.DEFINE_string(
        "tokenizer",
        None,
        "File of a tokenizer to put into the output; Megatron has no place for it.",
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
    flags.DEFINE_enum("quant_type", "F16", ["F32", "F16", "Q8_0"], "to_gguf: type of the matrices.")
    flags.DEFINE_string(
        "t5x_network",
        "",
        "to_t5x: which of T5X's own networks reads it, for T5 t5 or scalable_t5; by default that "
        "of the input, or the module of openba_jax.",
    )
    flags.DEFINE_bool(
        "keep_optimizer", False, "to_native, to_t5x: move optimizer state, too, to go on training."
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
