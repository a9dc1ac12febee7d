import json

import numpy as np
import pytest
from made_up_text import words

from openba_jax.data.store.manifest import read_manifest
from openba_jax.data.store.token_store import TokenStore
from openba_jax.data.store.tools import merge_stores, split_store, verify_store
from openba_jax.data.text.chunks import TextSource
from openba_jax.data.text.preparation import prepare
from openba_jax.data.text.rules import Instructions, TextGroups
from openba_jax.errors import UserError

KINDS = ("text", "instructions")


@pytest.fixture
def parts(vocabulary, tmp_path):
    """A store of two sources of groups, and one of instructions."""
    for name, seed in (("a", 1), ("b", 2)):
        lines = [json.dumps({"inputs": words(seed + i, 60), "targets": "ba"}) for i in range(9)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    sources = [TextSource(name, [tmp_path / f"{name}.jsonl"], 1.0) for name in "ab"]
    prepare(sources, TextGroups(8, text_column="inputs"), vocabulary, tmp_path / "groups")
    prepare(sources[:1], Instructions(), vocabulary, tmp_path / "pairs")
    return tmp_path


def pairs_of(prefix):
    store = TokenStore(prefix)
    return [
        (kind, store.source(kind, j).tolist(), store.target(kind, j).tolist())
        for kind in KINDS
        for j in range(store.count(kind))
    ]


def counts_of(prefix):
    lines = prefix.with_name(f"{prefix.name}.counts.txt").read_text().split("\n")[:-1]
    return {int(i): int(count) for _, i, count in (line.rsplit(" ", 2) for line in lines)}


def test_merged_stores(vocabulary, parts):
    manifest = merge_stores([parts / "groups", parts / "pairs"], parts / "all")
    assert pairs_of(parts / "all") == pairs_of(parts / "groups") + pairs_of(parts / "pairs")
    assert manifest == read_manifest(parts / "all")
    assert [source["name"] for source in manifest["sources"]] == ["a", "b", "a"]
    assert manifest["vocabulary"]["sha256"] == vocabulary.fingerprint
    assert counts_of(parts / "all") == {
        i: counts_of(parts / "groups")[i] + counts_of(parts / "pairs")[i]
        for i in range(vocabulary.piece_count)
    }
    assert verify_store(parts / "all")["checksums"] == 3
    with pytest.raises(UserError, match=r"there is a token store .*all already"):
        merge_stores([parts / "groups"], parts / "all")


def test_split_stores(parts):
    merge_stores([parts / "groups", parts / "pairs"], parts / "all")
    manifests = split_store(parts / "all", 3, parts / "part")
    whole = pairs_of(parts / "all")
    np.random.seed(423)  # As the original draws.
    drawn = [int(np.random.choice(3, 1)[0]) for _ in whole]
    assert set(drawn) == {0, 1, 2}
    names = ("a", "b", "a")
    for part, manifest in enumerate(manifests):
        prefix = parts / f"part-{part}"
        assert pairs_of(prefix) == [p for p, d in zip(whole, drawn, strict=True) if d == part]
        assert manifest["rule"]["part"] == part
        ids = [i for _, *sides in pairs_of(prefix) for side in sides for i in side]
        counts = counts_of(prefix)
        assert len(ids) == manifest["numbers"]["tokens"]
        assert sum(counts.values()) == len(ids) - ids.count(1)
        assert all(counts[i] == ids.count(i) for i in set(ids) - {1})
        assert tuple(source["name"] for source in manifest["sources"]) == names
        assert verify_store(prefix)["tokens"] == len(ids)
    for i, source in enumerate(read_manifest(parts / "all")["sources"]):
        for kind in KINDS:
            split = sum(manifest["sources"][i][kind] for manifest in manifests)
            assert split == source.get(kind, 0)
    with pytest.raises(UserError, match="cannot be split in 1 parts"):
        split_store(parts / "all", 1, parts / "one")


def test_stores_of_the_original_can_be_merged_and_split(golden_dir, tmp_path):
    folder = golden_dir("indexed")
    manifest = merge_stores(
        [folder / "pretrain_spancorr", folder / "finetune_multitask"], tmp_path / "m"
    )
    assert manifest["vocabulary"] is None
    assert not (tmp_path / "m.counts.txt").exists()
    split_store(tmp_path / "m", 2, tmp_path / "part")
    merge_stores([tmp_path / "part-0", tmp_path / "part-1"], tmp_path / "again")
    assert sorted(pairs_of(tmp_path / "again")) == sorted(pairs_of(tmp_path / "m"))


def test_broken_off_merges_can_be_started_again(parts, monkeypatch):
    from openba_jax.data.store import tools

    with monkeypatch.context() as patch:
        patch.setattr(tools, "_finish", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            merge_stores([parts / "groups"], parts / "all")
    (parts / "all.bin").unlink()
    (parts / "all.idx").unlink()
    merge_stores([parts / "groups"], parts / "all")
    assert (parts / "all.bin").read_bytes() == (parts / "groups.bin").read_bytes()


def test_vocabularies_must_agree(vocabulary, parts):
    path = parts / "groups.json"
    path.write_text(path.read_text().replace(vocabulary.fingerprint, "0" * 64))
    with pytest.raises(UserError, match="which differ; prepare them with one vocabulary"):
        merge_stores([parts / "groups", parts / "pairs"], parts / "all")
    assert not list(parts.glob("all*"))


def swap(data, first, second, size):
    """Exchanges two stretches."""
    data = bytearray(data)
    data[first : first + size], data[second : second + size] = (
        data[second : second + size],
        data[first : first + size],
    )
    return bytes(data)


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        (".bin", lambda data: swap(data, 0, 100, 2), "is not the file that"),
        (".counts.txt", lambda data: data + b"x", "is not the file that"),
        # Lengths, offsets, numbers of pairs: all of the size that they should have.
        (".idx", lambda data: swap(data, 42, 46, 4), "its sequences leave gaps"),
        (".idx", lambda data: data[:-8] + bytes(8), "missing or named twice"),
    ],
)
def test_stores_whose_files_disagree(parts, suffix, change, message):
    path = parts / f"groups{suffix}"
    assert verify_store(parts / "groups")["groups"] == TokenStore(parts / "groups").count("text")
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    with pytest.raises(UserError, match=message):
        verify_store(parts / "groups")


