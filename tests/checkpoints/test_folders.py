"""Folders appear whole or not at all, whatever happens to their writer."""

import errno
import os
import signal
import subprocess
import sys

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
    assert list(target.parent.iterdir()) == []
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


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(UserError, match=r"file/a/b cannot be made: \S+file is a file"),
        new_folder(tmp_path / "file" / "a" / "b"),
    ):
        pass
