"""What every main does with flags, gin bindings and errors, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from absl import app

import gin
from openba_jax import cli
from openba_jax.errors import UserError


def test_words_that_are_no_flags_are_refused() -> None:
    cli.refuse_words(["openba-train"])
    with pytest.raises(UserError, match="'runs/small' is no flag"):
        cli.refuse_words(["openba-train", "runs/small"])


def test_an_error_of_the_system_in_a_gin_function_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write() -> None:
        (tmp_path / "none" / "file").write_text("")

    configured = gin.external_configurable(write, "write_nowhere")
    # Without absl around it: it ends the process, and its flags are those of the tests.
    monkeypatch.setattr(app, "run", lambda main, flags_parser: main([]))
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda argv: cli.call_configured(configured))
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"error: No such file or directory: '{tmp_path / 'none' / 'file'}'; mend that and start "
        "again.\n"
    )
