import json
import shutil
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from openba_jax.data.store.token_store import TokenStore, open_stores, store_dtype
from openba_jax.data.store.tools import merge_stores
from openba_jax.data.store.writer import TokenStoreWriter
from openba_jax.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
KINDS = {"span-corruption": "text", "multi-task": "instructions"}


def add_pair(writer, kind, source, target=()):
    writer.add_pairs(kind, np.array([*source, *target]), np.array([len(source), len(target)]))


def check_golden(prefix, items, folder):
    """Reads a store of the original, writes it again, and compares bytes."""
    store = TokenStore(prefix)
    with TokenStoreWriter(folder / "copy", store.dtype) as writer:
        for item in items:
            kind, j = KINDS[item["task"]], item["index_within_task"]
            assert store.source(kind, j).tolist() == item["source"]
            assert store.target(kind, j).tolist() == item["target"]
            add_pair(writer, kind, item["source"], item["target"])
    assert store.count("text") + store.count("instructions") == len(items)
    for suffix in (".bin", ".idx"):
        original = prefix.with_name(prefix.name + suffix).read_bytes()
        assert (folder / f"copy{suffix}").read_bytes() == original


def test_store_of_the_original(tmp_path):
    items = json.loads((GOLDEN / "mixed_int32.json").read_text())["items"]
    check_golden(GOLDEN / "mixed_int32", items, tmp_path)


@pytest.mark.parametrize("name", ["pretrain_spancorr", "finetune_multitask", "merged"])
def test_stores_of_the_original(golden_dir, tmp_path, name):
    prefix = golden_dir("indexed", f"{name}.bin") / name
    items = json.loads(prefix.with_name(f"{name}.json").read_text())["items"]
    check_golden(prefix, items, tmp_path)


def test_merging_as_the_original(golden_dir, tmp_path):
    folder = golden_dir("indexed", "merged.bin")
    merge_stores([folder / "finetune_multitask", folder / "pretrain_spancorr"], tmp_path / "merged")
    for suffix in ("bin", "idx"):
        merged = (tmp_path / f"merged.{suffix}").read_bytes()
        assert merged == (folder / f"merged.{suffix}").read_bytes()


sequences = st.lists(st.integers(0, 65_535), max_size=12)


@settings(deadline=None, max_examples=40)
@given(
    pairs=st.lists(st.tuples(st.sampled_from(list(KINDS.values())), sequences, sequences)),
    dtype=st.sampled_from(["<u2", "<i4"]),
    longest=st.one_of(st.none(), st.integers(0, 12)),
)
def test_what_is_written_is_read(tmp_path_factory, pairs, dtype, longest):
    prefix = tmp_path_factory.mktemp("store") / "with.dots"
    with TokenStoreWriter(prefix, np.dtype(dtype)) as writer:
        for pair in pairs:
            add_pair(writer, *pair)
    store = open_stores([prefix, prefix])  # Twice, to number through.
    for kind in KINDS.values():
        expected = [(source, target) for k, source, target in pairs if k == kind] * 2
        assert store.count(kind) == len(expected)
        indices = np.random.default_rng(0).permutation(len(expected))
        for side, name in enumerate(("source", "target")):
            rows = store.read(kind, indices, name, longest)
            for row, length, index in zip(rows.ids, rows.lengths, indices, strict=True):
                ids = expected[index][side][:longest]
                assert row[:length].tolist() == ids
                assert not row[length:].any()


def test_groups_at_once_are_pairs_without_targets(tmp_path):
    groups = np.arange(12).reshape(3, 4)
    with TokenStoreWriter(tmp_path / "groups", np.dtype("<u2")) as writer:
        writer.add_groups(groups[:2])
        writer.add_groups(groups[2:])
    with TokenStoreWriter(tmp_path / "pairs", np.dtype("<u2")) as writer:
        for group in groups:
            add_pair(writer, "text", group)
    for suffix in ("bin", "idx"):
        files = [(tmp_path / f"{name}.{suffix}").read_bytes() for name in ("groups", "pairs")]
        assert files[0] == files[1]
    store = TokenStore(tmp_path / "groups")
    assert (store.longest("text"), store.tokens("text"), store.longest("instructions")) == (
        4,
        12,
        0,
    )


def test_element_types(tmp_path):
    assert store_dtype(65_499) == np.uint16
    assert store_dtype(65_500) == np.int32
    with pytest.raises(UserError, match="float64"):
        TokenStoreWriter(tmp_path / "x", np.dtype(float))
    writer = TokenStoreWriter(tmp_path / "x", np.dtype(np.uint16))
    with pytest.raises(ValueError, match="65536 do not fit uint16"):
        add_pair(writer, "text", [1, 65_536])
    with TokenStoreWriter(tmp_path / "a", np.dtype(np.uint16)) as writer:
        add_pair(writer, "text", [1])
    with pytest.raises(UserError, match="cannot be joined"):
        merge_stores([GOLDEN / "mixed_int32", tmp_path / "a"], tmp_path / "b")


def test_a_failed_writer_leaves_nothing(tmp_path):
    def write():
        with TokenStoreWriter(tmp_path / "x", np.dtype("u2")) as writer:
            add_pair(writer, "text", [1, 2])
            raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        write()
    assert not list(tmp_path.iterdir())


def damage(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def set_bytes(start, value):
    def change(data):
        data[start : start + len(value)] = value

    return change


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        (".idx", lambda data: data.clear(), "not the index"),
        (".idx", set_bytes(0, b"X"), "not the index"),
        (".idx", set_bytes(9, b"\x02"), "version 2"),
        (".idx", set_bytes(17, b"\x63"), "type code 99"),
        (".idx", set_bytes(18, b"\x05"), "5 sequences"),
        (".idx", lambda data: data.pop(), "its header promises"),
        (".bin", lambda data: data.pop(), "mixed_int32.idx promises 2620"),
        (".bin", lambda data: data.append(0), "mixed_int32.idx promises 2620"),
        (".idx", set_bytes(42, b"\xff\xff\xff\x7f"), "points outside"),
        (".idx", set_bytes(42 + 4 * 18, b"\xff" * 8), "points outside"),
        (".idx", set_bytes(42 + 12 * 18, b"\x63"), "pair number is out of range"),
    ],
)
def test_damaged_stores(tmp_path, suffix, change, message):
    for file in GOLDEN.glob("mixed_int32.*"):
        shutil.copy(file, tmp_path)
    damage(tmp_path / f"mixed_int32{suffix}", change)
    with pytest.raises(UserError, match=message):
        TokenStore(tmp_path / "mixed_int32").source("text", 0)


def test_missing_stores(tmp_path):
    with pytest.raises(UserError, match=r"lacks nowhere.idx"):
        TokenStore(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no token store is given"):
        open_stores([])


def test_numbers_run_through_joined_stores():
    joined = open_stores([GOLDEN / "mixed_int32"] * 2)
    with pytest.raises(IndexError, match="there are 8 pairs"):
        joined.read("text", np.array([8]))


def test_an_empty_store_can_be_opened(tmp_path):
    TokenStoreWriter(tmp_path / "empty", np.dtype("u2")).close()
    assert open_stores([tmp_path / "empty"]).count("text") == 0
