"""Asks tasks of lm-evaluation-harness: its own command line, which knows our models.

openba-lm-eval run --model openba_jax --model_args path=runs/model --tasks arc_easy --batch_size 16

It takes what `lm_eval` takes. The harness itself looks for no models outside of its package; this
command registers those that installed packages name below the entry points `lm_eval.models`.
"""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import sys

from openba_jax.cli.arguments import VERSION
from openba_jax.errors import UserError

GROUP = "lm_eval.models"
"""The entry points that name models."""

OURS = {"openba_jax": "openba_jax.harness.model:HarnessModel"}
"""Ours, as setup.cfg names it; known without an installation, too."""


def register_models() -> None:
    """Makes the harness know the models that installed packages name, without importing them.

    Raises:
      UserError: the harness is not installed.
    """
    try:
        import lm_eval.models  # noqa: F401 - it registers the harness's own.
        from lm_eval.api.registry import model_registry
    except ImportError as error:
        raise UserError(
            "lm-evaluation-harness is not installed; pip install 'openba_jax[harness]'."
        ) from error
    found = {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}
    for name, target in {**found, **OURS}.items():
        if name not in model_registry:
            model_registry.register(name, target=target)


def main() -> None:
    """Runs the harness."""
    register_models()
    # The harness estimates errors and writes tables in other processes. Forked from one that has
    # JAX's threads, they may hang.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    multiprocessing.set_start_method("forkserver")
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


def run() -> None:
    """Entry point."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"{VERSION}\n")
        return
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    run()
