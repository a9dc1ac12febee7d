r"""Runs a study: recipes of compression over seeds at equal tokens, from one ancestor.

openba-study --gin_file=gin/studies/distillation.gin --gin.ANCESTOR='"runs/ancestor"' \
  --gin.CORPUS='["corpus.jsonl"]' --gin.OUTPUT_DIR='"runs/study"'

A cell is a recipe with a seed at a number of tokens. Cells leave their figures, and the report is
written anew after each; killed at any moment and started again, the study ends with the same
numbers. More recipes, tokens and seeds may join a folder. Every cell has a gin file of its own,
which does it again in another folder:

openba-study --gin_file=OUTPUT_DIR/cells/CELL.gin --gin.OUTPUT_DIR='"runs/again"'

    OUTPUT_DIR/study.json        what all cells share: data, ancestor; others are refused here
    OUTPUT_DIR/study.gin         the settings of the last start
    OUTPUT_DIR/cells/CELL.json   figures of a finished cell; CELL.gin does it again
    OUTPUT_DIR/data/             token stores, for each vocabulary
    OUTPUT_DIR/models/           models of the cell at work; with KEEP_MODELS of all
    OUTPUT_DIR/report.{md,json,html}, curves.png, ends.png
    OUTPUT_DIR/compiled/         programs that JAX compiled, for the next start
    OUTPUT_DIR.lock              while a study is at work there; a second one is refused
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from openba_jax import cli


def main(argv: Sequence[str]) -> None:
    """Runs the study as the gin files say."""
    cli.reject_positional(argv)

    import gin
    from openba_jax.cli import gin_values
    from openba_jax.distillation.settings import Distillation
    from openba_jax.files import explain_full_disk, only_process
    from openba_jax.parallel.compiled import keep_programs
    from openba_jax.pruning.stages import Stage
    from openba_jax.staged.checks import claim_folder
    from openba_jax.staged.settings import Data, Phase
    from openba_jax.study.recipes import Recipe
    from openba_jax.study.run import Study
    from openba_jax.training import gin_bindings  # noqa: F401 - registers the other names

    for configurable in (Data, Phase, Stage, Distillation, Recipe, Study):
        gin.external_configurable(gin_values.checked(configurable), configurable.__name__)
    cli.parse_gin()
    study = cli.call_configured(gin.get_configurable("Study"))
    assert isinstance(study, Study)
    root = Path(study.output_dir)
    with only_process(root), explain_full_disk(root):
        settings = gin.config_str()
        claim_folder(root, study.shared(), "study.json")
        # Cells compile the same programs; so does a study that goes on.
        keep_programs(root / "compiled")
        sys.stdout.write(study.run(settings))
        sys.stdout.write(f"report: {root / 'report.md'}, report.html\n")


def run() -> None:
    """Entry point."""
    cli.run_with_gin(main, "openba-study")


if __name__ == "__main__":
    run()
