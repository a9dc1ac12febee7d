r"""Prunes a checkpoint into another: layers, width, vocabulary.

openba-prune --input=runs/big --output=runs/stage1 --drop_encoder_layers=4,8 \
  --drop_decoder_layers=7,11,18,20,22,30
openba-prune --input=runs/stage1 --output=runs/narrow --embed=2560 --heads=20 --mlp=6912
openba-prune --input=runs/narrow --output=runs/small --vocabulary=120000 --counts=counts.txt
openba-prune --input=runs/big --output=runs/small --mlp=6912 --dry_run
openba-prune --input=llama2_7b --output=runs/llama --drop_layers=7,13,18,24
openba-prune --input=runs/big --output=runs/half --mlp=6912 --method=taylor --compensation=ridge \
  --calibration_stores=data/text

Layers are numbered as in the ancestor that nothing was cut from, whatever was dropped since. The
plan beside each checkpoint (plan.json) says what is kept and how it was chosen. Parameters are
read, cut and written one after the other, so a model of any size needs little memory.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from openba_jax import cli
from openba_jax.errors import UserError
from openba_jax.paths import local
from openba_jax.pruning import calibration_flags

if TYPE_CHECKING:
    from openba_jax.pruning.calibration import Calibration
    from openba_jax.pruning.stages import Stage


def main(argv: Sequence[str]) -> None:
    """Prunes as the flags say."""
    cli.reject_positional(argv)
    values = flags.FLAGS
    from openba_jax.checkpoints.registry import open_checkpoint
    from openba_jax.models.counting import parameter_count
    from openba_jax.pruning import saved_scores
    from openba_jax.pruning.apply import prune_checkpoint
    from openba_jax.pruning.plan import pruned_model
    from openba_jax.pruning.selection import targets_of
    from openba_jax.pruning.stages import Stage, only_stack

    sized = any(getattr(values, name) is not None for name in ("embed", "heads", "mlp"))
    dropped = values.drop_layers or values.drop_encoder_layers or values.drop_decoder_layers
    if values.scores and not (sized or values.sizes):
        raise UserError("--scores without a size to reach chooses nothing; give sizes too.")
    if values.counts and values.vocabulary is None:
        raise UserError("--counts without --vocabulary cuts nothing; say how many pieces to keep.")
    if values.one_based and not dropped:
        raise UserError("--one_based counts layers to drop, and there are none; give them too.")
    if not (sized or values.sizes or dropped or values.vocabulary is not None):
        raise UserError("nothing to prune; give layers to drop, a width or a vocabulary size.")
    opened = open_checkpoint(local(values.input))
    drop = {only_stack(opened.model): _layers(values.drop_layers)} if values.drop_layers else {}
    stage = Stage(
        values.stage or local(values.output).resolve().name,
        drop_encoder=_layers(values.drop_encoder_layers),
        drop_decoder=_layers(values.drop_decoder_layers),
        drop=drop,
        embed=values.embed,
        heads=values.heads,
        mlp=values.mlp,
        sizes=_sizes(values.sizes),
        vocabulary=values.vocabulary,
        method=calibration_flags.methods(values.method),
        seed=values.seed,
        slices=values.slices,
        compensation=values.compensation,
    )
    if values.scores and values["method"].using_default_value:
        targets = targets_of(opened.model.axes, stage.all_sizes)
        scores = local(values.scores)
        of_file = saved_scores.read(scores).criteria_of(list(targets), scores)
        stage = dataclasses.replace(stage, method=of_file)
    _check_used(stage)
    calibration = calibration_flags.calibration_of(opened)
    if values.dry_run:
        _preview(stage, calibration)
        return
    plan = prune_checkpoint(
        values.input,
        values.output,
        stage,
        counts=values.counts,
        keep_optimizer=values.keep_optimizer,
        output_format=values.output_format,
        one_based=values.one_based,
        tools=values["for"].value or (),
        calibration=calibration,
        scores=values.scores,
        progress=True,
    )
    before, after = parameter_count(plan.ancestor_model), parameter_count(pruned_model(plan))
    sys.stdout.write(
        f"{values.output}: {after:,} parameters, {after / before:.1%} of the ancestor's.\n"
    )


def _check_used(stage: Stage) -> None:
    """Checks that no flag is given that this cut does not look at.

    Raises:
      UserError: one is.
    """
    from openba_jax.pruning.compensation.refit import NO_COMPENSATION
    from openba_jax.pruning.criteria.base import RANDOM

    values = flags.FLAGS
    draws = {RANDOM} & stage.methods
    by_text = stage.looks_at_text and not (values.scores and stage.compensation == NO_COMPENSATION)
    for flag, used, why in (
        ("method", stage.methods, "no size is to be reached; give one, or leave it out"),
        ("seed", draws, "nothing is drawn; leave it out"),
        ("scores", stage.methods - {RANDOM}, "all is drawn; name their criterion, or no --method"),
        ("calibration_stores", by_text, "nothing looks at text; leave it out"),
    ):
        if not used and not values[flag].using_default_value:
            raise UserError(f"--{flag} changes nothing: {why}.")


def _preview(stage: Stage, calibration: Calibration | None) -> None:
    """Prints what the cut would leave."""
    from openba_jax.checkpoints.checkpoint import total_bytes
    from openba_jax.inspect import sizes
    from openba_jax.pruning.apply import preview

    values = flags.FLAGS
    cut = preview(
        values.input,
        values.output,
        stage,
        counts=values.counts,
        keep_optimizer=values.keep_optimizer,
        one_based=values.one_based,
        tools=values["for"].value or (),
        calibration=calibration,
        scores=values.scores,
    )
    before, lengths = cut.inner.model, sizes.LENGTHS
    named = {"before": before, "after": cut.model}
    sys.stdout.write(sizes.table([sizes.row(name, m, *lengths) for name, m in named.items()]))
    left = cut.model.axes.count() / before.axes.count()
    sys.stdout.write(
        f"\n{left:.1%} of the parameters are left; {values.output} would hold "
        f"{total_bytes(cut):,} bytes. Nothing is written.\n{sizes.legend(*lengths)}"
    )


def _layers(numbers: Sequence[str]) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in numbers)
    except ValueError as error:
        raise UserError(f"layers to drop are whole numbers, not {', '.join(numbers)}.") from error


def _sizes(assignments: Sequence[str]) -> dict[str, int]:
    sizes = {}
    for assignment in assignments:
        key, _, size = assignment.partition("=")
        if not key or not size.strip().isdecimal():
            raise UserError(f"--sizes has {assignment!r}; write AXIS=SIZE, e.g. decoder/layers=20.")
        if key.strip() in sizes:
            raise UserError(f"--sizes gives {key.strip()} twice; give it once.")
        sizes[key.strip()] = int(size)
    return sizes


def define_flags() -> None:
    """Defines the flags of this main."""
    flags.DEFINE_string(
        "input", None, "Folder of a checkpoint of any kind, or one checkpoint in it.", required=True
    )
    flags.DEFINE_string("output", None, "Model folder to write, new or empty.", required=True)
    flags.DEFINE_string("stage", "", "Name of this cut in the plan; by default the folder's.")
    flags.DEFINE_list(
        "drop_layers", [], "Layers to drop of a model with one stack, ancestor's numbers."
    )
    flags.DEFINE_list("drop_encoder_layers", [], "Encoder layers to drop, ancestor's numbers.")
    flags.DEFINE_list("drop_decoder_layers", [], "Decoder layers to drop, ancestor's numbers.")
    flags.DEFINE_bool("one_based", False, "Those numbers count from 1 instead of 0.")
    flags.DEFINE_integer("embed", None, "Width of the residual stream to reach.")
    flags.DEFINE_integer("heads", None, "Attention heads to reach.")
    flags.DEFINE_integer("mlp", None, "Feed-forward width to reach.")
    flags.DEFINE_list(
        "sizes", [], "AXIS=SIZE of any axes: mlp=512, or of one stack's: decoder/layers=20."
    )
    flags.DEFINE_list(
        "method",
        ["random"],
        "How sizes are reached: random, or a criterion (docs/pruning.md), and AXIS=METHOD for axes "
        "that have another: taylor,layers=block_influence; by default that of --scores.",
    )
    flags.DEFINE_string("scores", None, "A file of openba-score to choose by.")
    flags.DEFINE_string(
        "compensation",
        "none",
        "How what reads the cut axes is fitted anew: none, ridge, or bias for biases alone.",
    )
    flags.DEFINE_integer("seed", 1234, "Seed of the random choice.")
    flags.DEFINE_integer(
        "slices",
        1,
        "Cut heads and units alike in each of so many equal parts, as for tensor"
        " parallelism of that many devices.",
        lower_bound=1,
    )
    flags.DEFINE_integer("vocabulary", None, "Pieces to keep by frequency.")
    flags.DEFINE_list("counts", [], "Files of token counts, lines `id count` or `piece id count`.")
    flags.DEFINE_enum(
        "output_format", None, ["native", "t5x"], "What to write; by default as --input, or native."
    )
    flags.DEFINE_list(
        "for",
        [],
        "Tools that are to read the result: gguf, transformers, ctranslate2, vllm, tpu; warns of "
        "sizes that they refuse or run badly.",
    )
    calibration_flags.define_flags()
    flags.DEFINE_bool("dry_run", False, "Show shape, parameters, FLOPs and bytes; write nothing.")
    flags.DEFINE_bool("keep_optimizer", False, "Cut optimizer state along and keep the step.")


def run() -> None:
    """Entry point."""
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run()
