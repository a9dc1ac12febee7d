r"""Prints sizes by name, or of checkpoints: layers, widths, parameters, bytes, FLOPs.

openba-sizes
openba-sizes tiny small --encoder_length=64 --decoder_length=48
openba-sizes openba_v2_3_4b runs/model OpenBA-LM
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags

from openba_jax import cli
from openba_jax.errors import UserError

if TYPE_CHECKING:
    from openba_jax.models.axes import AxisTable
    from openba_jax.models.base import Model

LENGTHS = (570, 380)
"""Encoder and decoder tokens of an example: those of OpenBA's pretraining."""

_LONGEST_NAME = 27  # A longer one has a line of its own, so that the table fits 100 columns.
_BY_STACK = slice(3, 6)  # Columns whose cells may have a part for each stack.


def model_named(name: str) -> Model:
    """A named size, or the model of a checkpoint of any format; no tensor is read.

    Raises:
      UserError: it is neither.
    """
    from openba_jax.checkpoints.registry import open_headers
    from openba_jax.models.registry import model_of, named_config, named_configs
    from openba_jax.paths import local

    if name in named_configs():
        return model_of(named_config(name))
    if local(name).exists():
        return open_headers(local(name)).model
    try:
        return model_of(named_config(name))
    except UserError as error:
        raise UserError(f"{name} is no folder or file, and {error}") from error


def rows(models: Sequence[str], encoder_length: int, decoder_length: int) -> list[list[str]]:
    """One row per model, as text."""
    return [row(name, model_named(name), encoder_length, decoder_length) for name in models]


def row(name: str, model: Model, encoder_length: int, decoder_length: int) -> list[str]:
    """The cells of a model: those of `HEADER`, and what the paper calls it."""
    from openba_jax.models.counting import (
        parameter_bytes,
        parameter_count,
        train_flops_per_example,
    )
    from openba_jax.models.registry import family

    return [
        name,
        model.config.family,
        "+".join(str(model.axes.depth(stack)) for stack in model.stacks),
        _by_stack(model, functools.partial(_size, "embed")),
        _by_stack(model, _heads),
        _by_stack(model, functools.partial(_size, "mlp")),
        f"{model.axes.sizes['vocab']:,}",
        f"{parameter_count(model):,}",
        _figure(parameter_bytes(model, "bfloat16") / 2**30),
        _figure(model.decode_flops(encoder_length, decoder_length // 2) / 1e9),
        _figure(train_flops_per_example(model, encoder_length, decoder_length) / 1e12),
        family(model.config.family).labels.get(name, ""),
    ]


def _figure(value: float) -> str:
    """Two places, and more than nothing where there is something."""
    return "<0.01" if value < 0.01 else f"{value:.2f}"


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


HEADER = (
    [
        "model",
        "",
        "layers",
        "embed",
        "heads",
        "mlp",
        "vocab",
        "parameters",
        "bf16",
        "GFLOP",
        "TFLOP",
    ],
    ["", "", "", "", "", "", "", "", "GiB", "/token", "/example"],
)


def table(body: Sequence[Sequence[str]]) -> str:
    """Lines of at most 100 columns; stacks that differ stand below each other."""
    lines: list[list[str]] = [[*HEADER[0]], [*HEADER[1]]]
    for family, group in itertools.groupby(body, key=lambda cells: cells[1]):
        lines.append([f"{family}:"])
        for each in group:
            cells = [cell.split("+") for cell in each[_BY_STACK]]
            first = [*each[: _BY_STACK.start], *(c[0] for c in cells), *each[_BY_STACK.stop : -1]]
            if len(each[0]) > _LONGEST_NAME:
                lines.append([each[0]])
                first[0] = ""
            lines.append(first)
            if any(len(cell) > 1 for cell in cells):
                lines.append(["", "", "", *(cell[1] if cell[1:] else "" for cell in cells)])
    whole = [line for line in lines if len(line) > 1]
    widths = [max(len(line[i]) for line in whole if i < len(line)) for i in range(len(HEADER[0]))]
    texts = []
    for line in lines:
        if len(line) == 1:
            texts.append(line[0])
            continue
        cells_of = [line[0].ljust(widths[0])]
        cells_of += [c.rjust(w) for c, w in zip(line[2:], widths[2:], strict=False)]
        texts.append(" ".join(cells_of).rstrip())
    return "".join(f"{text}\n" for text in texts)


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    from openba_jax.models.registry import named_configs

    values = flags.FLAGS
    names = [*argv[1:], *values.models] or list(named_configs())
    body = rows(names, values.encoder_length, values.decoder_length)
    sys.stdout.write(table(body))
    if labels := [f"{cells[0]}: {cells[-1]}" for cells in body if cells[-1]]:
        sys.stdout.write("\nWhat the paper calls them:\n" + "".join(f"  {x}\n" for x in labels))
    sys.stdout.write("\n" + legend(values.encoder_length, values.decoder_length))


def legend(encoder_length: int, decoder_length: int) -> str:
    """What the columns of `table` mean."""
    return (
        "GFLOP per token that is decoded, TFLOP per example that is trained on, of "
        f"{encoder_length} encoder and\n{decoder_length} decoder tokens, or one sequence of as "
        "many, without rematerialisation. Heads 32/8x128:\n32 query heads of 128 share 8 of keys "
        "and values. Two lines: the encoder's and the decoder's.\n"
    )


def define_flags() -> None:
    """Defines the flags of this main."""
    flags.DEFINE_list(
        "models", [], "Named sizes, or checkpoints of any kind; as words behind the command."
    )
    flags.DEFINE_integer(
        "encoder_length", LENGTHS[0], "Encoder tokens of an example.", lower_bound=1
    )
    flags.DEFINE_integer(
        "decoder_length", LENGTHS[1], "Decoder tokens of an example.", lower_bound=1
    )


def run() -> None:
    """Entry point."""
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run()
