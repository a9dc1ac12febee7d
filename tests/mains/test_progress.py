"""Nothing is silent for long: lines where there is no terminal, and nothing from what is quick."""

from __future__ import annotations

import time

import pytest

from openba_jax.cli import progress
from openba_jax.cli.progress import clock, show_progress


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines every 20 ms."""
    monkeypatch.setattr(progress, "SECONDS", 0.02)


def _wait_for_line(capsys: pytest.CaptureFixture[str]) -> str:
    for _ in range(500):
        time.sleep(0.01)
        if text := capsys.readouterr().err:
            return text.splitlines()[-1]
    raise AssertionError("there was no line in five seconds")


def test_what_is_counted_tells_its_share_and_the_time_left(capsys) -> None:
    with show_progress("writing out", 200, "B", done=50) as advance:
        first = _wait_for_line(capsys)
        assert first == "writing out: 25%, 0 s so far"
        advance(50)
        capsys.readouterr()
        assert _wait_for_line(capsys).startswith("writing out: 50%, 0 s left")
    capsys.readouterr()
    time.sleep(0.06)
    assert capsys.readouterr().err == ""


def test_what_cannot_be_counted_tells_how_long_it_is_at_work(capsys) -> None:
    with show_progress("reading runs/model"):
        assert _wait_for_line(capsys) == "reading runs/model: 0 s so far"


def test_what_is_quick_or_not_shown_says_nothing(capsys) -> None:
    progress.SECONDS = 5.0
    with show_progress("a"):
        pass
    with show_progress("b", shown=False) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")


def test_errors_pass_and_end_the_lines(capsys) -> None:
    with pytest.raises(ValueError, match="x"), show_progress("c", 3):
        raise ValueError("x")
    capsys.readouterr()
    time.sleep(0.06)
    assert capsys.readouterr().err == ""


def test_times_as_people_read_them() -> None:
    assert [clock(s) for s in (-1, 0.4, 89, 90, 3000, 5400)] == [
        *("0 s", "0 s", "89 s", "2 min", "50 min", "1.5 h"),
    ]
