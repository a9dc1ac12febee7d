r"""Runs a whole compression: data, pretraining, prune and recover, tuning, report.

openba-pipeline --gin_file=gin/runs/native/quickstart.gin --gin.OUTPUT_DIR='"runs/quickstart"'

openba-pipeline --gin_file=gin/runs/native/compress.gin --gin.ANCESTOR='"model"' ... starts from a
model that is there instead of pretraining one.

Every step leaves a file or a folder that appears whole, and is skipped where that is there already;
training resumes inside a step. Killed at any moment and started again, the pipeline ends with the
same numbers.

    OUTPUT_DIR/pipeline.gin      the settings, and which ancestor; others are refused in this folder
    OUTPUT_DIR/data/             tokenizer, token stores, token counts; a pair for each vocabulary
    OUTPUT_DIR/models/NAME/      model folders: pretrain, STAGE.pruned, STAGE, tuned ones, controls
    OUTPUT_DIR/losses/           one JSON file per model that was measured and not trained
    OUTPUT_DIR/scores/           one JSON file per scored model
    OUTPUT_DIR/compiled/         programs that JAX compiled, for the next start
    OUTPUT_DIR/report.{json,md}, losses.png, coverage.png
    OUTPUT_DIR.lock              while a pipeline is at work there; a second one is refused
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from openba_jax import cli


def main(argv: Sequence[str]) -> None:
    """Runs the pipeline as the gin files say."""
    cli.reject_positional(argv)

    import gin
    from openba_jax.cli import gin_values
    from openba_jax.distillation.settings import Distillation
    from openba_jax.files import explain_full_disk, only_process
    from openba_jax.parallel.compiled import keep_programs
    from openba_jax.pruning.stages import Stage
    from openba_jax.staged.checks import claim_folder
    from openba_jax.staged.run import Pipeline
    from openba_jax.staged.settings import Data, Phase
    from openba_jax.training import gin_bindings  # noqa: F401 - registers the other names

    for configurable in (Data, Phase, Stage, Distillation, Pipeline):
        gin.external_configurable(gin_values.checked(configurable), configurable.__name__)
    cli.parse_gin()
    pipeline = cli.call_configured(gin.get_configurable("Pipeline"))
    assert isinstance(pipeline, Pipeline)
    root = Path(pipeline.output_dir)
    with only_process(root), explain_full_disk(root):
        claim_folder(root, pipeline.settings(gin.config_str()))
        # Controls and tuned models compile the same programs; so does a run that goes on.
        keep_programs(root / "compiled")
        sys.stdout.write(pipeline.run())
        sys.stdout.write(f"report: {root / 'report.md'}, losses.png, coverage.png\n")


def run() -> None:
    """Entry point."""
    cli.run_with_gin(main, "openba-pipeline")


if __name__ == "__main__":
    run()
