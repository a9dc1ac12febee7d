r"""Prunes a model folder into another: layers, width, vocabulary.

openba-prune --input=runs/big --output=runs/stage1 --drop_encoder_layers=4,8 \
  --drop_decoder_layers=7,11,18,20,22,30
openba-prune --input=runs/stage1 --output=runs/narrow --embed=2560 --heads=20 --mlp=6912
openba-prune --input=runs/narrow --output=runs/small --vocabulary=120000 --counts=counts.txt

Layers are numbered as in the ancestor that nothing was cut from, whatever was dropped since. The
plan beside each checkpoint (plan.json) says what is kept and how it was chosen.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from openba_jax import cli
from openba_jax.errors import UserError
from openba_jax.files import only_process, room_on_disk

if TYPE_CHECKING:
    from openba_jax.checkpoints.whole import WholeKind
    from openba_jax.pruning.plan import Plan
    from openba_jax.pruning.stages import Stage


def prune_model(
    source: str | Path,
    output: str | Path,
    stage: Stage,
    *,
    counts: Sequence[str | Path] = (),
    keep_optimizer: bool = False,
    output_format: WholeKind | None = None,
    one_based: bool = False,
) -> Plan:
    """Cuts a model folder as a stage says; parameters are gathered on the host, never changed.

    Args:
      source: a model folder or a T5X folder, whose newest checkpoint is meant, or
        `DIR/checkpoints/<step>` or `DIR/checkpoint_<step>` in it.
      output: the folder to write; it must be new or empty.
      stage: what to cut.
      counts: files of token counts of the model's own tokenizer, which are summed, for a stage that
        cuts the vocabulary.
      keep_optimizer: cut optimizer moments and step along, so that training can go on; otherwise
        the new folder starts at step 0 with parameters alone.
      output_format: of the folder to write, `native` or `t5x`; by default that of `source`.
      one_based: the layers that the stage drops are counted from 1.

    Returns:
      The new plan, relative to the root ancestor.

    Raises:
      UserError: the stage asks for what the model cannot give, `source` is no model folder,
        `output` holds something or is being written, or the disk is full.
    """
    from openba_jax.checkpoints.folders import require_free
    from openba_jax.checkpoints.whole import WholeModel, kind_of, read_whole, write_whole
    from openba_jax.model.network import logical_axes
    from openba_jax.pruning import plan as plans
    from openba_jax.pruning.stages import apply_stage
    from openba_jax.pruning.transform import prune_opt_state, take
    from openba_jax.pruning.vocabulary import pieces_of, prune_vocabulary, sum_counts

    output = Path(output)
    require_free(output)  # Before what takes long.
    model = read_whole(Path(source))
    if keep_optimizer and model.opt_state is None:
        raise UserError(f"{source} has no optimizer state; prune without --keep_optimizer.")
    axes = logical_axes(model.config)
    parent = plans.Plan.identity(model.config, str(source))
    if model.plan is not None:
        try:
            parent = plans.Plan.from_dict(model.plan)
        except UserError as error:
            raise UserError(f"plan.json of {source}: {error}") from error
    vocabulary = None
    if stage.vocabulary is not None:
        if model.tokenizer is None or not counts:
            missing = "tokenizer.model in the folder" if model.tokenizer is None else "token counts"
            raise UserError(f"cutting the vocabulary of {source} needs {missing}.")
        counted = sum_counts(counts, pieces_of(model.tokenizer))
        vocabulary = prune_vocabulary(model.tokenizer, counted, stage.vocabulary)
    child = apply_stage(
        stage,
        parent,
        params=model.params,
        axes=axes,
        vocabulary_rows=None if vocabulary is None else vocabulary.rows,
        one_based=one_based,
    )
    keep = plans.relative(child, parent)
    with (
        only_process(output),
        room_on_disk(output),
        tempfile.TemporaryDirectory() as work,
    ):
        tokenizer = model.tokenizer
        if vocabulary is not None:
            tokenizer = Path(work) / "tokenizer.model"
            vocabulary.save(tokenizer)
        pruned = WholeModel(
            plans.pruned_config(child, like=model.config),
            take(model.params, axes, keep),
            prune_opt_state(model.opt_state, axes, keep) if keep_optimizer else None,
            model.step if keep_optimizer else 0,
            model.data if keep_optimizer else None,
            child.to_dict(),
            tokenizer,
        )
        write_whole(pruned, output, output_format or kind_of(Path(source)))
    return child


def main(argv: Sequence[str]) -> None:
    """Prunes as the flags say."""
    cli.refuse_words(argv)
    values = flags.FLAGS
    from openba_jax.model.counting import parameter_count
    from openba_jax.pruning.plan import pruned_config
    from openba_jax.pruning.stages import Stage

    stage = Stage(
        values.stage or Path(values.output).name,
        drop_encoder=_layers(values.drop_encoder_layers),
        drop_decoder=_layers(values.drop_decoder_layers),
        embed=values.embed,
        heads=values.heads,
        mlp=values.mlp,
        vocabulary=values.vocabulary,
        method=values.method,
        seed=values.seed,
    )
    if not (stage.drop_encoder or stage.drop_decoder or stage.cuts_width or stage.vocabulary):
        raise UserError("nothing to prune; give layers to drop, a width or a vocabulary size.")
    plan = prune_model(
        values.input,
        values.output,
        stage,
        counts=values.counts,
        keep_optimizer=values.keep_optimizer,
        output_format=values.output_format,
        one_based=values.one_based,
    )
    before, after = parameter_count(plan.root_config), parameter_count(pruned_config(plan))
    sys.stdout.write(
        f"{values.output}: {after:,} parameters, {after / before:.1%} of the ancestor's.\n"
    )


def _layers(numbers: Sequence[str]) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in numbers)
    except ValueError as error:
        raise UserError(f"layers to drop are whole numbers, not {', '.join(numbers)}.") from error


def define_flags() -> None:
    """Defines the flags of this main."""
    flags.DEFINE_string(
        "input", None, "Model folder, T5X folder, or one checkpoint in it.", required=True
    )
    flags.DEFINE_string("output", None, "Model folder to write, new or empty.", required=True)
    flags.DEFINE_string("stage", "", "Name of this cut in the plan; by default the folder's.")
    flags.DEFINE_list("drop_encoder_layers", [], "Encoder layers to drop, ancestor's numbers.")
    flags.DEFINE_list("drop_decoder_layers", [], "Decoder layers to drop, ancestor's numbers.")
    flags.DEFINE_bool("one_based", False, "Those numbers count from 1 instead of 0.")
    flags.DEFINE_integer("embed", None, "Width of the residual stream to reach.")
    flags.DEFINE_integer("heads", None, "Attention heads to reach.")
    flags.DEFINE_integer("mlp", None, "Feed-forward width to reach.")
    flags.DEFINE_string("method", "random", "How width is chosen: random or magnitude.")
    flags.DEFINE_integer("seed", 1234, "Seed of the random choice.")
    flags.DEFINE_integer("vocabulary", None, "Pieces to keep by frequency.")
    flags.DEFINE_list("counts", [], "Files of token counts, lines `id count` or `piece id count`.")
    flags.DEFINE_enum(
        "output_format", None, ["native", "t5x"], "What to write; by default what --input is."
    )
    flags.DEFINE_bool("keep_optimizer", False, "Cut optimizer state along and keep the step.")


def run() -> None:
    """Entry point."""
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run()
