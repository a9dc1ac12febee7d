"""The gin files of the package, read as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from openba_jax.cli import gin_files
from openba_jax.errors import UserError


def test_every_macro_of_the_native_files_says_what_it_is() -> None:
    paths = gin_files._native_files()
    assert "gin/runs/native/recover.gin" in paths
    for macro in gin_files.macros(paths, [], []):
        assert macro.comment, macro.name


def test_shared_files_are_no_files_of_a_command() -> None:
    assert list(gin_files.files_for("openba-train")) == [
        f"gin/runs/native/{name}.gin"
        for name in ("finetune", "ner", "ner_llama", "ner_t5", "pretrain", "recover")
    ]
    assert gin_files.files_for("openba-nothing") == {}


def test_later_values_win_and_comments_stay(tmp_path: Path) -> None:
    (tmp_path / "inner.gin").write_text("A = 1  # What A is.\nB = @f()\n# Of C.\nC = [%A, 'x']\n")
    (tmp_path / "outer.gin").write_text("include 'inner.gin'\nA = 2\nf.x = 3\ng:\n  y = %A\n")
    found = gin_files.macros(["outer.gin"], ["B = {'k': @s/f}"], [str(tmp_path)])
    assert found == [
        ("A", "2", "What A is."),
        ("B", "{'k': @s/f}", ""),
        ("C", "[%A, 'x']", "Of C."),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A = ", "cannot be read"),
        ("A = [1,", "cannot be read"),
        ("include 'nowhere.gin'", r"no file nowhere\.gin"),
        ("include 'mine.gin'", "includes itself"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.gin").write_text(text)
    with pytest.raises(UserError, match=message):
        gin_files.macros(["mine.gin"], [], [str(tmp_path)])
