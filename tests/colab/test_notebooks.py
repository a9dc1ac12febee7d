"""Runs the notebooks from top to bottom, on few tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from memory_checkpoint import MemoryCheckpoint
from nbclient import NotebookClient

from openba_jax.checkpoints.formats.gguf import Gguf
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.models.registry import named_config

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = REPOSITORY / "scripts" / "colab"
ALL = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))


def printed(notebook: str) -> str:
    """What the cells of a notebook print."""
    content = nbformat.read(NOTEBOOKS / notebook, as_version=4)
    NotebookClient(
        content, timeout=600, resources={"metadata": {"path": str(REPOSITORY)}}
    ).execute()
    outputs = [output for cell in content.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


# As in IPython, the working folder counts; site-packages do not. Tells what it would run.
BARE_KERNEL = """
import json, os, subprocess, sys, types
sys.path.insert(0, "")
devices, exists = json.loads(sys.argv[1]), os.path.exists
os.path.exists = lambda path: path in devices if str(path).startswith("/dev") else exists(path)
def run(command, **_):
    print(json.dumps(command))
    return types.SimpleNamespace(returncode=command[0] == "git", stdout="")
subprocess.run = run
exec(sys.stdin.read(), {})
"""


def _first_cell(notebook: str) -> str:
    cells = nbformat.read(NOTEBOOKS / notebook, as_version=4).cells
    return next(cell.source for cell in cells if cell.cell_type == "code")


def _runs(notebook: str, folder: Path, *devices: str) -> tuple[list[list[str]], str]:
    """What the first cell would run where nothing is installed, and how it ends."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", BARE_KERNEL, json.dumps(devices)],
        input=_first_cell(notebook),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "["], done.stderr


@pytest.mark.parametrize("notebook", ALL)
def test_the_first_cell_installs_what_is_missing_and_shows_the_device(
    notebook: str, tmp_path: Path
) -> None:
    commands, said = _runs(notebook, NOTEBOOKS)
    assert said == ""
    first, *t5x, device = (command[1:] for command in commands)
    assert first == ["-m", "pip", "install", "-q", "-c", "constraints.txt", "-e", "."]
    wanted = ["requirements/t5x.txt"] if notebook == "4_t5x.ipynb" else []
    assert [command[-1] for command in t5x] == wanted
    assert "jax.devices()" in device[-1]
    commands, said = _runs(notebook, tmp_path)  # No clone, and none to be had.
    assert [command[:2] for command in commands] == [["git", "clone"]]
    assert said == f"{commands[0][4]} cannot be cloned; name another address in REPOSITORY.\n"


@pytest.mark.parametrize(
    ("device", "extra"),
    [("/dev/nvidiactl", "cuda"), ("/dev/accel0", "tpu"), ("/dev/vfio/0", "tpu")],
)
def test_an_accelerator_gets_its_build_of_jax(device: str, extra: str) -> None:
    commands, _ = _runs("1_quickstart.ipynb", NOTEBOOKS, device)
    assert commands[0][-1] == f".[{extra}]"


def test_all_notebooks_begin_alike() -> None:
    cells = {_first_cell(name) for name in ALL if not name.startswith("4")}
    assert len(cells) == 1
    t5x = _first_cell("4_t5x.ipynb").splitlines()
    assert [line for line in cells.pop().splitlines() if line not in t5x] == []


@pytest.mark.parametrize("notebook", ["1_quickstart", "3_prune"])
def test_a_translation_has_the_same_code(notebook: str) -> None:
    english, chinese = (
        nbformat.read(NOTEBOOKS / f"{notebook}{language}.ipynb", as_version=4).cells
        for language in ("", ".zh")
    )
    assert [cell.cell_type for cell in english] == [cell.cell_type for cell in chinese]
    for one, other in zip(english, chinese, strict=True):
        assert (one.source == other.source) == (one.cell_type == "code")


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of the first notebook, which the third one needs."""
    folder = tmp_path_factory.mktemp("colab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBA_NOTEBOOK_OUTPUT", str(folder))
        patch.setenv("OPENBA_NOTEBOOK_SCALE", "0.002")
        return folder, printed("1_quickstart.ipynb")


def test_quickstart(quickstart: tuple[Path, str]) -> None:
    folder, text = quickstart
    assert "What is the capital of Japan? ->" in text
    assert (folder / "run" / "losses.png").stat().st_size > 0


def test_chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBA_NOTEBOOK_OUTPUT", str(tmp_path))
    text = printed("2_chat.ipynb")
    assert "largest difference of a logit: 0" in text
    assert (tmp_path / "model" / "config.json").exists()
    assert "东京" in text
    assert "Paris" in text


def test_prune(
    quickstart: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBA_NOTEBOOK_RUN", str(quickstart[0] / "run"))
    monkeypatch.setenv("OPENBA_NOTEBOOK_OUTPUT", str(tmp_path))
    monkeypatch.setenv("OPENBA_NOTEBOOK_STEPS", "3")
    text = printed("3_prune.ipynb")
    for name in ("layers", "width", "random_width"):
        assert f"{name:14} after the cut" in text
    assert f"{'uncut':14} " in text


def test_llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The notebook's own model is a download of 93 MB; this one has the same format.
    pytest.importorskip("gguf", reason="the extra gguf is not installed")
    texts = [f"user assistant the colour number {n} is red and green" for n in range(300)]
    vocabulary = train_vocabulary(texts, 290, tmp_path / "tokenizer.model")
    checkpoint = MemoryCheckpoint(named_config("tiny_llama", vocab_size=vocabulary.size))
    checkpoint.tokenizer = vocabulary.path
    (tmp_path / "given").mkdir()
    Gguf("Q8_0").write(checkpoint, tmp_path / "given")
    monkeypatch.setenv("OPENBA_NOTEBOOK_MODEL", str(tmp_path / "given" / "model.gguf"))
    monkeypatch.setenv("OPENBA_NOTEBOOK_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("OPENBA_NOTEBOOK_STEPS", "2")
    monkeypatch.setenv("OPENBA_NOTEBOOK_TEMPLATE", "user {} assistant")
    text = printed("5_llama.ipynb")
    assert text.count("What is the capital of France? ->") == 3
    assert "model.gguf:" in text


def test_evaluate(
    quickstart: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBA_NOTEBOOK_RUN", str(quickstart[0] / "run"))
    monkeypatch.setenv("OPENBA_NOTEBOOK_QUESTIONS", str(quickstart[0] / "facts" / "questions"))
    monkeypatch.setenv("OPENBA_NOTEBOOK_OUTPUT", str(tmp_path))
    text = printed("6_evaluate.ipynb")
    assert "before  json_choice: " in text
    assert "after   json_choice: " in text
    assert "questions were lost" in text
    assert (tmp_path / "after" / "figures.png").stat().st_size > 0
    assert "| pretrain.tuned |" in (tmp_path / "after" / "tables.md").read_text()


@pytest.mark.t5x
def test_t5x(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("t5x.models", reason="T5X is not importable; see docs/t5x.md")
    monkeypatch.setenv("OPENBA_NOTEBOOK_OUTPUT", str(tmp_path))
    monkeypatch.setenv("OPENBA_NOTEBOOK_STEPS", "12")
    assert "2 decoder layers" in printed("4_t5x.ipynb")
