"""A study from its gin file: it ends with a report, resumes, and every cell can be done again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_ancestor import data_of

from openba_jax.errors import UserError
from openba_jax.pruning.stages import Stage
from openba_jax.staged.settings import Phase
from openba_jax.study.recipes import Recipe
from openba_jax.study.run import Study

REPOSITORY = Path(__file__).resolve().parents[2]
TOKENS = 4 * 8 * (48 + 24)  # of 4 steps
NAMES = [f"{recipe}.{TOKENS}.{seed}" for seed in (0, 1) for recipe in ("pruned", "scratch")]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "openba_jax.study", *arguments]


def _run(*arguments: str) -> str:
    done = subprocess.run(
        _command(*arguments), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def settings(corpus: Path, ancestor: Path) -> list[str]:
    """What makes the shipped study of random parameters a small one."""
    values = {
        "ANCESTOR": str(ancestor),
        "CORPUS": [str(corpus / "corpus.jsonl")],
        "QUESTIONS": str(corpus / "questions"),
        "TOKENS": [TOKENS],
        "SEEDS": [0, 1],
        "EVAL_PERIOD": 2,
        "Study.log_every": 1,
        "Study.checkpoint_every": 2,
        "Data.encoder_length": 48,
        "Data.decoder_length": 24,
        "Data.batch_size": 8,
        "Data.held_out": 16,
        "Data.eval_batches": 1,
        "cut/Stage.drop_encoder": [],
        "cut/Stage.drop_decoder": [1],
        "cut/Stage.embed": 24,
        "cut/Stage.mlp": 48,
        "METHOD": "random",
    }
    flags = [f"--gin.{name}={value!r}" for name, value in values.items()]
    recipes = "--gin.Study.recipes=[@pruned/Recipe(), @scratch/Recipe()]"
    return ["--gin_file=gin/studies/scratch.gin", *flags, recipes]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, settings: list[str]) -> Path:
    output = tmp_path_factory.mktemp("study") / "study"
    shown = _run(*settings, f"--gin.OUTPUT_DIR={str(output)!r}")
    assert re.search(r"\[cell 1/4\] pruned\.\d+\.0: loss \d\.\d+, \d+:\d\d left", shown)
    return output


def _cell(output: Path, name: str) -> dict:
    return json.loads((output / "cells" / f"{name}.json").read_text())


def test_the_report_is_of_all_cells(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    assert report["missing"] == []
    assert [line["recipe"] for line in report["recipes"]] == ["pruned", "scratch"]
    pruned, scratch = report["recipes"]
    assert pruned["parameters"] == scratch["parameters"] < report["ancestor"]["parameters"]
    assert pruned["loss"]["low"] < pruned["loss"]["value"] < pruned["loss"]["high"]
    assert scratch["difference"]["seeds"] == 2
    assert scratch["cut"] is None
    markdown = (finished / "report.md").read_text()
    for title in ("Recipes", "Loss per denoiser", "Accuracy per subject"):
        assert f"## {title}" in markdown
    assert "Not finished" not in markdown


def test_cells_are_evaluated_on_the_way_and_differ_by_seed(finished: Path) -> None:
    first, other = (_cell(finished, f"pruned.{TOKENS}.{seed}") for seed in (0, 1))
    assert first["curves"][0]["tokens"] == [0, TOKENS // 2, TOKENS]
    assert first["loss_before"] == other["loss_before"]
    assert first["loss_cut"] != other["loss_cut"]  # Drawn at random.
    assert first["loss"] != other["loss"]
    assert set(first["losses"]) >= {"ul2_r3", "ul2_x8"}
    assert first["scores"]["total"]["count"] == 112


def test_models_of_finished_cells_are_gone(finished: Path) -> None:
    assert list((finished / "models").iterdir()) == []


def test_a_cell_comes_out_the_same_from_its_own_gin_file(finished: Path, tmp_path: Path) -> None:
    name = f"pruned.{TOKENS}.1"
    file = finished / "cells" / f"{name}.gin"
    _run(f"--gin_file={file}", f"--gin.OUTPUT_DIR={str(tmp_path / 'again')!r}")
    assert sorted(path.name for path in (tmp_path / "again/cells").glob("*.json")) == [
        f"{name}.json"
    ]
    assert _cell(tmp_path / "again", name) == _cell(finished, name)


def test_what_is_done_is_not_done_again_and_what_is_lost_is(
    finished: Path, settings: list[str]
) -> None:
    copy = finished.with_name("again")
    shutil.copytree(finished, copy)
    lost = f"scratch.{TOKENS}.0"
    (copy / "cells" / f"{lost}.json").unlink()
    times = {name: (copy / "cells" / f"{name}.json").stat().st_mtime_ns for name in NAMES[2:]}
    _run(*settings, f"--gin.OUTPUT_DIR={str(copy)!r}")
    assert (copy / "report.json").read_bytes() == (finished / "report.json").read_bytes()
    for name, before in times.items():
        assert (copy / "cells" / f"{name}.json").stat().st_mtime_ns == before


def test_a_folder_gets_more_seeds_and_refuses_other_settings(
    finished: Path, settings: list[str]
) -> None:
    copy = finished.with_name("grown")
    shutil.copytree(finished, copy)
    output = f"--gin.OUTPUT_DIR={str(copy)!r}"
    only = "--gin.Study.recipes=[@pruned/Recipe()]"
    shown = _run(*settings, output, only, "--gin.SEEDS=[0, 1, 2]")
    assert "[cell 3/3]" in shown
    assert "[cell 2/3]" not in shown
    assert f"asks for it: scratch.{TOKENS}.0 and 1 more" in shown
    report = json.loads((copy / "report.json").read_text())
    assert report["recipes"][0]["loss"]["seeds"] == 3
    for name in NAMES:
        assert _cell(copy, name) == _cell(finished, name)

    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    for change, message in (
        ("--gin.METHOD='magnitude'", f"pruned.{TOKENS}.0.json was made with other settings"),
        ("--gin.Data.held_out=8", 'other settings (new is "held_out": 8'),
    ):
        done = subprocess.run(
            _command(*settings, output, only, change),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert message in done.stderr
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_without_tokens_models_are_cut_and_measured(
    tmp_path: Path, corpus: Path, ancestor: Path
) -> None:
    other = Recipe("layers", [Stage("layers", drop_decoder=[1])])
    study = _study(tmp_path / "cut", corpus, ancestor, tokens=[0], recipes=[WIDTH, other])
    study.run()
    report = json.loads((tmp_path / "cut/report.json").read_text())
    for line in report["recipes"]:
        assert line["cut"]["value"] == line["loss"]["value"]
        assert line["reach"] is None
    assert not (tmp_path / "cut/curves.png").exists()
    assert (tmp_path / "cut/ends.png").exists()


@pytest.mark.slow(reason="kills and restarts a study several times")
def test_killed_anywhere_the_numbers_are_the_same(
    finished: Path, tmp_path: Path, settings: list[str]
) -> None:
    output = tmp_path / "study"
    command = _command(*settings, f"--gin.OUTPUT_DIR={str(output)!r}")
    for name in NAMES:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (output / "cells" / f"{name}.json").exists():
            time.sleep(0.05)
        time.sleep(3.0)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    assert (output / "report.json").read_bytes() == (finished / "report.json").read_bytes()


WIDTH = Recipe("width", [Stage("width", mlp=48)])
SCRATCH = Recipe("scratch", WIDTH.stages, from_scratch=True)


def _study(output: Path, corpus: Path, ancestor: Path, **changes) -> Study:
    settings = {
        "output_dir": str(output),
        "ancestor": str(ancestor),
        "data": data_of(corpus),
        "recipes": [WIDTH],
        "recover": Phase("ul2", peak=3e-3, minimum=3e-4),
        "tokens": [TOKENS],
        "seeds": [0],
    }
    return Study(**{**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipes": []}, "needs recipes"),
        ({"recipes": [WIDTH, WIDTH]}, "each of them once; it has width, width"),
        ({"seeds": [1, 1]}, "needs seeds"),
        ({"seeds": [-1]}, "seeds is -1"),
        ({"tokens": [-1]}, "tokens is -1"),
        ({"tokens": [1, 2]}, "1 and 2 tokens are both 1 steps of"),
        ({"tokens": [0, 1000]}, "0, which only cuts, beside 1000"),
        ({"tokens": [0], "recipes": [SCRATCH]}, "scratch starts from random parameters"),
        ({"baseline": "best"}, "'best' is no recipe; there are width"),
        ({"cells": ["width.1.0"]}, f"no cell width.1.0; .* such as width.{TOKENS}.0"),
        ({"recipes": [Recipe("a", [Stage("a", mlp=4096)])]}, "4096"),
        ({"recipes": [Recipe("a", [Stage("a", mlp=8)], method="guess")]}, "guess"),
        ({"recover": Phase("causal_lm", 1e-3, 1e-4)}, "'decoder_only'"),
        ({"ancestor": "nowhere"}, "nowhere"),
    ],
)
def test_studies_that_cannot_be_are_refused_before_anything_is_made(
    tmp_path: Path, corpus: Path, ancestor: Path, changes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _study(tmp_path / "run", corpus, **{"ancestor": ancestor, **changes})
    assert not (tmp_path / "run").exists()
