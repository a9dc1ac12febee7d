"""`openba-report`: what it reads of runs, what it shows, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.report import plots
from openba_jax.report.runs import read_runs
from openba_jax.report.tables import tables


def write_run(folder: Path, losses: list[float], rate: str = "1e-3", **more: float) -> Path:
    """A run with an evaluation after every 10 steps, of 100 tokens each."""
    folder.mkdir(parents=True)
    records: list[dict[str, Any]] = [{"step": 0, "split": "eval", "loss": 4.0, "accuracy": 0.0}]
    speeds: list[dict[str, Any]] = [{"step": 0, "split": "machine", "device": "cpu", "devices": 2}]
    for number, loss in enumerate(losses, 1):
        step = 10 * number
        at = {"step": step, "split": "train", "tokens": 100 * step, "learning_rate": 1e-3}
        records.append({**at, "loss": loss + 0.1, "grad_norm": 1.0, **more})
        records.append({"step": step, "split": "eval", "loss": loss, "accuracy": 0.5})
        speed = {"tokens_per_second": 1000.0 * number, "mfu": None, "input_wait": 0.25}
        speeds.append({"step": step, "split": "speed", **speed})
    for name, found in (("metrics", records), ("speed", speeds)):
        text = "".join(json.dumps(record) + "\n" for record in found)
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "config.gin").write_text(
        f"# Macros:\nBATCH_SIZE = 4\nMODEL_DIR = \\\n    '{folder}'\n"
        f"warmup_constant.peak = {rate}\nTOKEN_STORES = \\\n    ['a',\n     'b']\n"
    )
    return folder


@pytest.fixture
def run_main() -> Any:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "openba_jax.report", *arguments],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_runs_are_compared_in_one_page(tmp_path: Path, run_main: Any) -> None:
    one = write_run(tmp_path / "x" / "run", [3.0, 2.0], **{"loss/ul2_r3": 2.5})
    other = write_run(tmp_path / "y|z" / "run", [3.5, 3.0, 2.5], rate="2e-3")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    output = tmp_path / "report"
    for _ in range(2):  # Again is as once.
        done = run_main(str(one), str(other), f"--output={output}")
        assert done.returncode == 0, done.stderr
    assert {path.name for path in output.iterdir()} == {"report.png", "report.md", "report.html"}
    assert {path: path.read_bytes() for path in before} == before
    text = (output / "report.md").read_text()
    standing = text.partition("## Loss per task")[0].splitlines()
    rows = {line.split(" | ")[0]: line for line in standing if line.startswith("| ")}
    assert r"| y\|z/run" in rows
    assert "| 20 | 2,000 | 2.1000 | 2.0000 | - | 2.0000 (step 20) |" in rows["| x/run"]
    assert "+1.0000" in rows[r"| y\|z/run"]  # At step 20, the last that both have.
    assert "MFU" not in text
    assert "25.0%" in rows["| x/run"]
    assert "| warmup_constant.peak | 1e-3 | 2e-3 |" in text
    assert "TOKEN_STORES" not in text
    assert "MODEL_DIR" not in text
    assert re.search(r"\| x/run \| training batches \| 2\.5000 \|", text)
    page = (output / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page
    assert "y|z/run" in done.stdout


def test_records_are_read_over_steps_and_tokens(tmp_path: Path) -> None:
    (run,) = read_runs([write_run(tmp_path / "run", [3.0, 2.0])])
    at, losses = run.series("eval", "loss", "tokens")
    np.testing.assert_array_equal(at, [0, 1000, 2000])
    np.testing.assert_array_equal(losses, [4, 3, 2])
    assert run.tokens_at(np.array([15.0])) == 1500
    at, values = run.series("speed", "mfu", "steps")
    assert len(at) == len(values) == 0
    assert run.settings["TOKEN_STORES"] == "['a', 'b']"
    assert [table.title for table in tables([run], "steps")] == ["Runs"]
    found = plots.panels([run], "steps")
    assert "MFU" not in found
    assert "loss of ul2_r3" not in found


def test_rates_and_losses_of_d_ul2(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [3.0])
    with (folder / "metrics.jsonl").open("a") as file:
        for step in (0, 10):
            record = {
                "step": step,
                "split": "denoisers",
                "loss/r": 3.0,
                "target/r": 1.0,
                "rate/r": 1.0,
            }
            file.write(json.dumps(record) + "\n")
        file.write('{"step": 20, "sp')  # Cut off: the run is at work.
    (run,) = read_runs([folder])
    found = plots.panels([run], "steps")
    assert [line.label for line in found["share of the samples"]] == ["r"]
    assert len(found["loss of r"][0].at) == 2
    assert "held-out batches" in tables([run], "steps")[1].rows[1]


@pytest.mark.parametrize("output", ["pipeline", "pipeline/models/run/report", "new/../pipeline"])
def test_a_report_is_written_beside_runs_and_not_over_theirs(
    output: str, tmp_path: Path, run_main: Any
) -> None:
    run = tmp_path / "pipeline/models/run"
    write_run(run, [3.0])
    (tmp_path / "pipeline/report.md").write_text("of the pipeline")
    done = run_main(str(run), f"--output={tmp_path / output}")
    assert done.returncode == 2
    assert "the folder of a run, which is only read" in done.stderr
    assert (tmp_path / "pipeline/report.md").read_text() == "of the pipeline"
    assert run_main(str(run), "--output=").returncode == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "name one or more run folders"),
        (["nowhere"], "it is no folder"),
        (["empty"], "it has no metrics.jsonl"),
        (["young"], "has no record yet"),
        (["run", "link"], "is named twice"),
    ],
)
def test_what_is_no_run_is_refused(
    names: list[str], message: str, tmp_path: Path, run_main: Any
) -> None:
    write_run(tmp_path / "run", [3.0])
    (tmp_path / "link").symlink_to(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "metrics.jsonl").touch()
    output = tmp_path / "report"
    done = run_main(*(str(tmp_path / name) for name in names), f"--output={output}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not output.exists()


def test_names_are_as_long_as_they_must_be(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, [3.0]) for name in ("a/run", "b/run", "other")]
    assert [run.name for run in read_runs(folders[:1])] == ["run"]
    assert [run.name for run in read_runs(folders)][:2] == ["a/run", "b/run"]
    with pytest.raises(UserError, match="named twice"):
        read_runs([folders[0], folders[0]])
