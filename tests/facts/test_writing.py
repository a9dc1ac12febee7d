"""The folder: same arguments, same bytes; whole or not at all; nobody's files are touched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.facts import RELATIONS, write
from openba_jax.errors import UserError

SMALL = {"facts_per_relation": 3, "documents": 120, "instructions": 50}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def main(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.facts", *flags],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_files_and_counts(tmp_path):
    counts = write(tmp_path / "facts", **SMALL)
    files = contents(tmp_path / "facts")
    assert len(files) == 2 + 2 * len(RELATIONS)
    told = [json.loads(line) for line in files["corpus.jsonl"].decode().splitlines()]
    taught = [json.loads(line) for line in files["instructions.jsonl"].decode().splitlines()]
    asked = [
        item for name, text in files.items() if name.startswith("questions/")
        for item in json.loads(text)
    ]  # fmt: skip
    assert counts == {
        "facts": 3 * len(RELATIONS),
        "documents": len(told),
        "characters": sum(len(record["text"]) for record in told),
        "instructions": len(taught),
        "questions": len(asked),
    }
    assert (len(told), len(taught), len(asked)) == (120, 50, 6 * len(RELATIONS))
    assert {tuple(record) for record in told} == {("text", "lang", "source")}
    assert {tuple(record) for record in taught} == {("inputs", "targets", "lang")}


def test_bytes_depend_on_the_arguments_alone(tmp_path):
    write(tmp_path / "here", seed=5, **SMALL)
    flags = [f"--{name}={value}" for name, value in SMALL.items()]
    ran = main(f"--output_dir={tmp_path / 'there'}", "--seed=5", *flags, PYTHONHASHSEED="7")
    assert ran.returncode == 0, ran.stderr
    assert "120 documents" in ran.stdout
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    write(tmp_path / "other", seed=6, **SMALL)
    assert contents(tmp_path / "here") != contents(tmp_path / "other")


def test_more_documents_leave_the_questions_alone(tmp_path):
    write(tmp_path / "few", **SMALL)
    write(tmp_path / "many", **{**SMALL, "documents": 200})
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    assert {name for name in few if few[name] != many[name]} == {"corpus.jsonl"}
    assert many["corpus.jsonl"].startswith(few["corpus.jsonl"])


def test_same_again_is_kept_and_anything_else_refused(tmp_path):
    folder = tmp_path / "facts"
    folder.mkdir()  # empty is fine
    write(folder, **SMALL)
    before = contents(folder)
    stamp = (folder / "corpus.jsonl").stat().st_mtime_ns
    write(folder, **SMALL)
    assert (folder / "corpus.jsonl").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="holds something else"):
        write(folder, seed=1, **SMALL)
    assert contents(folder) == before
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        write(folder, **SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {"facts"}


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        write(tmp_path / "facts", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("facts_per_relation", 0),
        ("documents", 5),
        ("instructions", -1),
        ("choice_share", 1.5),
        ("held_out", 9),
    ],
)
def test_arguments_out_of_range(tmp_path, argument, value):
    with pytest.raises(UserError, match=argument):
        write(tmp_path / "facts", **{**SMALL, argument: value})
    assert list(tmp_path.iterdir()) == []


def test_user_errors_of_the_command(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    ran = main(f"--output_dir={tmp_path}")
    assert ran.returncode == 2
    assert "holds something else" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_help_is_light():
    probe = (
        "import sys, examples.facts;"
        "heavy = {'jax', 'numpy', 'tensorflow', 'seqio', 'gin'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)
    assert "--facts_per_relation" in main("--help").stdout


def test_relations_can_be_chosen(tmp_path: Path) -> None:
    counts = write(tmp_path / "some", relations=["capitals", "sums"], **SMALL)
    assert counts["facts"] == 6
    names = {path.name for path in (tmp_path / "some/questions").iterdir()}
    assert names == {f"{r}_{lang}.json" for r in ("capitals", "sums") for lang in ("en", "zh")}
    with pytest.raises(UserError, match="captials"):
        write(tmp_path / "typo", relations=["captials"], **SMALL)
