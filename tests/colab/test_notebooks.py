"""Runs the notebooks from top to bottom, on few tokens."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

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


@pytest.mark.t5x
def test_t5x(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("t5x.models", reason="T5X is not importable; see docs/t5x.md")
    monkeypatch.setenv("OPENBA_NOTEBOOK_OUTPUT", str(tmp_path))
    monkeypatch.setenv("OPENBA_NOTEBOOK_STEPS", "12")
    assert "2 decoder layers" in printed("4_t5x.ipynb")
