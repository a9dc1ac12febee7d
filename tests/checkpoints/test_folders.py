"""Folders appear whole or not at all, whatever happens to their writer."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openba_jax.checkpoints.folders import new_folder
from openba_jax.errors import UserError


def test_new_folder_is_all_or_nothing(tmp_path):
    target = tmp_path / "models" / "one"

    def fail():
        with new_folder(target) as folder:
            (folder / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with new_folder(target) as folder:
        (folder / "whole").write_text("x")
    assert [path.name for path in target.parent.iterdir()] == ["one"]
    with pytest.raises(UserError, match="exists already"), new_folder(target):
        pass
    assert (target / "whole").read_text() == "x"


WRITER = """
import sys, time
from pathlib import Path
from openba_jax.checkpoints.folders import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path):
    target = tmp_path / "model"
    command = [sys.executable, "-c", WRITER, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        with pytest.raises(UserError, match=rf"another process .*{process.pid}"):
            new_folder(target).__enter__()
        assert (tmp_path / "model.openba_tmp" / "half").exists()  # The other one is left alone.
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    with new_folder(target) as folder:
        (folder / "whole").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in target.iterdir()] == ["whole"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        ValueError("RESOURCE_EXHAUSTED: [OS error 28: ENOSPC No space left on device]"),
    ],
    ids=["of the system", "of tensorstore"],
)
def test_a_full_disk_is_one_sentence(tmp_path, error):
    def fail():
        with new_folder(tmp_path / "model") as folder:
            (folder / "half").write_text("x")
            raise error

    with pytest.raises(UserError, match=r"the disk is full while .*model"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["empty folder", "link", "working folder", "mount"])
def test_an_empty_folder_is_written_into_and_not_replaced(tmp_path, monkeypatch, request, kind):
    place = tmp_path / "place"
    place.mkdir(mode=0o750)
    target = place
    if kind == "link":
        target = tmp_path / "link"
        target.symlink_to("place")
    elif kind == "working folder":
        monkeypatch.chdir(place)
        target = Path(".")
    elif kind == "mount":
        command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=750", "none", place]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting needs the rights of root")
        request.addfinalizer(lambda: subprocess.run(["umount", "-l", place], check=True))
    before = place.stat()

    def fail():
        with new_folder(target) as folder:
            (folder / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(place.iterdir())
    with new_folder(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "whole").write_text("x")
        (folder / "config.json").write_text("{}")
    assert (place / "inner" / "whole").read_text() == "x"
    assert sorted(path.name for path in place.iterdir()) == ["config.json", "inner"]
    after = place.stat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    with pytest.raises(UserError, match="exists already"), new_folder(target):
        pass


def test_what_a_killed_process_leaves_in_an_empty_folder_is_removed(tmp_path):
    command = [sys.executable, "-c", WRITER, "."]
    target = tmp_path / "model"
    target.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=target, env=environment
    ) as process:
        assert process.stdout.readline() == "writing\n"
        with pytest.raises(UserError, match=rf"another process .*{process.pid}"):
            new_folder(target).__enter__()
        process.send_signal(signal.SIGKILL)
    assert sorted(path.name for path in target.iterdir()) == [".openba_tmp", ".openba_tmp.lock"]
    with new_folder(target) as folder:
        (folder / "whole").write_text("x")
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(UserError, match=r"file/a/b cannot be made: \S+file is a file"),
        new_folder(tmp_path / "file" / "a" / "b"),
    ):
        pass
