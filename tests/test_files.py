"""Files that are there whole or not at all, and folders that one process writes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.files import (
    atomic_path,
    explain_full_disk,
    json_text,
    only_process,
    write_atomically,
    write_json,
)


def test_what_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "config.json"
    write_atomically(target, "old 旧")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="the disk is full"), explain_full_disk(tmp_path):
        write_atomically(target, "new")
    assert target.read_text(encoding="utf-8") == "old 旧"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_is_flushed_renamed_and_its_folder_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    monkeypatch.setattr("os.fsync", lambda fd: flushed.append(os.readlink(f"/proc/self/fd/{fd}")))
    with atomic_path(tmp_path / "new" / "picture.png") as file:
        file.write_bytes(b"half")
        assert not (tmp_path / "new" / "picture.png").exists()
    assert flushed == [str(file), str(tmp_path / "new")]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["picture.png"]


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"accuracy": {"a": [0.5, float("nan")]}}, r"accuracy\.a\[1\] is nan"),
        ([{"loss": float("-inf")}], r"\[0\]\.loss is -inf"),
        (float("inf"), "the value is inf"),
        ({"a": np.float64("nan")}, "a is nan"),
    ],
)
def test_json_holds_no_number_that_is_none(tmp_path: Path, value: object, key: str) -> None:
    target = tmp_path / "figures.json"
    write_json(target, {"loss": 1.5})
    before = target.read_text()
    with pytest.raises(UserError, match=rf"figures\.json: {key}, which is no figure"):
        write_json(target, value)
    with pytest.raises(UserError, match=rf"ul2: {key}"):
        json_text(value, "ul2")
    assert target.read_text() == before
    assert list(tmp_path.iterdir()) == [target]
    assert json.loads(before) == {"loss": 1.5}


@pytest.mark.parametrize("spelling", ["model", "./x/../model", "link"])
def test_a_second_writer_by_another_spelling_is_refused(tmp_path: Path, spelling: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to("model")
    with only_process(tmp_path / "model"), pytest.raises(UserError, match="another process"):
        only_process(tmp_path / spelling).__enter__()


def test_a_second_writer_is_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    with only_process(tmp_path / "model"):
        with pytest.raises(UserError, match=r"another process is writing .*model \(\d+ on "):
            only_process(tmp_path / "model").__enter__()
        assert (tmp_path / "model.lock").exists()
    assert not list(tmp_path.iterdir())
    with only_process(tmp_path / "model"):
        pass


def test_a_lock_that_its_owner_removed_meanwhile_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second opens the first's file, which is removed, and a third makes a new one."""
    lock = tmp_path / "model.lock"
    third = only_process(tmp_path / "model")

    def meanwhile(*_: object) -> None:
        monkeypatch.undo()
        lock.unlink()
        third.__enter__()

    monkeypatch.setattr("fcntl.flock", meanwhile)
    with pytest.raises(UserError, match="another process is writing"):
        only_process(tmp_path / "model").__enter__()
    third.__exit__(None, None, None)


def test_a_disk_without_locks_is_written_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with caplog.at_level("WARNING", logger="absl"), only_process(tmp_path / "model"):
        pass
    assert "model cannot be locked (Operation not supported)" in caplog.text
