"""Mains from a shell: quick help, one sentence and exit code 2 for a user's mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MAINS = [
    *("train", "eval", "infer", "prune", "convert", "prepare"),
    *("pipeline", "sweep", "sizes", "facts"),
]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("main", MAINS)
def test_help_says_it_all_and_imports_nothing_heavy(main: str) -> None:
    # As the installed command does it, whose `__main__` is a script. What takes long is imports; a
    # test of seconds would fail on a busy machine.
    module = "examples.facts.__main__" if main == "facts" else f"openba_jax.{main}"
    code = (
        "import sys, absl.app; sys.argv = ['main', '--help']\n"
        "try:\n"
        f"    import {module} as main; main.run()\n"
        "except SystemExit:\n"
        "    heavy = {'jax', 'flax', 'orbax', 'tensorflow', 'seqio', 'torch'} & set(sys.modules)\n"
        "    sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    said, _, flags = result.stdout.partition("\nflags:\n")
    assert said.strip()
    by_gin = main in ("train", "eval", "infer", "pipeline", "sweep")
    assert ("--gin_file" if by_gin else "--") in flags.partition("Try --helpfull")[0]


def test_core_needs_neither_tensorflow_nor_seqio() -> None:
    code = (
        "import sys\n"
        "import openba_jax.training.train_step, openba_jax.inference.decoding\n"
        "import openba_jax.pruning.transform, openba_jax.training.trainer\n"
        "import openba_jax.data.loader, openba_jax.staged.run\n"
        "heavy = {'tensorflow', 'seqio', 't5x', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["openba_jax.train", "--gin_file=nowhere.gin"], "nowhere.gin"),
        (["openba_jax.train", "--gin.train.stepz=3"], "stepz"),
        (["openba_jax.train", "--gin.MODEL_DIR"], "--gin.MODEL_DIR has no value"),
        (["openba_jax.infer", "--gin.infer.model_dir='none'", "--gin.infer.prompts=['a']"], "none"),
        (["openba_jax.prune", "--input=none", "--output=out"], "nothing to prune"),
        (["openba_jax.prune", "--input=none", "--output=out", "--embed=3"], "none"),
        (["openba_jax.sizes", "--models=huge"], "huge"),
        (["openba_jax.prepare", "words"], "say what to do"),
        (
            ["openba_jax.pipeline", "--gin_file=gin/runs/native/quickstart.gin"],
            "OUTPUT_DIR",
        ),
    ],
)
def test_mistakes_get_one_sentence(arguments: list[str], message: str) -> None:
    result = _run(*arguments)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
