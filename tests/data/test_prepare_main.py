"""The command line: run as users run it."""

import json
import subprocess
import sys
import time

import pytest
from made_up_text import words

from openba_jax.data.store.manifest import read_manifest
from openba_jax.data.store.token_store import TokenStore


def prepare(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "openba_jax.prepare", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def test_from_text_to_stores(tmp_path):
    records = [{"body": words(i, 60)} for i in range(20)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (tmp_path / "pairs.jsonl").write_text('{"question": "ba de", "answer": "gi"}\n')
    corpus = f"--input={tmp_path / 'corpus.jsonl'}"
    model = tmp_path / "tokenizer.model"
    made = prepare("vocabulary", corpus, "--text_column=body", "--size=300", f"--output={model}")
    assert (made.returncode, made.stderr) == (0, "")
    assert "300 pieces, 512 embedding rows" in made.stdout

    common = ["tokens", f"--vocabulary={model}"]
    made = prepare(
        *common, corpus, "--text_column=body", f"--output={tmp_path}/groups", "--group_size=32"
    )
    assert (made.returncode, made.stderr) == (0, "")
    assert "documents 20," in made.stdout
    assert TokenStore(tmp_path / "groups").source("text", 0).shape == (32,)
    made = prepare(
        *(*common, corpus, "--text_column=body", f"--output={tmp_path}/same", "--group_size=32"),
        "--kind=spans",
    )
    assert made.returncode == 0
    assert "--kind=spans is now called --kind=text" in made.stderr
    assert read_manifest(tmp_path / "same")["rule"] == read_manifest(tmp_path / "groups")["rule"]
    made = prepare(
        *common,
        f"--input={tmp_path / 'pairs.jsonl'}",
        f"--output={tmp_path}/pairs",
        "--kind=instructions",
        "--input_column=question",
        "--target_column=answer",
    )
    assert (made.returncode, made.stderr) == (0, "")
    assert TokenStore(tmp_path / "pairs").count("instructions") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "vocabulary or tokens or merge"),
        (["words"], "vocabulary or tokens or merge"),
        (["tokens", "more"], "vocabulary or tokens or merge"),
        (["tokens"], "--output is missing"),
        (["tokens", "--output=y", "--vocabulary=v"], "--input is missing"),
        (["tokens", "--input=x.txt", "--output=y"], "--vocabulary is missing"),
        (["vocabulary", "--input=/nowhere.txt", "--output=y"], "/nowhere.txt does not exist"),
        (
            ["tokens", "--input=x", "--output=y", "--vocabulary=/no.model"],
            "/no.model cannot be read",
        ),
    ],
)
def test_mistakes_are_one_sentence(arguments, message):
    made = prepare(*arguments)
    assert made.returncode == 2
    assert message in made.stderr
    assert made.stderr.startswith("error: ")
    assert "Traceback" not in made.stderr


def test_unwritable_output_is_one_sentence(tmp_path):
    (tmp_path / "a.txt").write_text(words(1, 500))
    made = prepare(
        "vocabulary", f"--input={tmp_path / 'a.txt'}", "--size=280", "--output=/dev/null/x.model"
    )
    assert made.returncode == 2
    assert made.stderr.startswith("error: /dev/null/x.model cannot be made: /dev/null is a device")
    assert made.stderr.count("\n") == 1


def test_help_is_quick():
    start = time.monotonic()
    made = prepare("--help")
    assert time.monotonic() - start < 2
    assert "openba-prepare tokens" in made.stdout + made.stderr
