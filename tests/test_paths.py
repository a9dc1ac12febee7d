"""Paths as users write them: local, one and the same or not, fit to be written or refused."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from openba_jax import paths
from openba_jax.errors import UserError


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.local("~/runs") == tmp_path / "runs"
    assert paths.local(Path("runs/~")) == Path("runs/~")
    assert paths.address_or_local("~/a.jsonl") == f"{tmp_path}/a.jsonl"
    assert paths.address_or_local("s3://b/a.jsonl") == "s3://b/a.jsonl"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "a path is empty"),
        ("gs://bucket/model", "gs://bucket/model is an address"),
        ("memory://model", "is an address"),
        ("file:///model", "is an address"),
        ("~nobody_of_that_name/x", "names a home that is not known"),
        ("a\0b", "NUL"),
        ("\ud800", "no[t]? text"),
    ],
)
def test_what_is_no_local_path_is_refused(path: str, message: str) -> None:
    for use in (paths.local, paths.check_output_file, paths.check_output_folder):
        with pytest.raises(UserError, match=message):
            use(path)


def test_other_spellings_of_a_folder_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "runs" / "model"
    model.mkdir(parents=True)
    (tmp_path / "link").symlink_to(model)
    (tmp_path / "link_to_link").symlink_to("link")
    for same in ("runs/model", "runs/../runs/./model/", "link", "link_to_link", str(model)):
        assert paths.same_or_inside(same, model)
        assert paths.same_or_inside(model, same)
        assert paths.same_or_inside(f"{same}/checkpoints/7", model)
        with pytest.raises(UserError, match=f"the output {model} is {same}, the model, which"):
            paths.reject_overlap(same, model, "model")
        with pytest.raises(UserError, match="lies in"):
            paths.reject_overlap(same, model / "new" / "er", "model")
        with pytest.raises(UserError, match="holds"):
            paths.reject_overlap(same, tmp_path / "runs", "model")
        with pytest.raises(UserError, match="lies in"):
            paths.reject_overlap(tmp_path, Path(same) / "new", "model")
    assert not paths.same_or_inside("runs/model2", model)
    paths.reject_overlap(model, "runs/model2", "model")
    paths.reject_overlap("s3://runs/model", "runs/model", "model")
    # Hard links and disks that do not tell upper from lower case: another name, the same inode.
    (model / "file").touch()
    os.link(model / "file", tmp_path / "FILE")
    assert paths.same_or_inside("FILE", model / "file")


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for use in (paths.check_output_file, paths.check_output_folder):
        with pytest.raises(UserError, match="round in a circle"):
            use(tmp_path / "a" / "x")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with whatever may be in the way of an output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "to_file").symlink_to("file")
    (tmp_path / "to_folder").symlink_to("folder")
    (tmp_path / "to_nothing").symlink_to("nothing")
    (tmp_path / "to_device").symlink_to("/dev/null")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file", "file is a file; name a folder"),
        ("to_file", "to_file is a file"),
        ("file/model", "file/model cannot be made: .*file is a file"),
        ("fifo", "fifo is a pipe"),
        ("/dev/null", "/dev/null is a device"),
        ("to_device/x", "null is a device"),
        ("to_nothing", "to_nothing is a link to .*nothing, which does not exist"),
        ("to_nothing/model", "to_nothing is a link to .*nothing, which"),
        ("/", "root of all files"),
        ("n" * 240, "is too long"),
    ],
)
def test_places_that_are_no_output_folder(places: Path, path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        paths.check_output_folder(path)


@pytest.mark.parametrize("path", ["folder", "to_folder", ".", "new", "a/b/c", "folder/.."])
def test_places_that_are_an_output_folder(places: Path, path: str) -> None:
    assert paths.check_output_folder(path) == (places / path).resolve()
    assert not (places / "new").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("folder", "folder is a folder; name a file"),
        ("to_folder", "to_folder is a folder"),
        (".", r"\. is a folder"),
        ("fifo", "fifo is a pipe"),
        ("/dev/null", "/dev/null is a device"),
        ("to_device", "to_device is a device"),
        ("to_nothing", "to_nothing is a link to"),
        ("file/x", "file/x cannot be made"),
        ("n" * 240, "is too long"),
    ],
)
def test_places_that_are_no_output_file(places: Path, path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        paths.check_output_file(path)
    assert (places / "file").read_text() == "mine"


def test_places_that_are_an_output_file(places: Path) -> None:
    assert paths.check_output_file("file") == places / "file"
    assert paths.check_output_file("new/file") == places / "new" / "file"
    # What is written goes where the link leads; the link stays.
    assert paths.check_output_file("to_file") == places / "file"


def test_standard_output_is_no_output_file(places: Path) -> None:
    code = (
        "from openba_jax import paths\n"
        "from openba_jax.errors import UserError\n"
        "for path in ('/dev/stdout', '/dev/fd/1', 'file'):\n"
        "    try:\n"
        "        paths.check_output_file(path)\n"
        "    except UserError as error:\n"
        "        print(error)\n"
    )
    repository = Path(__file__).resolve().parents[1]
    with (places / "file").open("w") as file:
        subprocess.run(
            ["python3", "-c", code],
            stdout=file,
            check=True,
            env={**os.environ, "PYTHONPATH": str(repository)},
        )
    assert (places / "file").read_text().count("is what this command reads or prints to") == 3


def test_a_folder_that_may_not_be_written_is_named(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # Root may write everywhere.
    for use in (paths.check_output_file, paths.check_output_folder):
        with pytest.raises(
            UserError, match=f"new cannot be written: you may not write in {places}"
        ):
            use("new")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, with a file that is mounted from elsewhere."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting needs the rights of root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_file_that_is_mounted_by_itself_is_refused(mounted: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    (mounted / "file").touch()
    subprocess.run(["mount", "--bind", tmp_path / "elsewhere", mounted / "file"], check=True)
    try:
        with pytest.raises(UserError, match="file is mounted by itself"):
            paths.check_output_file(mounted / "file")
    finally:
        subprocess.run(["umount", mounted / "file"], check=True)
    assert paths.check_output_folder(mounted) == mounted
