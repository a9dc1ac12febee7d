"""Files that are there whole or not at all, and folders that one process writes."""

from pathlib import Path

import pytest

from openba_jax.errors import UserError
from openba_jax.files import explain_full_disk, only_process, write_atomically


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


def test_a_second_writer_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
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
