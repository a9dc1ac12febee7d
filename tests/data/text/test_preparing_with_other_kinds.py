"""Token stores of vocabularies that are not OpenBA's: what frames a text, and what is counted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from openba_jax.data.store.manifest import check_vocabulary, read_manifest
from openba_jax.data.store.token_store import TokenStore
from openba_jax.data.store.tools import merge_stores
from openba_jax.data.text.chunks import TextSource
from openba_jax.data.text.preparation import prepare
from openba_jax.data.text.rules import Instructions, TextGroups
from openba_jax.data.viewer import show
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.errors import UserError
from openba_jax.pruning.vocabulary import pieces_of, prune_vocabulary, sum_counts

TEXTS = ["The capital of France is Paris.", "日本的首都是哪里？", "a  b\n\nc", "x<|im_end|>y"]


@pytest.fixture(params=["llama", "llama3", "smollm"])
def vocabulary(request, golden_dir):
    folder = golden_dir("tokenizers", "llama3") / request.param
    return open_vocabulary(next(each for each in folder.iterdir() if each.stem == "tokenizer"))


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"text": t, "inputs": t, "targets": "yes"}) + "\n" for t in TEXTS * 5]
    path.write_text("".join(lines))
    return [TextSource("corpus", [str(path)])]


def counts_in(path):
    lines = (line.rsplit(" ", 2) for line in path.read_text(encoding="utf-8").splitlines())
    return {int(i): int(count) for _, i, count in lines}


@pytest.mark.parametrize("workers", [1, 3])
def test_documents_begin_and_end(vocabulary, corpus, tmp_path, workers):
    rule = TextGroups(group_size=16, batch_size=0)
    manifest = prepare(corpus, rule, vocabulary, tmp_path / "store", workers=workers)
    store = TokenStore(tmp_path / "store")
    begin = [vocabulary.bos_id] if vocabulary.adds_bos else []
    stream = [
        i
        for text in TEXTS * 5
        for i in (*begin, *vocabulary.encode(text, parse_special=True), vocabulary.eos_id)
    ]
    found = np.concatenate(list(store.blocks(1000)))
    assert found.tolist() == stream[: len(found)]
    assert len(stream) - len(found) == manifest["numbers"]["dropped_tokens"]
    named = 0 if vocabulary.kind == "sentencepiece" else 5
    assert manifest["numbers"]["special_tokens"] == named
    check_vocabulary(tmp_path / "store", vocabulary)
    described = read_manifest(tmp_path / "store")["vocabulary"]
    frame = {vocabulary.eos_id, vocabulary.bos_id, vocabulary.pad_id} - {vocabulary.unk_id}
    assert described["frame"] == sorted(frame)


def test_counts_leave_the_frame_out(vocabulary, corpus, tmp_path):
    rule = TextGroups(group_size=16, batch_size=0)
    for name in ("one", "two"):
        prepare(corpus, rule, vocabulary, tmp_path / name)
    counts = counts_in(tmp_path / "one.counts.txt")
    frame = {vocabulary.eos_id, vocabulary.bos_id} - {vocabulary.unk_id}
    assert all(counts.get(i, 0) == 0 for i in frame)
    assert sum(counts.values()) > 100
    merge_stores([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    assert counts_in(tmp_path / "both.counts.txt") == {i: 2 * n for i, n in counts.items()}
    summed = sum_counts([tmp_path / "one.counts.txt"], pieces_of(vocabulary.path))
    pruned = prune_vocabulary(vocabulary.path, summed, 60)
    (tmp_path / "pruned").mkdir()
    pruned.save(tmp_path / "pruned" / pruned.file)
    smaller = open_vocabulary(tmp_path / "pruned" / pruned.file)
    assert all(smaller.decode(smaller.encode(text)) == text for text in TEXTS)
    with pytest.raises(UserError, match="are not those of"):
        check_vocabulary(tmp_path / "one", smaller)


def test_targets_end(vocabulary, corpus, tmp_path):
    prepare(corpus, Instructions(instruction_column="none"), vocabulary, tmp_path / "pairs")
    store = TokenStore(tmp_path / "pairs")
    found = np.concatenate(list(store.blocks(1000)))
    target = [*vocabulary.encode("yes"), vocabulary.eos_id]
    source = vocabulary.encode(TEXTS[0])
    assert found[: len(source) + len(target)].tolist() == source + target


def test_special_tokens_are_shown_by_name(vocabulary):
    ids = np.array([vocabulary.eos_id, *vocabulary.encode("ab"), vocabulary.eos_id])
    name = next(t for t, i in vocabulary.special_tokens().items() if i == vocabulary.eos_id)
    assert show(ids, vocabulary, colour=False) == f"{name} ab {name}"
    assert "\x1b[2m" in show(ids, vocabulary, colour=True)
