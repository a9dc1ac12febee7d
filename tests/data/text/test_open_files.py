"""Wherever text lies and however it is compressed, the same records come out."""

import bz2
import gzip
import json
import lzma

import pytest

from openba_jax.data.text.documents import items_of, parse, read_blocks, read_records
from openba_jax.data.text.open_files import expand, input_sha256, input_size
from openba_jax.errors import UserError
from openba_jax.files import sha256

RECORDS = [{"text": f"Satz {i} 句子 " + "x" * i, "n": i} for i in range(50)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


def zstd(data):
    return pytest.importorskip("pyarrow").compress(data, codec="zstd", asbytes=True)


PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
PACKERS[".zst"] = zstd


def write_parquet(path, records=RECORDS, **arguments):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(records), path, **arguments)
    return path


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressions(tmp_path, suffix):
    path = tmp_path / f"corpus.jsonl{suffix}"
    path.write_bytes(PACKERS[suffix](LINES))
    seen = []
    assert [r for _, r in read_records([path], progress=seen.append)] == RECORDS
    assert 0 < sum(seen) <= path.stat().st_size


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_several_streams_in_one_file(tmp_path, suffix):
    path = tmp_path / f"corpus.jsonl{suffix}"
    path.write_bytes(PACKERS[suffix](LINES) + PACKERS[suffix](LINES))
    assert [r for _, r in read_records([path])] == RECORDS * 2


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "plain"])
def test_damaged_files_are_named(tmp_path, suffix, damage):
    path = tmp_path / f"corpus.jsonl{suffix}"
    path.write_bytes(PACKERS[suffix](LINES)[:-9] if damage == "cut" else b"plain text\n")
    with pytest.raises(UserError, match=rf"corpus.jsonl{suffix} is not a whole {suffix} file"):
        list(read_records([path]))


def test_tables(tmp_path):
    path = write_parquet(tmp_path / "corpus.parquet", row_group_size=20)
    assert [r for _, r in read_records([path])] == RECORDS
    assert next(read_records([path]))[0] == f"{path} row 1"
    blocks = list(read_blocks(str(path), 400, columns=("text", "none")))
    only = [item for block, _, _ in blocks for item in items_of(block)]
    assert only == [{"text": record["text"]} for record in RECORDS]
    assert len(blocks) > 3
    assert blocks[-1][1] == 50
    assert sum(read for _, _, read in blocks) == path.stat().st_size
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="not a whole parquet file"):
        list(read_records([path]))


@pytest.mark.parametrize("start", [0, 1, 19, 20, 21, 50, 60])
@pytest.mark.parametrize("size", [1, 200, 1 << 20])
def test_reading_can_start_anywhere(tmp_path, start, size):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    table = write_parquet(tmp_path / "b.parquet", row_group_size=20)
    for path in (str(tmp_path / "a.jsonl.gz"), str(table)):
        numbers = [number for _, number, _ in read_blocks(path, size, start)]
        items = [item for block, _, _ in read_blocks(path, size, start) for item in items_of(block)]
        assert [parse(path, 2, item, "text") for item in items] == RECORDS[start:]
        assert numbers == sorted(set(numbers))
        assert numbers[-1:] == ([50] if start < 50 else [])


def test_urls(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://texts/corpus.jsonl.gz", "wb") as file:
        file.write(gzip.compress(LINES))
    (tmp_path / "corpus.jsonl").write_bytes(LINES)
    here = f"file://{tmp_path}/corpus.jsonl"
    paths = expand(["memory://texts/*.gz", here])
    assert paths == ["memory:///texts/corpus.jsonl.gz", here]
    assert [r for _, r in read_records(paths)] == RECORDS * 2
    assert input_size(here) == len(LINES)
    assert input_sha256(here) == sha256(tmp_path / "corpus.jsonl")
    with pytest.raises(UserError, match=r"input memory://texts/none\.txt does not exist"):
        expand(["memory://texts/none.txt"])
    with pytest.raises(UserError, match=r"nosuch://x.txt cannot be read: .*nosuch"):
        expand(["nosuch://x.txt"])


def test_patterns(tmp_path):
    for name in ("b.txt", "a.txt", "c.jsonl"):
        (tmp_path / name).write_text("x\n")
    assert expand([tmp_path / "*.txt"]) == [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    with pytest.raises(UserError, match=r"no file matches .*\.csv"):
        expand([tmp_path / "*.csv"])
    with pytest.raises(UserError, match=r"input .*d.txt does not exist"):
        expand([tmp_path / "d.txt"])
    for folder in (str(tmp_path), f"file://{tmp_path}"):
        with pytest.raises(UserError, match=rf"{folder} is a folder; .*'{folder}/\*\.jsonl'"):
            expand([folder])
    with pytest.raises(UserError, match="/dev/null is a stream"):
        expand(["/dev/null"])
    with pytest.raises(UserError, match="a comma too many"):
        expand([tmp_path / "a.txt", ""])


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.txt.zst").write_bytes(b"x")
    with pytest.raises(UserError, match=r"needs pyarrow; pip install 'openba_jax\[data\]'"):
        list(read_records([tmp_path / "a.txt.zst"]))
