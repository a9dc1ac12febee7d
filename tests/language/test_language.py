"""What a run says can be had in Chinese: all of it, with the same figures, and only for people."""

from __future__ import annotations

import ast
import json
import re
import string
from pathlib import Path

import pytest

import openba_jax
from openba_jax.errors import UserError
from openba_jax.language import Phrase, language, phrase, told
from openba_jax.language.chinese import CHINESE
from openba_jax.language.columns import columns
from openba_jax.staged import report
from openba_jax.staged.plots import Curve
from openba_jax.staged.report import Row
from openba_jax.training.records import metrics

ROOT = Path(openba_jax.__file__).parent


def texts_told() -> set[str]:
    """All English texts that are given to `told` or `phrase`."""
    found = {*report.HEADER, *metrics._SHOWN.values(), "yes", "no", "NO "}
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name("told" | "phrase"), args=[ast.Constant(text), *_]):
                    found.add(text)
    return found


def fields(text: str) -> set[tuple[str, str | None]]:
    return {(name, form) for _, name, form, _ in string.Formatter().parse(text) if name}


def test_the_chinese_catalogue_has_all_texts_and_no_other() -> None:
    assert set(CHINESE) == texts_told()
    for english, chinese in CHINESE.items():
        assert fields(chinese) == fields(english), english


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "OPENBA_LANGUAGE": "en"}, "en"),
        ({"LANG": "de_DE", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"OPENBA_LANGUAGE": "zh"}, "zh"),
    ],
)
def test_the_reader_chooses(monkeypatch, variables: dict[str, str], expected: str) -> None:
    for name in ("OPENBA_LANGUAGE", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language() == expected


def test_a_language_without_a_catalogue_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("OPENBA_LANGUAGE", "fr")
    with pytest.raises(UserError, match="'fr'; known are en and zh"):
        language()


def test_what_a_catalogue_lacks_is_english(monkeypatch) -> None:
    monkeypatch.setenv("OPENBA_LANGUAGE", "zh")
    assert told("no such text, {name}", name="x") == "no such text, x"
    within = phrase("writing {path}", path=Phrase("question"))
    assert (within.told(), str(within)) == ("正在写入 问题", "writing question")


ROWS = [
    Row("ancestor", 1000, 1e9, 0, loss_recovered=0.2, accuracy_recovered=1.0),
    Row("cut", 290, 3e8, 500, 0.2, 6.0, 0.4, None, 0.25, 0.95),
    Row("scratch", 290, 3e8, 500, loss_recovered=2.0, accuracy_recovered=0.2, control=True),
]
CURVES = [
    Curve("ancestor", 0, [], [], [0], [0.2]),
    Curve("cut", 0, [0, 500], [6.0, 0.4], [0, 500], [6.0, 0.4]),
    Curve("scratch", 0, [0, 500], [7.0, 2.0], [0, 500], [7.0, 2.0], control=True),
]


def test_a_report_in_chinese_has_the_figures_of_the_english_one(monkeypatch) -> None:
    found = [*report.findings(ROWS, 0.25, "cut"), *report.speed_findings(CURVES, "cut")]
    shown = {}
    for name in ("en", "zh"):
        monkeypatch.setenv("OPENBA_LANGUAGE", name)
        shown[name] = report.as_markdown(ROWS, found, [("1+1?", "2")], {"cut": 3})
        document = json.dumps(report.as_dict(ROWS, found, [], {}))
        assert "ends with a lower loss than scratch" in document
    chinese = shown["zh"]
    assert "最终损失" in chinese
    words = set(re.findall(r"[A-Za-z_]{3,}", chinese))
    assert words == {"ancestor", "cut", "scratch", "GFLOP"}  # Names, and a unit.
    numbers = [set(re.findall(r"\d[\d,.]*\d|\d", text)) for text in shown.values()]
    assert numbers[0] == numbers[1]


def test_columns_of_a_terminal_are_aligned(monkeypatch) -> None:
    monkeypatch.setenv("OPENBA_LANGUAGE", "zh")
    lines = report.as_text(ROWS, []).splitlines()
    assert len({columns(line) for line in lines}) == 1