def test_data_of_another_store(parts):
    """Two stores with as many tokens: only the checksums tell."""
    (parts / "pairs.bin").write_bytes((parts / "groups.bin").read_bytes())
    with pytest.raises(UserError, match=r"pairs.bin has .* bytes where pairs.idx promises"):
        verify_store(parts / "pairs")
    (parts / "groups.idx").write_bytes((parts / "pairs.idx").read_bytes())
    with pytest.raises(UserError, match=r"groups.bin has .* bytes where groups.idx promises"):
        verify_store(parts / "groups")


def test_an_unfinished_store(parts):
    path = parts / "groups.json"
    path.write_text(path.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(UserError, match="is unfinished"):
        verify_store(parts / "groups")


def test_a_split_that_was_killed_goes_on(parts):
    whole = [split_store(parts / "groups", 3, parts / "whole")[i]["files"] for i in range(3)]
    split_store(parts / "groups", 3, parts / "part")
    for path in parts.glob("part-[12].*"):
        path.unlink()
    written = (parts / "part-0.bin").stat().st_mtime_ns
    again = split_store(parts / "groups", 3, parts / "part")
    assert (parts / "part-0.bin").stat().st_mtime_ns == written
    sums = [[file["sha256"] for file in m["files"].values()] for m in again]
    assert sums == [[file["sha256"] for file in files.values()] for files in whole]


@pytest.mark.parametrize(
    "use",
    [
        lambda prefix: split_store(prefix, 2, prefix.with_name("part")),
        lambda prefix: merge_stores([prefix], prefix.with_name("all")),
        lambda prefix: TokenStore(prefix).lengths("text"),
    ],
)
def test_a_damaged_index_is_named(parts, use):
    index = parts / "groups.idx"
    content = bytearray(index.read_bytes())
    content[-8:] = (10**9).to_bytes(8, "little")
    index.write_bytes(content)
    with pytest.raises(UserError, match=r"groups\.idx is damaged"):
        use(parts / "groups")
    assert not list(parts.glob("all*"))
