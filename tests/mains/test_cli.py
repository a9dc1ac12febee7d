"""What every main does with flags, gin bindings and errors, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from absl import app, flags

import gin
from openba_jax import cli
from openba_jax.errors import UserError


def test_words_that_are_no_flags_are_refused() -> None:
    cli.reject_positional(["openba-train"])
    with pytest.raises(UserError, match="'runs/small' is no flag"):
        cli.reject_positional(["openba-train", "runs/small"])


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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"process_index": 1}, "--process_count and --process_index together"),
        ({"coordinator_address": "a:1", "multiprocess": True}, "or --multiprocess alone"),
        (
            {"coordinator_address": "a:1", "process_count": 2, "process_index": 2},
            "--process_index=2 is none of 2 processes",
        ),
        (
            {"coordinator_address": "a", "process_count": 2, "process_index": 0},
            "--coordinator_address=a is not host:port",
        ),
    ],
)
def test_flags_of_processes_go_together(given: dict[str, Any], message: str) -> None:
    values = flags.FlagValues()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flags, "FLAGS", values)
        for name, value in {
            **{"coordinator_address": None, "process_count": None, "process_index": None},
            **{"multiprocess": False, **given},
        }.items():
            flags.DEFINE_string(name, None, "", flag_values=values)
            values[name].value = value
        values.mark_as_parsed()
        with pytest.raises(UserError, match=message):
            cli.join_processes()
