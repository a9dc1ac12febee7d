import gzip
import json

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from openba_jax.data.text.documents import column, read_records
from openba_jax.errors import UserError


def texts(path, **arguments):
    return [record["text"] for _, record in read_records([path], **arguments)]


@settings(deadline=None, max_examples=40)
@given(documents=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30)))
@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl.gz", "c.d.json"])
def test_any_text_comes_through_json(tmp_path_factory, name, documents):
    path = tmp_path_factory.mktemp("text") / name
    data = "".join(json.dumps({"text": document}) + "\n" for document in documents).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    assert texts(path) == documents


@pytest.mark.parametrize("name", ["a.txt", "b.txt.gz", "plain"])
def test_plain_text_has_a_document_per_line(tmp_path, name):
    data = "\ufeffone\r\n\n二 \u2028 \x85 zwei\nlast".encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    assert texts(path) == ["one", "", "二 \u2028 \x85 zwei", "last"]


def test_several_files_places_and_progress(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.jsonl").write_text('\n{"body": "three"}\n  \n{"body": "four"}')
    files = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    seen = []
    records = list(read_records(files, "body", seen.append))
    assert [record["body"] for _, record in records] == ["one", "two", "three", "four"]
    assert [place.split("/")[-1] for place, _ in records] == [
        "a.txt line 1",
        "a.txt line 2",
        "b.jsonl line 2",
        "b.jsonl line 4",
    ]
    assert sum(seen) == sum(file.stat().st_size for file in files)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', "a.jsonl line 2 is not UTF-8"),
        ("a.txt", b"fine\n\xc3\n", "a.txt line 2 is not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl line 2 is not JSON"),
        ("a.jsonl", b'["x"]\n', "a.jsonl line 1 is not a JSON object"),
        ("a.jsonl", b'{"t": 1, "u": 2}\n', r"line 1 has no column 'text'; it has 't', 'u'"),
        ("a.jsonl", b'{"text": 5}\n', r"line 1 has no text in column 'text' but 5"),
        ("a.txt.gz", b"plain", "not a whole .gz file"),
        ("a.txt.gz", gzip.compress(b"text" * 1000, mtime=0)[:-9], "not a whole .gz file"),
        (
            "a.txt.gz",
            gzip.compress(bytes(range(256)), mtime=0)[:40] + b"x" * 40,
            "not a whole .gz|UTF-8",
        ),
    ],
)
def test_bad_files(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        [column(record, "text", place) for place, record in read_records([tmp_path / name])]


@pytest.mark.parametrize(
    ("line", "good"),
    [
        (' \t{"text": "x"} \r', True),
        ('{"text": "a", "text": "x"}', True),
        ('{"text": "x"} {"text": "x"}', False),
        ('{"text": "x"},', False),
        ('\ufeff{"text": "x"}', False),
        ('{"text": "x"}\u3000', False),
        ('{"text": "a\tb"}', False),
    ],
)
def test_a_line_is_one_value(tmp_path, line, good):
    """What `json.loads` takes, with space around it."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(f'{{"text": "first"}}\n{line}\n'.encode())
    if good:
        assert texts(path) == ["first", "x"]
        return
    with pytest.raises(UserError, match=r"a\.jsonl line 2 is not JSON"):
        texts(path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.txt cannot be read: No such file"):
        list(read_records([tmp_path / "nowhere.txt"]))
