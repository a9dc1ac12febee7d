r"""Scores a checkpoint: how much each layer, channel, head and unit matters.

openba-score --input=runs/big --output=scores.npz --calibration_stores=data/text \
  --method=taylor,layers=leave_one_out
openba-prune --input=runs/big --output=runs/cut --method=taylor --scores=scores.npz --mlp=6912

The file holds the scores of all axes, so that several cuts can be tried.
Cutting by it streams, and needs no accelerator.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from openba_jax import cli
from openba_jax.errors import UserError
from openba_jax.pruning import calibration_flags


def main(argv: Sequence[str]) -> None:
    """Scores as the flags say."""
    cli.reject_positional(argv)
    values = flags.FLAGS
    from openba_jax.checkpoints.registry import open_checkpoint
    from openba_jax.data.store.outputs import reject_store
    from openba_jax.paths import check_output_file, local, reject_overlap
    from openba_jax.pruning import saved_scores
    from openba_jax.pruning.criteria.base import RANDOM, Scores, Subject
    from openba_jax.pruning.criteria.registry import score
    from openba_jax.pruning.selection import chosen
    from openba_jax.pruning.stages import Stage

    source, output = local(values.input), check_output_file(local(values.output))
    reject_overlap(source, output, "checkpoint to score")
    for store in values.calibration_stores:
        reject_store(store, output)
    if output.exists():  # Scores may be made again; nothing else is written over.
        saved_scores.read(output)
    opened = open_checkpoint(source)
    keys = chosen(opened.model.axes, values.axes)
    methods = Stage("score", method=calibration_flags.methods(values.method)).methods_of(keys)
    if RANDOM in methods.values():
        raise UserError("random scores nothing; name a criterion.")
    text = calibration_flags.calibration_of(opened)
    subject = Subject(opened.model, opened.read, text)
    scores: Scores = {}
    for method in dict.fromkeys(methods.values()):
        scores |= score(method, subject, [key for key in keys if methods[key] == method])
    digest = saved_scores.fingerprint(opened)
    about = {} if text is None else text.source
    saved_scores.SavedScores(scores, methods, digest, about).save(output)
    sys.stdout.write(f"{output}: {', '.join(f'{key} by {methods[key]}' for key in keys)}.\n")


def define_flags() -> None:
    """Defines the flags of this main."""
    flags.DEFINE_string(
        "input", None, "Folder of a checkpoint of any kind, or one checkpoint in it.", required=True
    )
    flags.DEFINE_string("output", None, "File to write, e.g. scores.npz.", required=True)
    flags.DEFINE_list(
        "method",
        ["taylor"],
        "A criterion, and AXIS=CRITERION for axes that have another: taylor,layers=leave_one_out.",
    )
    flags.DEFINE_list(
        "axes", [], "Axes to score, by name (mlp) or key (decoder/mlp); default: all."
    )
    calibration_flags.define_flags()


def run() -> None:
    """Entry point."""
    define_flags()
    cli.run(main)


if __name__ == "__main__":
    run()
