"""Mains from a shell: quick help, one sentence and exit code 2 for a user's mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MAINS = [
    *("train", "eval", "infer", "prune", "convert", "prepare"),
    *("pipeline", "sweep", "inspect.sizes", "facts", "serving.chat", "serving.serve"),
    *("data.ner.__main__", "study.__main__", "search.__main__", "report.__main__"),
    *("pruning.__main__", "inspect.__main__", "fit.__main__"),
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
    by_gin = main in (
        "train",
        "eval",
        "infer",
        "pipeline",
        "sweep",
        "serving.chat",
        "serving.serve",
        "study.__main__",
        "search.__main__",
        "fit.__main__",
    )
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
        (
            ["openba_jax.prune", "--input=none", "--output=out", "--embed=3", "--counts=a"],
            "--counts without --vocabulary",
        ),
        (
            ["openba_jax.prune", "--input=none", "--output=out", "--embed=3", "--one_based"],
            "--one_based counts layers to drop",
        ),
        (["openba_jax.inspect.sizes", "--models=huge"], "huge"),
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


@pytest.mark.parametrize(
    "main", ["train", "eval", "infer", "pipeline", "sweep", "study.__main__", "search.__main__"]
)
def test_without_a_gin_file_there_is_a_list_of_them(main: str, tmp_path: Path) -> None:
    code = (
        f"import sys, openba_jax.{main} as main; sys.argv = ['main', *sys.argv[1:]]\n"
        "try:\n"
        "    main.run()\n"
        "except SystemExit as end:\n"
        "    heavy = {'jax', 'flax', 'tensorflow', 'matplotlib'} & set(sys.modules)\n"
        "    sys.exit(f'imported {heavy}' if heavy else end.code)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    result = run()
    assert result.returncode == 2, result.stderr
    assert not result.stdout
    first, *files = result.stderr.splitlines()
    command = f"openba-{main.partition('.')[0]}"
    assert first.startswith(f"error: name a gin file with --gin_file; {command} has these")
    assert files
    for line in files:
        name, what = line.split(maxsplit=1)
        assert what.endswith((".", "?"))
        # Each of them can be given, and tells its macros.
        listed = run(f"--gin_file={name}", "--macros")
        assert listed.returncode == 0, listed.stderr
        assert "(to be given)" in listed.stdout
    assert not list(tmp_path.iterdir())


def test_macros_are_listed_with_values_and_comments(tmp_path: Path) -> None:
    (tmp_path / "mine.gin").write_text(
        "# A file of mine.\ninclude 'gin/runs/native/infer.gin'\n\n"
        "# How hot\n# it is.\nHEAT = %TEMPERATURE\nTOP_K = 5\n"
    )
    arguments = (f"--gin_file={tmp_path}/mine.gin", "--macros", "--gin.SEED=7")
    result = _run("openba_jax.infer", *arguments)
    assert result.returncode == 0, result.stderr
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in result.stdout.splitlines()}
    assert rows["SEED"] == ["7", "Of sampling."]
    assert rows["TOP_K"] == ["5", "Sample from so many tokens; 0 takes all."]
    assert rows["HEAT"] == ["%TEMPERATURE", "How hot it is."]
    assert "MODEL_DIR" in rows


@pytest.mark.parametrize("arguments", ["--help", "--models=tiny"])
def test_a_reader_that_stops_reading_is_no_error(arguments: str) -> None:
    # A pipe that nobody reads from.
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "openba_jax.inspect.sizes", arguments],
        cwd=REPOSITORY,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert result.stderr == ""
    assert result.returncode == 141


def test_what_latin_1_cannot_say_is_escaped_and_a_full_disk_is_one_sentence(
    folder: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", disk]
    mounted = not subprocess.run(command, capture_output=True, check=False).returncode
    try:
        result = subprocess.run(
            [
                *(sys.executable, "-m", "openba_jax.infer"),
                *("--gin_file=gin/runs/native/infer.gin", f"--gin.MODEL_DIR='{folder}/model'"),
                *("--gin.PROMPTS='日本'", "--gin.MAX_NEW_TOKENS=2"),
            ],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONIOENCODING": "latin-1"},
            capture_output=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert rb"\u65e5\u672c" in result.stdout
        if not mounted:
            pytest.skip("mounting a small disk needs the rights of root")
        done = _run(
            "openba_jax.train",
            "--gin_file=gin/runs/native/recover.gin",
            f"--gin.INITIAL_CHECKPOINT_PATH='{folder}/model'",
            f"--gin.MODEL_DIR='{disk}/model'",
            f"--gin.TOKEN_STORES='{folder}/spans'",
            f"--gin.VOCABULARY='{folder}/tokenizer.model'",
            "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 32}",
            *("--gin.BATCH_SIZE=2", "--gin.TRAIN_STEPS=1"),
        )
        assert done.returncode == 2, done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert lines == [
            f"error: the disk is full while {disk}/model is written; make room and start again, "
            "what was complete before is intact."
        ]
    finally:
        if mounted:
            subprocess.run(["umount", disk], check=True)
