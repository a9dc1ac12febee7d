"""openba-infer and openba-eval on a folder: what they say, on one device, eight, two processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run(
    main: str, *arguments: str, devices: int = 1, processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """Runs a main, in several processes perhaps, of `devices` each; returns how the first ended."""
    command = [sys.executable, "-m", f"openba_jax.{main}", f"--gin_file=gin/runs/native/{main}.gin"]
    flags = f"--xla_force_host_platform_device_count={devices}"
    together: list[list[str]] = [[]]
    if processes > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"--coordinator_address=127.0.0.1:{probe.getsockname()[1]}"
        together = [
            [address, f"--process_count={processes}", f"--process_index={index}"]
            for index in range(processes)
        ]
    started = [
        subprocess.Popen(
            [*command, *arguments, *place],
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in together
    ]
    outputs = [process.communicate(timeout=300) for process in started]
    assert not any(output for output, _ in outputs[1:] if not output.startswith("[Gloo]"))
    return subprocess.CompletedProcess(command, started[0].returncode, *outputs[0])


@pytest.mark.parametrize(
    ("devices", "processes", "mesh"),
    [(1, 1, "(-1, 1, 1)"), (8, 1, "(2, 2, 2)"), (2, 2, "(2, 1, 2)")],
)
def test_figures_and_answers(
    folder: Path, tmp_path: Path, devices: int, processes: int, mesh: str
) -> None:
    shared = [f"--gin.MODEL_DIR='{folder / 'model'}'", f"--gin.MESH_SHAPE={mesh}"]
    machine = {"devices": devices, "processes": processes}
    done = run(
        "eval",
        *shared,
        f"--gin.QUESTIONS='{folder / 'questions'}'",
        "--gin.MIXTURE_OR_TASK_NAME='ul2'",
        f"--gin.TOKEN_STORES='{folder / 'spans'}'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 32}",
        "--gin.BATCH_SIZE=8",
        "--gin.EVAL_STEPS=2",
        f"--gin.OUTPUT_FILE='{tmp_path / 'figures.json'}'",
        **machine,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    answers = run(
        "infer",
        *shared,
        "--gin.PROMPTS='Two?'",
        "--gin.MAX_NEW_TOKENS=4",
        f"--gin.OUTPUT_FILE='{tmp_path / 'answers.jsonl'}'",
        **machine,
    )
    assert answers.returncode == 0, answers.stderr
    (answer,) = map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())
    assert answer["inputs"] == "Two?"
    # The first case is the measure of the second.
    reference = folder / "reference.json"
    if devices == 1:
        reference.write_text(json.dumps([figures, answer]))
    known, known_answer = json.loads(reference.read_text())
    assert figures["loss"]["loss"] == pytest.approx(known["loss"]["loss"], abs=1e-4)
    assert figures["benchmarks"] == known["benchmarks"]
    assert answer == known_answer


def test_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in (folder / "model").iterdir():
        (model / path.name).symlink_to(path)
    (model / "tokenizer.model").unlink()
    (model / "tokenizer.model").symlink_to(folder / "large.model")
    done = run("infer", f"--gin.MODEL_DIR='{model}'", "--gin.PROMPTS=['Two?']")
    assert done.returncode == 2
    assert "give the tokenizer that the model was trained with" in done.stderr


def test_lengths_that_are_not_complete(folder: Path) -> None:
    done = run(
        "eval",
        f"--gin.MODEL_DIR='{folder / 'model'}'",
        f"--gin.QUESTIONS='{folder / 'questions'}'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 40}",
    )
    assert done.returncode == 2
    assert "TASK_FEATURE_LENGTHS is {'inputs': 40}; it needs 'inputs' and" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gin.MAX_NEW_TOKEN=3"], "did you mean MAX_NEW_TOKENS?"),
        (["--gin.MODEL_DIR=model"], "text stands in quotes: 'model'"),
        (["--gin.MODEL_DIR='model'"], "there is no prompt"),
        (["--gin.MODEL_DIR='model'", "--gin.MAX_NEW_TOKENS=0"], "MAX_NEW_TOKENS must be"),
        (["--gin.MODEL_DIR='model'", "--gin.PROMPTS='a'", "--gin.OUTPUT_FILE='.'"], "is a folder"),
        (["--gin.TEMPERATURE='hot'", "--gin.MODEL_DIR='model'"], "infer.temperature is 'hot'"),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    done = run("infer", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
