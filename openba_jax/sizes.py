r"""Prints the named model sizes: layers, widths, parameters, bytes, FLOPs.

python -m openba_jax.sizes
python -m openba_jax.sizes --models=tiny,small --encoder_length=64 --decoder_length=48
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags

from openba_jax import cli

if TYPE_CHECKING:
    from openba_jax.models.axes import AxisTable
    from openba_jax.models.base import Model


def rows(models: Sequence[str], encoder_length: int, decoder_length: int) -> list[list[str]]:
    """One row per model, as text."""
    from openba_jax.models.counting import (
        parameter_bytes,
        parameter_count,
        train_flops_per_example,
    )
    from openba_jax.models.registry import family, model_of, named_config

    table = []
    for name in models:
        model = model_of(named_config(name))
        table.append(
            [
                name,
                model.config.family,
                "+".join(str(model.axes.depth(stack)) for stack in model.stacks),
                _by_stack(model, functools.partial(_size, "embed")),
                _by_stack(model, _heads),
                _by_stack(model, functools.partial(_size, "mlp")),
                f"{model.axes.sizes['vocab']:,}",
                f"{parameter_count(model):,}",
                f"{parameter_bytes(model, 'bfloat16') / 2**30:.4g}",
                f"{model.decode_flops(encoder_length, decoder_length // 2) / 1e9:.4g}",
                f"{train_flops_per_example(model, encoder_length, decoder_length) / 1e12:.4g}",
                family(model.config.family).labels.get(name, "-"),
            ]
        )
    return table


def _by_stack(model: Model, shown: Callable[[AxisTable, str], str]) -> str:
    """What is shown of each stack; once where they are the same."""
    found = dict.fromkeys(shown(model.axes, stack) for stack in model.stacks)
    return "+".join(found)


def _size(name: str, axes: AxisTable, stack: str) -> str:
    return f"{axes.sizes.get(f'{stack}/{name}', axes.sizes.get(name)):,}"


def _heads(axes: AxisTable, stack: str) -> str:
    """`32x128`: heads and their size; `32/8x128` where 32 heads share 8 of keys and values."""
    from openba_jax.models.axes import Joined

    joined = [c.inner for c in axes.couplings if isinstance(c, Joined) and c.outer == "heads"]
    size = joined[0] if joined else axes.sizes[f"{stack}/kv"]
    heads, shared = axes.sizes[f"{stack}/heads"], axes.sizes.get(f"{stack}/kv_heads")
    return f"{heads if shared is None else f'{heads}/{shared}'}x{size}"


HEADER = [
    "model",
    "family",
    "layers",
    "embed",
    "heads",
    "mlp",
    "vocab",
    "parameters",
    "bf16 GiB",
    "GFLOP/token, decoding",
    "TFLOP/example, training",
    "label in the paper",
]


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    cli.reject_positional(argv)
    from openba_jax.models.registry import named_configs

    values = flags.FLAGS
    body = rows(
        values.models or list(named_configs()), values.encoder_length, values.decoder_length
    )
    widths = [max(len(row[i]) for row in [HEADER, *body]) for i in range(len(HEADER))]
    for row in [HEADER, *body]:
        sys.stdout.write("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + "\n")
    sys.stdout.write(
        f"FLOPs at {values.encoder_length} encoder and {values.decoder_length} decoder tokens, or "
        "one sequence of as many, without rematerialisation. Heads 32/8x128: 32 query heads of 128 "
        "share 8 of keys and values.\n"
    )


def define_flags() -> None:
    """Defines the flags of this main."""
    flags.DEFINE_list("models", [], "Named sizes to print; all by default.")
    flags.DEFINE_integer("encoder_length", 570, "Encoder tokens of an example.", lower_bound=1)
    flags.DEFINE_integer("decoder_length", 380, "Decoder tokens of an example.", lower_bound=1)


def run() -> None:
    """Entry point."""
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run()
