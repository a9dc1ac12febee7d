"""`openba-fit` from a shell, where the chip's compiler is absent."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from openba_jax.errors import UserError
from openba_jax.fit.chips import find_slice

REPOSITORY = Path(__file__).resolve().parents[2]

# As the installed command; whatever is installed, the compilers are not found.
PROGRAM = """
from openba_jax.fit.environment import prepare
prepare()
from openba_jax.fit import compilers
compilers.has_compiler = lambda platform: False
from openba_jax.fit import __main__ as main
main.run()
"""


def openba_fit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_virtual_devices_stand_in_and_the_report_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.gin").write_text(
        "include 'gin/models/tiny.gin'\n"
        "include 'gin/runs/native/pretrain.gin'\n"
        "TASK_FEATURE_LENGTHS = {'inputs': 16, 'targets': 8}\n"
        "BATCH_SIZE = 8\n"
        "MESH_SHAPE = (-1, 2, 1)\n"
    )
    output = tmp_path / "fit"
    done = openba_fit(
        f"--gin_file={tmp_path / 'run.gin'}",
        "--chip=h100",
        "--topology=1x2",
        "--steps=evaluate,score",
        f"--output={output}",
    )
    assert done.returncode == 0, done.stderr
    assert "2 virtual CPU devices, for want of its compiler" in done.stdout
    assert "This is no figure of the chip" in done.stdout
    assert (output / "fit.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads((output / "fit.json").read_text(encoding="utf-8"))
    found, score = document["fits"]
    assert (found["step"], score["step"]) == ("evaluate", "score")
    # A pass that scores is a forward and a backward pass, and has no optimizer.
    assert 2.8 < score["compiled_flops"] / found["compiled_flops"] < 3.2
    assert score["memory"]["optimizer"] == 0
    assert document["lengths"] == {"inputs": 16, "targets": 8}
    assert found["mesh"] == {"data": 1, "fsdp": 2, "model": 1}
    assert found["stand_in"] is True
    # Two devices hold one copy; what nothing divides both hold.
    assert 1 <= 2 * found["memory"]["parameters"] / (4 * document["parameters"]) < 1.1
    assert found["memory"]["total"] < found["memory"]["limit"]
    assert found["collectives"]["all-gather"]["received"] > 0
    # Causal attention is counted half in the model's FLOPs, and whole in the compiled ones.
    assert 1 <= found["compiled_flops"] / found["model_flops"] < 1.1
    assert found["seconds"]["exposed"] >= found["seconds"]["hidden"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chip=v9", "--chips=4"], "no chip is called 'v9'; known are v5e"),
        (["--chip=v5e", "--chips=4", "--remats=full"], "--remats is for --search."),
        (["--chip=v5e", "--chips=4", "--mesh=1x3x1"], "does not fit 4 devices"),
        (["--chip=v5e", "--chips=4", "--mesh=1x2x2"], "batch_size 3 is not a multiple"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], message: str) -> None:
    workload = ["--model=tiny", "--batch=3", "--encoder_length=8", "--decoder_length=8"]
    done = openba_fit(*workload, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


RUNS = sorted((REPOSITORY / "gin/runs/fit").glob("*.gin"))


def command_of(path: Path) -> list[str]:
    """The words behind `openba-fit` in the first comment of a file."""
    header = path.read_text(encoding="utf-8").partition("\n\n")[0]
    (words,) = re.findall(r"# openba-fit (.*?)\n#\n", header, re.DOTALL)
    return str(words).replace("\\\n#", "").split()


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_published_runs_use_all_their_chips(path: Path) -> None:
    words = dict(word.removeprefix("--").split("=") for word in command_of(path))
    text = path.read_text(encoding="utf-8")
    sizes = ast.literal_eval(re.findall(r"(?m)^MESH_SHAPE = (\(.*?\))", text)[0])
    assert math.prod(sizes) == find_slice(words["chip"], count=int(words["chips"])).count
    assert words["gin_file"] == path.relative_to(REPOSITORY).as_posix()


def test_a_published_run_needs_no_data() -> None:
    """What the file says is what is compiled; that the batch divides is checked first."""
    (path,) = (path for path in RUNS if path.stem == "llama_7b_h100_8")
    done = openba_fit(*command_of(path), "--batch=1")
    assert "batch_size 1 is not a multiple of accumulation 16 times the 8 devices" in done.stderr
    done = openba_fit(*(word for word in command_of(path) if "--model" not in word))
    assert "name a size of its shape with --model" in done.stderr


def test_meshes_and_numbers_are_checked() -> None:
    from openba_jax.fit.settings import mesh_shape, numbers

    assert mesh_shape("2x-1x1") == (2, -1, 1)
    assert numbers(["8", "16"], "batches") == [8, 16]
    for text in ("4", "1x2", "1xtwox1", "1x--2x1"):
        with pytest.raises(UserError, match="data x fsdp x model"):
            mesh_shape(text)
    with pytest.raises(UserError, match="--batches has '0'"):
        numbers(["0"], "batches")
