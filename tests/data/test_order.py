import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from made_up_text import words

from openba_jax.data.loader import BatchLoader
from openba_jax.data.order import Order, order_of
from openba_jax.data.store.manifest import read_manifest, write_manifest
from openba_jax.data.store.token_store import open_stores
from openba_jax.data.store.tools import verify_store
from openba_jax.data.text.chunks import TextSource
from openba_jax.data.text.preparation import prepare
from openba_jax.data.text.rules import Instructions, TextGroups
from openba_jax.errors import UserError
from openba_jax.objectives.mixture import get_mixture


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_weights_are_shares_and_epochs_are_whole(sizes, seed, data):
    weight = st.floats(0.05, 20)
    weights = tuple(data.draw(weight) for _ in sizes)
    order = Order("text", seed, tuple(sizes), weights)
    count = 3 * 4096
    epochs, indices = order.at(np.arange(count))
    starts = np.cumsum([0, *sizes])
    for source, size in enumerate(sizes):
        here = (indices >= starts[source]) & (indices < starts[source + 1])
        share = weights[source] / sum(weights)
        assert abs(here.sum() - count * share) < 4
        for block in here.reshape(3, -1):
            assert abs(block.sum() - 4096 * share) < 8
        # Each example is there once an epoch, the last one aside.
        seen = epochs[here] * size + indices[here] - starts[source]
        assert len(np.unique(seen)) == len(seen)
        whole = epochs[here].max() * size
        assert set(range(whole)) <= set(seen.tolist())
    # A draw does not hang on the others.
    some = np.random.default_rng(seed).integers(0, count, 50)
    for all_of_them, alone in zip((epochs, indices), order.at(some), strict=True):
        np.testing.assert_array_equal(all_of_them[some], alone)


def test_tasks_and_sources_do_not_go_in_step():
    """Turns in even proportion would give every second draw to the same source."""
    _, indices = Order("text", 0, (1000, 1000), (1.0, 1.0)).at(np.arange(4096))
    assert 0.4 < (indices[::2] < 1000).mean() < 0.6


def test_one_epoch_without_weights():
    epochs, indices = Order("text", 1, (7,)).at(np.arange(14))
    assert epochs.tolist() == [0] * 7 + [1] * 7
    assert sorted(indices[:7]) == sorted(indices[7:]) == list(range(7))


@pytest.fixture
def weighted(vocabulary, tmp_path):
    """A small source of weight 3 and a large one of weight 1, each with words of its own."""
    for name, seed, count in (("small", 1, 4), ("large", 2, 60)):
        text = json.dumps({"text": words(seed, 60), "targets": "ba"}) + "\n"
        (tmp_path / f"{name}.jsonl").write_text(text * count)
    sources = [
        TextSource("small", [tmp_path / "small.jsonl"], 3.0),
        TextSource("large", [tmp_path / "large.jsonl"], 1.0),
    ]
    prepare(sources, TextGroups(20), vocabulary, tmp_path / "spans")
    prepare(sources, Instructions("text"), vocabulary, tmp_path / "pairs")
    return tmp_path


def test_training_draws_by_weight(vocabulary, weighted):
    loader = BatchLoader(get_mixture("flan"), [weighted / "pairs"], vocabulary, 64, 400, 30)
    of_small = 0
    # Instruction and input are both the text.
    small = vocabulary.encode(words(1, 60) * 2)[:10]
    for step in range(16):
        inputs = loader.batch(step)["encoder_input_tokens"]
        of_small += (inputs[:, 1:11] == small).all(axis=1).sum()
    assert abs(of_small / 1024 - 0.75) < 0.03


def test_weights_of_joined_stores(vocabulary, weighted):
    """Another store, held out examples, and stores that say nothing."""
    stores = open_stores([weighted / "spans"] * 2)
    small, large = (source["text"] for source in read_manifest(weighted / "spans")["sources"])
    order = order_of(stores, "text", 2 * (small + large), 0)
    assert (order.sizes, order.weights) == ((small, large) * 2, (3.0, 1.0) * 2)
    order = order_of(stores, "text", small + large + 1, 0)
    assert (order.sizes, order.weights) == ((small, large, 1), (3.0, 1.0, 3.0))
    manifest = read_manifest(weighted / "spans")
    manifest["sources"][1]["weight"] = None
    write_manifest(weighted / "spans", manifest)
    with pytest.raises(UserError, match=r"some have weights, but not large"):
        BatchLoader(get_mixture("ul2"), [weighted / "spans"], vocabulary, 4, 45, 40)
    manifest["sources"][1]["text"] += 1
    write_manifest(weighted / "spans", manifest)
    with pytest.raises(UserError, match=r"not what .* says; prepare the store again"):
        BatchLoader(get_mixture("ul2"), [weighted / "spans"], vocabulary, 4, 45, 40)


def test_packed_rows_know_no_weights(vocabulary, weighted):
    with pytest.raises(UserError, match="train without packing"):
        BatchLoader(get_mixture("flan"), [weighted / "pairs"], vocabulary, 4, 400, 30, pack=True)


def test_bad_weights(vocabulary, weighted):
    source = TextSource("x", [weighted / "small.jsonl"], 0.0)
    with pytest.raises(UserError, match="must be above 0"):
        prepare([source], TextGroups(20), vocabulary, weighted / "x")


@pytest.mark.parametrize(
    ("kind", "weights", "expected"),
    [
        ("text", (), [48, 42, 6, 25, 33, 12, 49, 4, 29, 26, 47, 3]),
        ("text", (1.0, 3.0), [24, 66, 57, 58, 66, 63, 1, 60, 59, 61, 55, 57]),
        ("instructions", (), [40, 3, 5, 31, 32, 18, 6, 36, 11, 23, 35, 25]),
    ],
)
def test_order_is_that_of_earlier_versions(kind, weights, expected):
    """The kind `text` was called `spans`; a run that resumes must meet the same examples."""
    order = Order(kind, 3, (50, 20) if weights else (50,), weights)
    assert order.at(np.arange(12))[1].tolist() == expected


def test_stores_of_earlier_versions_are_read(weighted, vocabulary):
    """Their manifests call the kind `spans`."""
    loader = BatchLoader(get_mixture("ul2"), [weighted / "spans"], vocabulary, 4, 45, 40)
    manifest = read_manifest(weighted / "spans")
    old = json.loads(json.dumps(manifest))
    old["rule"]["kind"] = "spans"
    for source in old["sources"]:
        source["spans"] = source.pop("text")
    write_manifest(weighted / "spans", old)
    assert read_manifest(weighted / "spans") == manifest
    verify_store(weighted / "spans")
    again = BatchLoader(get_mixture("ul2"), [weighted / "spans"], vocabulary, 4, 45, 40)
    for name, array in loader.batch(3).items():
        np.testing.assert_array_equal(again.batch(3)[name], array)
    # To prepare it again finds the same job, and leaves it as it is.
    before = (weighted / "spans.json").read_bytes()
    sources = [
        TextSource("small", [weighted / "small.jsonl"], 3.0),
        TextSource("large", [weighted / "large.jsonl"], 1.0),
    ]
    prepare(sources, TextGroups(20), vocabulary, weighted / "spans")
    assert (weighted / "spans.json").read_bytes() == before
