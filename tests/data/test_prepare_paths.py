"""`openba-prepare` reads and writes where its user means, or refuses before it begins."""

import hashlib
import json
import os
import sys

import pytest
from made_up_text import words

from openba_jax import prepare as main
from openba_jax.data.store.manifest import read_manifest
from openba_jax.errors import UserError


@pytest.fixture
def folder(vocabulary, tmp_path, monkeypatch):
    """`a.txt`, `b.txt` and `tokenizer.model`; the working folder and the home."""
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("\n".join(words(i, 60) for i in range(30)))
    (tmp_path / "tokenizer.model").write_bytes(vocabulary.path.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def prepare(capsys):
    """Runs the main in this process; what it prints."""
    from absl import flags

    def run(*arguments):
        values = flags.FlagValues()
        before = flags.FLAGS
        try:
            flags.FLAGS = main.flags.FLAGS = values
            with pytest.MonkeyPatch.context() as patch:
                for name in dir(flags):
                    if name.startswith("DEFINE_"):
                        define = getattr(flags, name)
                        patch.setattr(
                            flags,
                            name,
                            lambda *a, define=define, **k: define(*a, flag_values=values, **k),
                        )
                main.define_flags()
            main.main(values(["openba-prepare", *arguments]))
        finally:
            flags.FLAGS = main.flags.FLAGS = before
        return capsys.readouterr().out

    return run


def contents(folder):
    """All that is there, links and pipes by their kind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[path] = os.readlink(path)
        elif path.is_file():
            found[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[path] = "other"
    return found


TAIL, LINE = "，\n  ba", "\nba"  # What a document ends with.
TOKENS = ("tokens", "--vocabulary=tokenizer.model", "--group_size=20")


def test_the_home_is_expanded(folder, prepare):
    prepare(
        *("tokens", "--vocabulary=~/tokenizer.model", "--group_size=20"),
        *("--input=~/a.txt", "--output=~/made/store"),
    )
    assert read_manifest(folder / "made/store")["complete"]
    assert "~" not in os.listdir(folder)
    assert "whole" in prepare("verify", "--store=~/made/store")
    prepare("vocabulary", "--input=~/*.txt", "--size=290", "--output=~/made/t.model")
    assert (folder / "made/t.model").is_file()


def test_all_inputs_are_read(folder, prepare):
    prepare(*TOKENS, "--input=a.txt", "--input=b.txt", "--output=two")
    prepare(*TOKENS, "--input=a.txt,b.txt", "--output=comma")
    two, comma = read_manifest("two"), read_manifest("comma")
    assert [each["path"] for each in two["sources"][0]["inputs"]] == ["a.txt", "b.txt"]
    assert two["sources"] == comma["sources"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TOKENS, "--input=a.txt", "--output=s3://bucket/x"], "s3://bucket/x is an address"),
        ([*TOKENS, "--input=a.txt", "--output=memory://x"], "memory://x is an address"),
        (["vocabulary", "--input=a.txt", "--output=gs://b/t.model"], "is an address"),
        (["merge", "--store=x", "--output=gs://b/t"], "is an address"),
        (["verify", "--store=gs://b/t"], "is an address"),
        ([*TOKENS, "--input=a.txt", "--output=made/"], "made/ is a folder; add a name"),
        ([*TOKENS, "--input=a.txt", "--output=."], ". is a folder; add a name"),
        ([*TOKENS, "--input=a.txt", "--output=link"], "link.bin is a link"),
        ([*TOKENS, "--input=a.txt", "--output=pipe"], "pipe.bin is a pipe"),
        ([*TOKENS, "--input=a.txt", "--output=there"], "there.bin is a folder"),
        ([*TOKENS, "--input=a.txt", "--output=a.txt/x"], "a.txt is a file"),
        ([*TOKENS, "--input=c.json", "--output=c"], "c.json, the input"),
        ([*TOKENS, "--input=./sub/../c.json", "--output=sub/../c"], "the input"),
        (["vocabulary", "--input=a.txt", "--output=a.txt"], "a.txt, the input"),
        (["vocabulary", "--input=a.txt", "--output=sub"], "sub is a folder"),
        (["vocabulary", "--input=a.txt", "--output=pipe.bin"], "is a pipe"),
        ([*TOKENS, "--input=a.txt,a.txt", "--output=x"], "a.txt is given twice"),
        ([*TOKENS, "--input=a.txt,sub/../a.txt", "--output=x"], "is given twice, first as a.txt"),
        ([*TOKENS, "--input=*.txt,a.txt", "--output=x"], "a.txt is given twice"),
        (["vocabulary", "--input=a.txt", "--input=a.txt", "--output=x"], "given twice"),
        ([*TOKENS, "--input=t.csv", "--output=x"], r"t.csv is no plain text"),
        ([*TOKENS, "--input=a.txt,T.TSV.GZ", "--output=x"], r"T.TSV.GZ is no plain text"),
        (["vocabulary", "--input=t.csv", "--output=x"], r"t.csv is no plain text"),
        (["split", "--store=x", "--output=link", "--parts=2"], "lacks x.idx"),
    ],
)
def test_refused_before_the_work(folder, prepare, arguments, message):
    (folder / "sub").mkdir()
    (folder / "link.bin").symlink_to("elsewhere.bin")
    os.mkfifo(folder / "pipe.bin")
    (folder / "there.bin").mkdir()
    (folder / "c.json").write_text('{"text": "ba de"}\n')
    for name in ("t.csv", "T.TSV.GZ"):
        (folder / name).write_text("text,more\n")
    before = contents(folder)
    with pytest.raises(UserError) as refused:
        prepare(*arguments)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert contents(folder) == before


def test_a_folder_that_is_a_link_is_followed(folder, prepare):
    (folder / "disk").mkdir()
    (folder / "data").symlink_to("disk")
    prepare(*TOKENS, "--input=a.txt", "--output=data/store")
    assert read_manifest(folder / "disk/store")["complete"]
    assert (folder / "data").is_symlink()


@pytest.mark.parametrize("name", ["c.ndjson", "c.JSONL", "C.NDJSON.GZ", "c.Json"])
def test_json_by_any_name(folder, prepare, name):
    import gzip

    text = "".join(f'{{"text": "{words(i, 60)}"}}\n' for i in range(9)).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith("GZ") else text)
    (folder / "same.jsonl").write_bytes(text)
    prepare(*TOKENS, f"--input={name}", "--output=x")
    prepare(*TOKENS, "--input=same.jsonl", "--output=y")
    assert (folder / "x.bin").read_bytes() == (folder / "y.bin").read_bytes()


@pytest.mark.parametrize(
    ("normalization", "kept"), [((), "100.0%"), (("--normalization=nmt_nfkc",), "0.0%")]
)
def test_a_new_vocabulary_says_what_comes_back(folder, prepare, normalization, kept):
    (folder / "c.jsonl").write_text(f"{json.dumps({'text': words(1, 300) + TAIL})}\n" * 20)
    said = prepare(
        "vocabulary", "--input=c.jsonl", "--size=290", "--output=t.model", *normalization
    )
    assert f"of 20 documents ({kept}) come back exactly" in said


def test_the_newline_is_remembered(folder, prepare):
    (folder / "c.jsonl").write_text(f"{json.dumps({'text': words(1, 300) + LINE})}\n" * 20)
    prepare("vocabulary", "--input=c.jsonl", "--size=290", "--output=t.model", "--newline")
    tokens = ("tokens", "--vocabulary=t.model", "--input=c.jsonl", "--group_size=20")
    prepare(*tokens, "--output=x")
    prepare(*tokens, "--output=y", "--nonewline")
    assert read_manifest("x")["vocabulary"]["newline"]
    assert not read_manifest("y")["vocabulary"]["newline"]
    with pytest.raises(UserError, match="some of the stores have the newline as a token"):
        prepare("merge", "--store=x,y", "--output=z")
    assert "\\n" in prepare("show", "--store=x", "--vocabulary=t.model", "--count=30")
    (folder / "t_settings.json").unlink()
    with pytest.raises(UserError, match=r"has the newline as a token .* t_settings.json"):
        prepare("show", "--store=x", "--vocabulary=t.model", "--count=1")


@pytest.mark.skipif(sys.platform != "linux", reason="argv holds bytes as surrogates on Linux")
def test_half_of_a_surrogate_pair_in_a_flag(folder, prepare):
    (folder / "p.jsonl").write_text('{"inputs": "ba", "targets": "de"}\n')
    with pytest.raises(UserError, match="half of a surrogate pair"):
        prepare(
            *("tokens", "--kind=instructions", "--vocabulary=tokenizer.model"),
            *("--input=p.jsonl", "--output=x", "--task_prefix=\udcff"),
        )
    assert not list(folder.glob("x*"))
