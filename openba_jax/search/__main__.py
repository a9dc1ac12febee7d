r"""Searches the shape that a model should be cut to, for a budget.

openba-search --gin_file=gin/runs/native/search.gin --gin.OUTPUT_DIR='"runs/search"' \
  --gin.ANCESTOR='"runs/ancestor"' --gin.CORPUS='["corpus.jsonl"]' --gin.PARAMETERS=0.5

Shapes are ranked by what the scores of all that they drop add up to; the best are cut and trained
for a few steps, the better half twice as long, and so on. Killed at any moment and started again,
the search ends with the same numbers.

    OUTPUT_DIR/search.gin        the settings, and which ancestor; others are refused in this folder
    OUTPUT_DIR/scores.npz        scores of the ancestor
    OUTPUT_DIR/times.json        milliseconds per token of the shapes that were measured
    OUTPUT_DIR/candidates/       losses of each candidate, by step
    OUTPUT_DIR/models/           models of the candidates still in the running
    OUTPUT_DIR/search.{md,json,png}
    OUTPUT_DIR/stage.gin         the best, for openba-pipeline --gin_file
    OUTPUT_DIR.lock              while a search is at work there; a second one is refused
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from openba_jax import cli


def main(argv: Sequence[str]) -> None:
    """Runs the search as the gin files say."""
    cli.reject_positional(argv)

    import gin
    from openba_jax.cli import gin_values
    from openba_jax.distillation.settings import Distillation
    from openba_jax.files import explain_full_disk, only_process
    from openba_jax.parallel.compiled import keep_programs
    from openba_jax.search.budget import Budget
    from openba_jax.search.run import Search
    from openba_jax.staged.checks import claim_folder
    from openba_jax.staged.settings import Data, Phase
    from openba_jax.training import gin_bindings  # noqa: F401 - registers the other names

    for configurable in (Data, Phase, Budget, Distillation, Search):
        gin.external_configurable(gin_values.checked(configurable), configurable.__name__)
    cli.parse_gin()
    search = cli.call_configured(gin.get_configurable("Search"))
    assert isinstance(search, Search)
    root = Path(search.output_dir)
    with only_process(root), explain_full_disk(root):
        claim_folder(root, search.settings(gin.config_str()), "search.gin")
        # Trials of a candidate compile the same programs; so does a search that goes on.
        keep_programs(root / "compiled")
        sys.stdout.write(search.run())
        sys.stdout.write(f"report: {root / 'search.md'}, search.png; cut: {root / 'stage.gin'}\n")


def run() -> None:
    """Entry point."""
    cli.run_with_gin(main, "openba-search")


if __name__ == "__main__":
    run()
