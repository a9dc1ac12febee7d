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
import json, subprocess, sys
sys.path.insert(0, "")
subprocess.run = lambda command, check: print(json.dumps(command))
exec(sys.stdin.read(), {})
"""


@pytest.mark.parametrize("notebook", sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")))
def test_the_first_cell_installs_what_is_missing(notebook: str, tmp_path: Path) -> None:
    cells = nbformat.read(NOTEBOOKS / notebook, as_version=4).cells
    first = next(cell.source for cell in cells if cell.cell_type == "code")

    def commands(folder: Path) -> list[list[str]]:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", BARE_KERNEL],
            input=first,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == (folder != tmp_path), done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    installs = commands(NOTEBOOKS)
    assert installs[0][1:] == ["-m", "pip", "install", "-q", "-c", "constraints.txt", "-e", "."]
    assert [command[-1] for command in installs[1:]] == (
        ["requirements/t5x.txt"] if notebook == "4_t5x.ipynb" else []
    )
    assert commands(tmp_path) == []  # No clone, and no address to clone from.


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
    assert "logits" in text
    assert (tmp_path / "huggingface" / "config.json").exists()


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
