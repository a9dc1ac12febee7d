"""Pruned vocabularies of every kind give texts of kept pieces the same pieces as before."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openba_jax.data.vocabularies.registry import open_vocabulary, save_tokenizer
from openba_jax.data.vocabularies.settings import TokenizerSettings, write_settings
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.errors import UserError
from openba_jax.pruning.pieces import of_json
from openba_jax.pruning.pieces.merges import pair_closure
from openba_jax.pruning.pieces.of_json import byte_letters
from openba_jax.pruning.vocabulary import prune_vocabulary

SENTENCES = [
    "The capital of France is Paris, and 3.14159 or 1,000,000.",
    "日本的首都是哪里？东京。",
    "a line\nanother line  with   blanks\tand 😀",
    "def f(x):\n    return x ** 2  # a comment\n",
    "zebra quartz jumping lazily over vexed dwarves",
]


@pytest.fixture(params=["gemma", "llama", "llama3", "smollm"])
def path(request, golden_dir):
    folder = golden_dir("tokenizers", "llama3") / request.param
    return next(each for each in folder.iterdir() if each.stem == "tokenizer")


def counts_of(vocabulary, texts):
    ids = np.concatenate([*vocabulary.encode_arrays(texts), np.zeros(0, np.int32)])
    return np.bincount(ids, minlength=vocabulary.token_count)


def saved(pruned, folder):
    pruned.save(folder / pruned.file)
    return open_vocabulary(folder / pruned.file)


def opened(pruned, folder):
    folder.mkdir()
    return saved(pruned, folder)


@pytest.mark.parametrize("size", [20, 60, 120])
def test_texts_of_kept_pieces(path, tmp_path, size):
    old = open_vocabulary(path)
    rng = np.random.default_rng(size)
    counts = 1000 * counts_of(old, SENTENCES[:2]) + rng.integers(0, 9, old.token_count)
    pruned = prune_vocabulary(path, counts, size)
    new = saved(pruned, tmp_path)
    ids = {was: row for row, was in enumerate(pruned.rows)}
    assert len(ids) == len(pruned.rows) == new.token_count < old.token_count
    assert pruned.pieces == new.piece_count
    compared = 0
    texts = [*SENTENCES, *(old.decode([i]) for i in ids)]
    for special, text in itertools.product((False, True), texts):
        before = old.encode(text, special)
        if {*before} <= ids.keys():
            compared += 1
            assert new.encode(text, special) == [ids[i] for i in before], text
    assert compared > 40
    # What is dropped is spelt in bytes.
    assert all(new.decode(new.encode(text)) == text for text in SENTENCES)


def test_special_tokens_move_along(path, tmp_path):
    old = open_vocabulary(path)
    pruned = prune_vocabulary(path, np.arange(old.token_count), 30)
    new = saved(pruned, tmp_path)
    assert new.settings == old.settings
    assert new.special_tokens() == {
        token: pruned.rows.index(i) for token, i in old.special_tokens().items()
    }
    for role in ("pad_id", "bos_id", "eos_id", "unk_id"):
        before = getattr(old, role)
        assert getattr(new, role) == (None if before is None else pruned.rows.index(before))
    assert new.adds_bos == old.adds_bos
    assert new.stop_ids == tuple(pruned.rows.index(i) for i in old.stop_ids)


def test_pruning_again(path, tmp_path):
    old = open_vocabulary(path)
    counts = counts_of(old, SENTENCES)
    first = prune_vocabulary(path, counts, 100)
    opened(first, tmp_path / "first")
    again = prune_vocabulary(tmp_path / "first" / first.file, counts[list(first.rows)], 40)
    once = prune_vocabulary(path, counts, 40)
    assert tuple(first.rows[i] for i in again.rows) == once.rows
    assert opened(again, tmp_path / "a").pieces(range(again.pieces)) == (
        opened(once, tmp_path / "b").pieces(range(once.pieces))
    )


def test_rows_are_padded_if_asked(path):
    counts = np.arange(open_vocabulary(path).token_count)
    whole = prune_vocabulary(path, counts, 50)
    padded = prune_vocabulary(path, counts, 50, pad_to=64)
    assert len(padded.rows) % 64 == 0
    assert padded.rows[: len(whole.rows)] == whole.rows
    assert {*padded.rows[len(whole.rows) :]} == {open_vocabulary(path).pad_id}


def test_sizes_and_counts_that_do_not_fit(path):
    old = open_vocabulary(path)
    with pytest.raises(UserError, match=f"choose 1 to {old.piece_count}"):
        prune_vocabulary(path, np.ones(5, int), old.piece_count + 1)
    with pytest.raises(UserError, match="choose 1 to"):
        prune_vocabulary(path, np.ones(5, int), 0)
    with pytest.raises(UserError, match="counts go to id"):
        prune_vocabulary(path, np.ones(old.token_count + 1, int), 50)
    only = np.zeros(old.token_count, int)
    only[old.eos_id if old.eos_id < old.piece_count else old.encode("!")[0]] = 9
    with pytest.raises(UserError, match="alone; keep more"):
        prune_vocabulary(path, only, 1)


def test_ids_around_a_text_are_renumbered(golden_dir, tmp_path):
    path = golden_dir("tokenizers", "llama3") / "llama3" / "tokenizer.json"
    pruned = prune_vocabulary(path, np.arange(400), 30)
    new = saved(pruned, tmp_path)
    content = json.loads(pruned.model)
    template = content["post_processor"]["processors"][1]
    assert template["special_tokens"]["<|endoftext|>"]["ids"] == [new.bos_id]
    assert new.adds_bos  # The library puts the token there that has this name now.
    assert [token["id"] for token in content["added_tokens"]] == list(
        range(new.piece_count, new.token_count)
    )
    letters = set(byte_letters())
    assert len(letters) == 256
    assert letters <= content["model"]["vocab"].keys()
    assert sorted(content["model"]["vocab"].values()) == list(range(new.piece_count))
    for left, right in content["model"]["merges"]:
        assert {left, right, left + right} <= content["model"]["vocab"].keys()


def test_other_frames(golden_dir):
    path = golden_dir("tokenizers", "llama3") / "llama3" / "tokenizer.json"
    vocabulary, content = open_vocabulary(path), json.loads(path.read_text(encoding="utf-8"))
    names = vocabulary.special_tokens()
    sep, cls = (["<|im_end|>", names["<|im_end|>"]], ["<|endoftext|>", names["<|endoftext|>"]])
    content["post_processor"] = {"type": "BertProcessing", "sep": sep, "cls": cls}
    model, kept, _ = of_json.prune(json.dumps(content).encode(), vocabulary, {400})
    found = json.loads(model)["post_processor"]
    assert found["sep"] == ["<|im_end|>", kept.index(sep[1])]
    assert found["cls"] == ["<|endoftext|>", kept.index(cls[1])]
    content["post_processor"] = {"type": "Unheard"}
    with pytest.raises(UserError, match="post-processor Unheard"):
        of_json.prune(json.dumps(content).encode(), vocabulary, {400})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "WordPiece"}, "type WordPiece"),
        ({"end_of_word_suffix": "</w>"}, "BPE with end_of_word_suffix"),
        ({"dropout": 0.1, "continuing_subword_prefix": "#"}, "dropout and continuing"),
    ],
)
def test_kinds_that_cannot_be_pruned(golden_dir, changes, message):
    source = golden_dir("tokenizers", "smollm") / "smollm"
    content = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = open_vocabulary(source / "tokenizer.json")
    content["model"] |= changes
    with pytest.raises(UserError, match=message):
        of_json.prune(json.dumps(content).encode(), vocabulary, {300})


def test_pairs_that_a_piece_is_built_of():
    ranks = {pair: i for i, pair in enumerate([("a", "b"), ("c", "d"), ("b", "c"), ("ab", "cd")])}
    assert pair_closure(["abcd"], ranks) == {*"abcd", "ab", "cd", "abcd"}
    assert pair_closure(["bcd"], ranks) == {*"bcd", "bcd", "cd"}  # Not built; what it comes to.
    assert pair_closure(["x"], ranks) == {"x"}


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_merges(tmp_path_factory, data):
    """Lists of merges that no trainer would make, with and without whole words."""
    folder = tmp_path_factory.mktemp("bpe")
    pieces, merges = [*"abc"], []
    for _ in range(data.draw(st.integers(5, 40))):
        left, right = (data.draw(st.sampled_from(pieces)) for _ in range(2))
        if len(left + right) < 9 and (left, right) not in merges:
            merges.append((left, right))
            pieces = list(dict.fromkeys([*pieces, left + right]))
    merges = data.draw(st.permutations(merges))
    shuffled = data.draw(st.permutations(["<end>", *pieces]))
    content = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": shuffled.index("<end>"),
                "content": "<end>",
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
        ],
        "model": {
            "type": "BPE",
            "vocab": {piece: i for i, piece in enumerate(shuffled)},
            "merges": [list(merge) for merge in merges],
            "ignore_merges": data.draw(st.booleans()),
            "byte_fallback": False,
            "fuse_unk": False,
        },
    }
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content))
    write_settings(path, TokenizerSettings(eos="<end>"))
    old = open_vocabulary(path)
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(shuffled))))
    counts = counts[: len(shuffled)]
    counts[shuffled.index("<end>")] = 0
    size = data.draw(st.integers(1, max(1, int((counts > 0).sum()))))
    if not counts.any():
        counts[shuffled.index("a")] = 1
    pruned = prune_vocabulary(path, counts, size)
    (folder / "new").mkdir()
    new = saved(pruned, folder / "new")
    ids = {was: row for row, was in enumerate(pruned.rows)}
    texts = data.draw(st.lists(st.text("abc", max_size=14), min_size=5, max_size=15))
    for text in [*texts, *(old.pieces([i])[0] for i in ids)]:
        before = old.encode(text)
        if {*before} <= ids.keys():
            assert new.encode(text) == [ids[i] for i in before]


def test_t5_keeps_its_sentinels(tmp_path):
    path = tmp_path / "spiece.model"
    train_vocabulary(SENTENCES * 5, 330, path, character_coverage=1.0)
    write_settings(path, TokenizerSettings(kind="t5"))
    old = open_vocabulary(path)
    pruned = prune_vocabulary(path, counts_of(old, SENTENCES[:1]), 20)
    assert pruned.rows[pruned.pieces :] == tuple(range(330, 430))
    assert pruned.settings == TokenizerSettings(kind="t5")
    new = opened(pruned, tmp_path / "new")
    assert (new.kind, new.sentinel(0)) == ("t5", pruned.rows.index(old.sentinel(0)))
    assert new.size == len(pruned.rows)
    copied = open_vocabulary(save_tokenizer(tmp_path / "copy", new))
    assert copied.encode(SENTENCES[0]) == new.encode(SENTENCES[0])
