"""The quickstart of each family: from its gin file, on the corpus that the file says to make."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
STEP = 64 * (34 + 20)  # Tokens of a batch.


def _python(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def _facts(gin_file: Path) -> list[str]:
    """The words of the command in a file's first comment that makes the corpus."""
    comment = re.sub(r"^# ?", "", gin_file.read_text(), flags=re.MULTILINE)
    command = re.search(r"^python (-m examples\.facts (?:.*\\\n)*.*)$", comment, re.MULTILINE)
    assert command is not None
    return shlex.split(command[1].replace("\\\n", " "))


def _whole_text(gin_file: Path) -> str:
    text = gin_file.read_text()
    included = re.findall(r"^include '(.*)'$", text, re.MULTILINE)
    return "".join([*(_whole_text(REPOSITORY / path) for path in included), text])


@pytest.mark.parametrize(
    "family",
    [
        "t5",
        pytest.param("t5gemma", marks=pytest.mark.slow(reason="a second encoder-decoder")),
        pytest.param("llama", marks=pytest.mark.slow(reason="tested with smaller settings, too")),
    ],
)
def test_every_family_goes_the_whole_way_from_its_gin_file(tmp_path: Path, family: str) -> None:
    gin_file = REPOSITORY / f"gin/runs/native/quickstart_{family}.gin"
    facts, run = tmp_path / "facts", tmp_path / "run"
    words = [word for word in _facts(gin_file) if not word.startswith("--output_dir")]
    _python(*words, f"--output_dir={facts}")
    stages = set(re.findall(r"^(\w+)/Stage:$", _whole_text(gin_file), re.MULTILINE))
    shortened = {
        "OUTPUT_DIR": str(run),
        "CORPUS": [str(facts / "corpus.jsonl")],
        "INSTRUCTIONS": [str(facts / "instructions.jsonl")],
        "QUESTIONS": str(facts / "questions"),
        "pretrain/Phase.tokens": 4 * STEP,
        "tune/Phase.tokens": 2 * STEP,
        **{f"{stage}/Stage.recover_tokens": 2 * STEP for stage in stages},
    }
    flags = [f"--gin.{name}={value!r}" for name, value in shortened.items()]
    _python("-m", "openba_jax.pipeline", f"--gin_file={gin_file}", *flags)
    report = json.loads((run / "report.json").read_text())
    sizes = [row["parameters"] for row in report["rows"]]
    cuts = sizes[: len(stages) + 1]
    assert len(stages) >= 3
    assert cuts == sorted(set(cuts), reverse=True)
    assert sizes[-2:] == [cuts[-1]] * 2
    assert "What is the capital of Japan?" in (run / "report.md").read_text()


@pytest.mark.slow(reason="a whole pipeline; those of tiny ancestors are tested, too")
def test_the_shipped_ancestor_knows_its_facts_and_is_cut(tmp_path: Path) -> None:
    facts, run = tmp_path / "facts", tmp_path / "run"
    script = (REPOSITORY / "scripts/train_ancestor.py").read_text()
    relations = re.findall(r'^    "(\w+)",$', script, re.MULTILINE)
    _python(
        *("-m", "examples.facts", f"--output_dir={facts}", f"--relations={','.join(relations)}"),
        *("--facts_per_relation=6", "--documents=2000", "--instructions=1500", "--choice_share=0"),
        "--seed=7",
    )
    shortened = {
        "OUTPUT_DIR": str(run),
        "CORPUS": [str(facts / "corpus.jsonl")],
        "INSTRUCTIONS": [str(facts / "instructions.jsonl")],
        "QUESTIONS": str(facts / "questions"),
        "cut/Stage.recover_tokens": 2 * STEP,
        "cut/Stage.calibration_batches": 2,
        "vocabulary/Stage.recover_tokens": STEP,
    }
    gin_file = REPOSITORY / "gin/runs/native/quickstart_ancestor.gin"
    flags = [f"--gin.{name}={value!r}" for name, value in shortened.items()]
    _python("-m", "openba_jax.pipeline", f"--gin_file={gin_file}", *flags)
    report = json.loads((run / "report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["ancestor", "cut", "vocabulary", "random_cut", "from_scratch"]
    assert rows["cut"]["loss_before"] < 0.3
    assert rows["ancestor"]["accuracy_recovered"] > 0.9
    assert rows["cut"]["parameters"] < 0.31 * rows["ancestor"]["parameters"]
    plan = json.loads((run / "models/cut.pruned/plan.json").read_text())
    assert "taylor" in {step["method"] for step in plan["steps"]}
    assert rows["cut"]["loss_pruned"] < rows["random_cut"]["loss_pruned"]
    assert "keep at least 80% of the accuracy" in (run / "report.md").read_text()
