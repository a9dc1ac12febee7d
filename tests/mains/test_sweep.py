"""Sweeps: what is run, what is kept, how runs are compared."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gin
from openba_jax import sweep
from openba_jax.cli import gin_files
from openba_jax.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]

# A main that "trains": reads its bindings and writes the metrics that the rate deserves.
TOY_MAIN = """
import ast, json, pathlib, sys
bound = dict(a.removeprefix("--gin_bindings=").split(" = ") for a in sys.argv[1:])
folder = pathlib.Path(ast.literal_eval(bound["MODEL_DIR"]))
rate = float(bound["adamw.peak"])
folder.mkdir(parents=True, exist_ok=True)
with (folder / "times").open("a") as file:
    file.write("x")
if rate > 1 and not pathlib.Path(bound["PERMIT"]).exists():
    sys.exit(f"a rate of {rate} is too high")
lines = [{"step": s, "split": t, "loss": rate + 1 / s, "accuracy": 0.5}
         for s in (1, 2) for t in ("train", "eval")]
(folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sweep.Sweep:
    (tmp_path / "toy_sweep_main.py").write_text(TOY_MAIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    grid = {"adamw.peak": [0.5, 2.0], "MIXTURE": ["ul2", "o_ul2"]}
    return sweep.Sweep(str(tmp_path / "out"), "toy_sweep_main", [], "MODEL_DIR", grid)


def test_every_combination_is_a_run(toy: sweep.Sweep) -> None:
    runs = sweep.runs_of(toy.grid)
    assert [run.name for run in runs] == [
        *("peak=0.5,MIXTURE=ul2", "peak=0.5,MIXTURE=o_ul2"),
        *("peak=2.0,MIXTURE=ul2", "peak=2.0,MIXTURE=o_ul2"),
    ]
    assert sweep.command(toy, runs[0], ["--x"]) == [
        *(sys.executable, "-m", "toy_sweep_main", "--x"),
        f"--gin_bindings=MODEL_DIR = '{toy.output_dir}/peak=0.5,MIXTURE=ul2'",
        *("--gin_bindings=adamw.peak = 0.5", "--gin_bindings=MIXTURE = 'ul2'"),
    ]


@pytest.mark.parametrize("grid", [{}, {"a": []}, {"a.x": [1], "b": ["m/n", "m n"]}])
def test_grids_that_name_no_folders_are_refused(grid: dict[str, list[object]]) -> None:
    with pytest.raises(UserError, match=r"Sweep\.grid"):
        sweep.runs_of(grid)


def test_failed_runs_go_on_and_finished_ones_stay(
    toy: sweep.Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    permit = tmp_path / "permit"
    arguments = [f"--gin_bindings=PERMIT = {permit}"]
    failed = sweep.execute(toy, arguments)
    assert [run.bindings["adamw.peak"] for run in failed] == [2.0, 2.0]
    assert "a rate of 2.0 is too high" in capsys.readouterr().out
    table = sweep.write_comparison(toy).splitlines()
    assert table[0] == "| adamw.peak | MIXTURE | loss | accuracy | step |"
    assert table[2] == "| 0.5 | ul2 | 1.0000 | 0.5000 | 2 |"
    assert table[4] == "| 2.0 | ul2 | - | - | - |"

    permit.touch()
    assert sweep.execute(toy, arguments) == []
    folders = [Path(toy.output_dir) / run.name for run in sweep.runs_of(toy.grid)]
    assert [len((folder / "times").read_text()) for folder in folders] == [1, 1, 2, 2]
    sweep.write_comparison(toy)
    content = json.loads((Path(toy.output_dir) / "sweep.json").read_text())
    assert [row["figures"]["loss"] for row in content] == [1.0, 1.0, 2.5, 2.5]
    assert (Path(toy.output_dir) / "sweep.png").stat().st_size > 0

    others = [f"--gin_bindings=PERMIT = {permit}", "--gin_bindings=SEED = 2"]
    with pytest.raises(UserError, match="other arguments"):
        sweep.execute(toy, others)
    # The first run could be done otherwise, and another one forbids it: none begins.
    shutil.rmtree(folders[0])
    folders[0].with_name(f"{folders[0].name}.done").unlink()
    with pytest.raises(UserError, match="other arguments"):
        sweep.execute(toy, others)
    assert not folders[0].exists()
    assert sweep.execute(toy, arguments) == []
    # What died before it made anything may be started otherwise.
    for run in sweep.runs_of(toy.grid):
        shutil.rmtree(Path(toy.output_dir) / run.name)
        (Path(toy.output_dir) / f"{run.name}.done").unlink()
    assert sweep.execute(toy, others) == []


def test_a_sweep_names_logs_and_tells_what_they_say_and_the_time_left(
    toy: sweep.Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    main = tmp_path / "toy_sweep_main.py"
    main.write_text("import time; print('half way', flush=True); time.sleep(0.8)\n" + TOY_MAIN)
    monkeypatch.setattr(sweep, "SECONDS", 0.1)
    few = dataclasses.replace(toy, grid={"adamw.peak": [0.5, 0.25]})
    assert sweep.execute(few, ["--gin_bindings=SEED = 1"]) == []
    first, *rest = capsys.readouterr().out.splitlines()
    out = toy.output_dir
    assert first == f"[1/2] peak=0.5: running, log {out}/peak=0.5.log"  # Nothing is known yet.
    assert any(re.fullmatch(r"\[1/2\] peak=0\.5: \d+ s so far: half way", line) for line in rest)
    pattern = rf"\[2/2\] peak=0\.25: running, log {out}/peak=0\.25\.log, about \d+ s left for all.*"
    assert any(re.fullmatch(pattern, line) for line in rest)
    # What was done before tells the time, too.
    (Path(out) / "peak=0.25.done").unlink()
    assert sweep.execute(few, ["--gin_bindings=SEED = 1"]) == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1/2] peak=0.5: done before"
    assert re.search(r"about \d+ s left", lines[1])


@pytest.mark.parametrize("grid", ["{'a': 3}", "{'a': 'xy'}", "['a']"])
def test_grids_of_another_type_are_refused(grid: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "openba_jax.sweep", "--gin.OUTPUT_DIR='x'"),
            *("--gin_file=gin/sweeps/width_method.gin", f"--gin.Sweep.grid={grid}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: Sweep.grid is ")


def test_figures_of_a_pipeline_are_those_of_its_last_stage(tmp_path: Path) -> None:
    row = {"loss_recovered": 1.5, "accuracy_tuned": 0.9, "parameters": 7}
    rows = [{**row, "control": False, "parameters": 9}, {**row, "control": False}]
    rows.append({**row, "control": True, "parameters": 8})
    (tmp_path / "report.json").write_text(json.dumps({"rows": rows}))
    assert sweep.figures(tmp_path) == {"loss": 1.5, "accuracy": 0.9, "parameters": 7}
    # Without recovery, tuning and questions.
    bare = {"loss_pruned": 2.5, "loss_recovered": None, "accuracy_tuned": None, "parameters": 7}
    (tmp_path / "report.json").write_text(json.dumps({"rows": [{**bare, "control": False}]}))
    assert sweep.figures(tmp_path) == {"loss": 2.5, "parameters": 7}


@pytest.mark.parametrize("name", ["recover_learning_rate", "width_method", "recipe"])
def test_sweep_files_bind_names_that_their_runs_know(name: str) -> None:
    from openba_jax.distillation.settings import Distillation
    from openba_jax.pruning.stages import Stage
    from openba_jax.staged.run import Pipeline
    from openba_jax.staged.settings import Data, Phase
    from openba_jax.training import gin_bindings  # noqa: F401 - registers the other names

    with gin.config.interactive_mode():  # Other tests have registered some of them, too.
        for configurable in (sweep.Sweep, Pipeline, Data, Phase, Stage, Distillation):
            gin.external_configurable(configurable, configurable.__name__)
    try:
        gin.add_config_file_search_path(str(REPOSITORY))
        gin.parse_config_file(f"gin/sweeps/{name}.gin")
        gin.parse_config("OUTPUT_DIR = 'x'")
        made = gin.get_configurable("Sweep")()
        for file in made.gin_files:
            gin.parse_config_file(file)
        macros = {macro.name for macro in gin_files.macros(made.gin_files, [], [])}
        for binding in made.grid:
            assert binding in macros or gin.query_parameter(binding) is not None
    finally:
        gin.clear_config()
