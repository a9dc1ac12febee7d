"""A search from its gin file: it ends with a table and a stage file, resumes, and refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_ancestor import data_of

from openba_jax.checkpoints import model_folder
from openba_jax.errors import UserError
from openba_jax.search.budget import Budget
from openba_jax.search.run import Search
from openba_jax.staged.settings import Phase

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = 2
FILES = ["search.json", "search.md", "search.png", "stage.gin"]


def _command(main: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"openba_jax.{main}", *arguments]


def _run(main: str, *arguments: str, ends: int = 0) -> str:
    done = subprocess.run(
        _command(main, *arguments), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == ends, done.stderr
    return done.stdout if not ends else done.stderr


@pytest.fixture(scope="module")
def settings(corpus: Path, ancestor: Path) -> list[str]:
    values = {
        "ANCESTOR": str(ancestor),
        "CORPUS": [str(corpus / "corpus.jsonl")],
        "PARAMETERS": 0.6,
        "MULTIPLES": {"embed": 8, "mlp": 16},
        "CALIBRATION_BATCHES": 1,
        "CANDIDATES": 3,
        "STEPS": STEPS,
        "ESTIMATE": "scores",
        "GROUP_SIZE": 28,
        "INPUTS_LENGTH": 48,
        "TARGETS_LENGTH": 24,
        "BATCH_SIZE": 8,
        "HELD_OUT": 16,
        "EVAL_STEPS": 1,
    }
    flags = [f"--gin.{name}={value!r}" for name, value in values.items()]
    return ["--gin_file=gin/runs/native/search.gin", *flags]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, settings: list[str]) -> Path:
    output = tmp_path_factory.mktemp("search") / "search"
    shown = _run("search", *settings, f"--gin.OUTPUT_DIR={str(output)!r}")
    assert "[5/5] shape_" in shown
    assert "is the best of 3 candidates" in shown
    return output


def _found(output: Path) -> dict:
    return json.loads((output / "search.json").read_text())


def test_all_candidates_are_in_the_table_and_within_the_budget(finished: Path) -> None:
    found = _found(finished)
    limit = found["budget"]["limit"]
    assert limit == found["ancestor"]["parameters"] * 0.6
    assert [each["name"] for each in found["candidates"]] == ["shape_1", "shape_2", "shape_3"]
    for each in found["candidates"]:
        assert each["parameters"] == each["cost"] <= limit
        assert each["milliseconds_per_token"] is None
    damages = [each["damage"] for each in found["candidates"]]
    assert damages == sorted(damages)
    table = (finished / "search.md").read_text()
    for head in (
        "decoder/layers",
        "estimated damage",
        "loss after the cut",
        f"after {STEPS} steps",
    ):
        assert head in table
    assert (finished / "search.png").read_bytes().startswith(b"\x89PNG")


def test_the_better_ones_are_trained_on_and_the_best_stays(finished: Path) -> None:
    found = _found(finished)
    trained = {each["name"]: each["losses"] for each in found["candidates"]}
    first = {name: losses[str(STEPS)] for name, losses in trained.items()}
    out = max(first, key=lambda name: first[name])
    for name, losses in trained.items():
        assert list(losses) == ["0", "2"] if name == out else ["0", "2", "4"]
    last = {name: losses["4"] for name, losses in trained.items() if "4" in losses}
    best = min(last, key=lambda name: last[name])
    assert found["best"] == best
    assert {path.name for path in (finished / "models").iterdir()} == {best, f"{best}.pruned"}
    assert any(each["pareto"] for each in found["candidates"])


def test_the_pipeline_takes_the_stage_file_and_makes_the_same_cut(
    finished: Path, tmp_path: Path
) -> None:
    output = tmp_path / "pipeline"
    _run(
        "pipeline",
        f"--gin_file={finished / 'stage.gin'}",
        f"--gin.OUTPUT_DIR={str(output)!r}",
        "--gin.RECOVER_TOKENS=0",
    )
    found = _found(finished)
    best = next(each for each in found["candidates"] if each["name"] == found["best"])
    model = model_folder.load_model(output / "models" / "cut")
    assert model == model_folder.load_model(finished / "models" / found["best"])
    loss = json.loads((output / "losses" / "cut.json").read_text())["loss"]
    assert loss == pytest.approx(best["losses"]["0"], rel=1e-6)
    assert (output / "models/cut/scores.npz").exists()


def _copy(finished: Path, output: Path) -> None:
    shutil.copytree(finished, output)
    text = (finished / "search.gin").read_text().replace(str(finished), str(output))
    (output / "search.gin").write_text(text)


def test_what_is_done_is_not_done_again(finished: Path, settings: list[str]) -> None:
    output = finished.with_name("second")  # As long as the first name: gin breaks lines by width.
    assert len(output.name) == len(finished.name)
    _copy(finished, output)
    for name in FILES:
        (output / name).unlink()
    shutil.rmtree(output / "models")
    shown = _run("search", *settings, f"--gin.OUTPUT_DIR={str(output)!r}")
    assert "training" not in shown
    assert "scoring" not in shown
    assert _found(output) == _found(finished)
    assert (output / "stage.gin").exists()


@pytest.mark.slow(reason="kills and restarts a search several times")
def test_killed_anywhere_the_numbers_are_the_same(
    finished: Path, tmp_path: Path, settings: list[str]
) -> None:
    output = tmp_path / "search"
    command = _command("search", *settings, f"--gin.OUTPUT_DIR={str(output)!r}")
    for name in ("shape_1", "shape_2", "shape_3"):
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (output / "candidates" / f"{name}.json").exists():
            time.sleep(0.05)
        time.sleep(1.0)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    assert _found(output) == _found(finished)


def test_other_settings_are_refused_in_a_used_folder(finished: Path, settings: list[str]) -> None:
    said = _run(
        "search",
        *settings,
        f"--gin.OUTPUT_DIR={str(finished)!r}",
        "--gin.STEPS=3",
        ends=2,
    )
    assert "holds a run with other settings" in said
    assert "search.gin" in said


def _search(output: Path, corpus: Path, ancestor: Path, **changes) -> Search:
    settings = {
        "output_dir": str(output),
        "ancestor": str(ancestor),
        "data": data_of(corpus),
        "budget": Budget(parameters=0.5),
        "recover": Phase("ul2", peak=3e-3, minimum=3e-4),
    }
    return Search(**{**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": Budget(parameters=10)}, "no shape is within 10 parameters; the nearest has"),
        ({"budget": Budget(flops_per_example=1e3)}, "GFLOP per example; the nearest has"),
        ({"budget": Budget(parameters=10**9)}, "nothing has to be cut"),
        ({"axes": ["hats"]}, "'hats'"),
        ({"axes": ["mlp"], "multiples": {"mlp": 64}}, "nothing can move"),
        ({"width_method": "magnitude", "estimate": "scores"}, "magnitude are no changes of the"),
        ({"layer_method": "fisher", "estimate": "scores"}, "fisher are no changes of the loss"),
        ({"estimate": "guess"}, "'guess'; known are measured and scores"),
        ({"width_method": "random"}, "random has none"),
        ({"width_method": "leave_one_out"}, "leave_one_out scores layers, and embed is none"),
        ({"layer_method": "activation"}, "activation scores no layers"),
        ({"width_method": "guess"}, "guess"),
        ({"compensation": "glue"}, "'glue'"),
        ({"calibration_batches": 0}, "calibration_batches is 0"),
        ({"candidates": 0}, "candidates is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"vocabularies": [9]}, "to 9"),
        ({"vocabularies": [400], "compensation": "ridge"}, "cannot read the text"),
        ({"recover": Phase("causal_lm", 1e-3, 1e-4)}, "'decoder_only'"),
        ({"ancestor": "nowhere"}, "nowhere"),
    ],
)
def test_searches_that_cannot_be_are_refused_before_anything_is_made(
    tmp_path: Path, corpus: Path, ancestor: Path, changes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _search(tmp_path / "run", corpus, **{"ancestor": ancestor, **changes})
    assert not (tmp_path / "run").exists()
