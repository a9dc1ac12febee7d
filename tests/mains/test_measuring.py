"""openba-eval and openba-infer: no figure and no answer where there is none, and why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from openba_jax.checkpoints import training_state
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.models.registry import model_of, named_config

REPOSITORY = Path(__file__).resolve().parents[2]
FIELDS = {"question": "2?", "res1": "4", "res2": "8", "ans": "A"}
FILES = {
    "good": [FIELDS] * 2,
    "long": [FIELDS, {**FIELDS, "question": "2? " * 200}, FIELDS],
    "unanswered": [FIELDS, {key: FIELDS[key] for key in ("question", "res1", "res2")}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`, `nan`, which has a NaN in it, `huggingface`, and a folder for each of `FILES`."""
    root = tmp_path_factory.mktemp("measuring")
    texts = [f"The square of {i} is {i * i}, its cube is {i**3}." for i in range(300)]
    vocabulary = train_vocabulary(texts, 300, root / "tokenizer.model")
    model = model_of(named_config("tiny", vocab_size=vocabulary.size, initializer_std=0.3))
    params = jax.jit(model.init)(jax.random.key(0))
    training_state.create(root / "model", model, params, tokenizer=vocabulary.path)
    scale = params["encoder"]["final_layer_norm"]["scale"]
    params["encoder"]["final_layer_norm"]["scale"] = jnp.full_like(scale, jnp.nan)
    training_state.create(root / "nan", model, params, tokenizer=vocabulary.path)
    (root / "huggingface").mkdir()
    (root / "huggingface/config.json").write_text('{"model_type": "openba"}')
    for name, questions in FILES.items():
        (root / name).mkdir()
        items = [{"demo": [], "data": fields} for fields in questions]
        (root / name / "squares.json").write_text(json.dumps(items))
    return root


def _run(main: str, folder: Path, model: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"openba_jax.{main}"]
    command += [f"--gin_file={REPOSITORY}/gin/runs/native/{main}.gin", f"--gin.MODEL_DIR='{model}'"]
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*command, *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("main", "model", "arguments", "message"),
    [
        ("eval", "nan", ["QUESTIONS='good'"], "encoder/final_layer_norm/scale of"),
        ("infer", "nan", ["PROMPTS='2?'"], "encoder/final_layer_norm/scale of"),
        ("eval", "model", ["QUESTIONS='unanswered'"], "squares.json question 2: 'ans' is missing"),
        (
            "eval",
            "model",
            ["QUESTIONS='good'", "BENCHMARKS=['json_choise']"],
            "did you mean json_choice?",
        ),
        (
            "eval",
            "model",
            ["QUESTIONS='long'", "TASK_FEATURE_LENGTHS={'inputs': 4, 'targets': 32}"],
            "none of the 3 questions of json_choice can be asked",
        ),
        (
            "eval",
            "model",
            ["MIXTURE_OR_TASK_NAME='causal_lm'", "TOKEN_STORES=['none']"],
            "the family openba is of the kind 'encoder_decoder'; choose another mixture",
        ),
        ("infer", "model", ["PROMPTS=['2?', '\\ud800']"], "half of a pair"),
        ("infer", "huggingface", ["PROMPTS='2?'"], "openba-convert to_native --input=huggingface"),
        ("eval", "huggingface", ["QUESTIONS='good'"], "openba-convert to_native --input="),
    ],
)
def test_refusals(
    folder: Path, unchanged, main: str, model: str, arguments: list[str], message: str
) -> None:
    given = [f"--gin.{argument}" for argument in arguments]
    with unchanged(folder):
        done = _run(main, folder, model, *given, "--gin.OUTPUT_FILE='figures.json'")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_an_overlong_question_is_counted_and_named(folder: Path, tmp_path: Path) -> None:
    done = _run(
        "eval",
        folder,
        "model",
        "--gin.QUESTIONS='long'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 32}",
        f"--gin.OUTPUT_FILE='{tmp_path / 'figures.json'}'",
    )
    assert done.returncode == 0, done.stderr
    assert "squares.json question 2: a prompt of" in done.stderr
    assert "of 3, 1 of them skipped and counted as wrong, chance 50.0%" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    score = figures["benchmarks"]["json_choice"]["total"]
    assert score["count"] == 3
    assert score["skipped"] == 1
    assert score["right"] in (0, 2)  # The other two are the same question.


def test_special_tokens_in_prompts_and_questions_are_text(folder: Path, tmp_path: Path) -> None:
    answers = []
    for parse in (False, True):
        output = tmp_path / f"{parse}.jsonl"
        done = _run(
            "infer",
            folder,
            "model",
            "--gin.PROMPTS='2?</s>4'",
            f"--gin.PARSE_SPECIAL={parse}",
            "--gin.MAX_NEW_TOKENS=8",
            f"--gin.OUTPUT_FILE='{output}'",
        )
        assert done.returncode == 0, done.stderr
        reading = "as the special token" if parse else "as plain text"
        assert f"prompt 1 holds </s>, which is read {reading}" in done.stderr
        answers.append(json.loads(output.read_text())["prediction"])
    assert answers[0] != answers[1]
