"""The tutorials are run as they stand, from a folder that has what a clone has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = REPOSITORY / "docs" / "tutorials"
MAX_COMMANDS = 10


def _blocks(page: str) -> list[str]:
    return re.findall(r"```bash\n(.*?)```", (PAGES / page).read_text(encoding="utf-8"), re.DOTALL)


def _run(page: str, folder: Path, **replaced: str) -> list[str]:
    """Runs the commands of a page, some texts replaced, in a folder; what each block prints."""
    for path in REPOSITORY.iterdir():
        if path.name not in ("runs", ".git"):
            (folder / path.name).symlink_to(path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    modules = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": modules}
    said = []
    for block in _blocks(page):
        for old, new in replaced.items():
            block = re.sub(rf"\b{old}=[\d_]+", f"{old}={new}", block)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    return said


@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("*.md")))
def test_a_tutorial_has_few_commands(page: str) -> None:
    lines = "".join(_blocks(page)).replace("\\\n", " ").split("\n")
    commands = [line for line in lines if re.match(r"(openba|python|printf|cat) ?", line)]
    assert 0 < len(commands) <= MAX_COMMANDS, commands


def test_the_translation_has_the_commands_of_the_exercise() -> None:
    assert _blocks("course.zh.md") == _blocks("course.md")


def test_chat(tmp_path: Path) -> None:
    converted, verified, answers = _run("chat.md", tmp_path)
    assert "runs/chat/model: written" in converted
    assert "largest difference of a logit: 0" in verified
    assert "Paris" in answers
    assert "He" in answers


@pytest.mark.slow(reason="two minutes: a whole pipeline and the way back to Hugging Face")
def test_own(tmp_path: Path) -> None:
    said = _run("own.md", tmp_path, RECOVER_TOKENS="34_560", documents="600")
    assert "651,264" in said[0]
    smaller = json.loads((tmp_path / "runs/own/smaller/config.json").read_text())
    assert smaller["num_decoder_layers"] == 4
    assert smaller["ffn_hidden_size"] == 128
    assert "largest difference of a weight: 0" in said[4]
    assert "The capital of Japan is" in said[5]


@pytest.mark.t5x
@pytest.mark.slow(reason="three minutes: two trainings of T5X")
def test_t5x(tmp_path: Path) -> None:
    pytest.importorskip("t5x.models", reason="T5X is not importable; see docs/t5x.md")
    said = _run("t5x.md", tmp_path, TRAIN_STEPS="6", decay_steps="6", CHECKPOINT_PERIOD="6")
    assert "The capital of Japan is" in said[-1]


@pytest.mark.slow(reason="three minutes: three evaluations, two cuts and a training")
def test_course(tmp_path: Path) -> None:
    _run("course.md", tmp_path, TRAIN_STEPS="6", decay_steps="6", documents="600")
    results = tmp_path / "runs/course/results"
    figures = {
        name: json.loads((results / name / "figures.json").read_text())
        for name in ("whole", "random", "magnitude")
    }
    subjects = figures["whole"]["benchmarks"]["json_choice"]["subjects"]
    assert subjects["mine"]["count"] == 2
    assert (tmp_path / "runs/course/recovered/checkpoints").is_dir()
