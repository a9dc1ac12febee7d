import collections
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from openba_jax.data.loader import BatchLoader
from openba_jax.data.store.manifest import write_manifest
from openba_jax.data.store.token_store import open_stores
from openba_jax.data.store.writer import TokenStoreWriter
from openba_jax.errors import UserError
from openba_jax.objectives.mixture import Mixture, get_mixture

GROUPS, PAIRS = 73, 7
BOTH = Mixture("both", (*get_mixture("ul2").components, (get_mixture("flan").tasks[0], 2.0)))


@pytest.fixture
def make(stores, vocabulary):
    def loader(mixture="ul2", batch_size=16, **arguments):
        mixture = get_mixture(mixture) if isinstance(mixture, str) else mixture
        arguments = {"encoder_length": 45, "decoder_length": 40, "seed": 3} | arguments
        chosen = arguments.pop("stores", stores)
        return BatchLoader(mixture, chosen, vocabulary, batch_size, **arguments)

    return loader


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def sources_of(batch, vocabulary):
    """The text of each denoising sample, as a sorted tuple of its tokens, and None for others."""
    texts = []
    for inputs, targets in zip(
        batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True
    ):
        ids = np.concatenate([inputs, targets])
        ids = ids[(ids >= 3) & (ids < vocabulary.piece_count)]
        texts.append(tuple(sorted(ids.tolist())) if len(ids) == 40 else None)
    return texts


def test_names_shapes_and_types(make):
    batch = make().batch(0)
    assert {name: (values.shape, values.dtype.name) for name, values in batch.items()} == {
        "encoder_input_tokens": ((16, 45), "int32"),
        "decoder_input_tokens": ((16, 40), "int32"),
        "decoder_target_tokens": ((16, 40), "int32"),
        "decoder_loss_weights": ((16, 40), "float32"),
    }
    targets = batch["decoder_target_tokens"]
    assert not batch["decoder_input_tokens"][:, 0].any()
    np.testing.assert_array_equal(batch["decoder_input_tokens"][:, 1:], targets[:, :-1])
    np.testing.assert_array_equal(batch["decoder_loss_weights"], targets > 0)


@pytest.mark.parametrize("mixture", ["ul2", BOTH])
def test_batches_are_functions_of_seed_and_step(make, mixture):
    first, again = make(mixture), make(mixture)
    later = [first.batch(step) for step in (7, 3, 5)]
    for step, batch in zip((3, 5, 7), (later[1], later[2], later[0]), strict=True):
        assert_same(batch, again.batch(step))
    other = make(mixture, seed=4).batch(3)
    assert (other["encoder_input_tokens"] != later[1]["encoder_input_tokens"]).any()


@pytest.mark.parametrize("processes", [1, 2, 4, 16])
def test_rows_of_processes_make_the_batch(make, processes):
    loader = make(BOTH)
    size = 16 // processes
    parts = [loader.batch(5, slice(i * size, (i + 1) * size)) for i in range(processes)]
    whole = loader.batch(5)
    assert_same({k: np.concatenate([part[k] for part in parts]) for k in whole}, whole)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_batch_size_does_not_change_the_stream(make, batch_size):
    loader = make(batch_size=batch_size)
    batches = [loader.batch(step) for step in range(-(-100 // batch_size))]
    stream = np.concatenate([batch["encoder_input_tokens"] for batch in batches])[:100]
    expected = make(batch_size=200).batch(0)["encoder_input_tokens"][:100]
    np.testing.assert_array_equal(stream, expected)


def test_an_epoch_shows_each_example_once(make, stores, vocabulary):
    loader = make(batch_size=GROUPS)
    store = open_stores(stores)
    groups = store.read("text", np.arange(GROUPS)).ids
    expected = collections.Counter(tuple(sorted(group.tolist())) for group in groups)
    assert len(expected) == GROUPS
    epochs = [sources_of(loader.batch(step), vocabulary) for step in range(3)]
    assert all(collections.Counter(epoch) == expected for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_instructions_go_through_their_own_epochs(make, vocabulary):
    loader = make(BOTH, batch_size=9 * PAIRS)
    batch = loader.batch(0)
    # Nine parts, two of them instructions: two epochs of them.
    instructions = [
        tuple(row)
        for row, source in zip(
            batch["encoder_input_tokens"].tolist(), sources_of(batch, vocabulary), strict=True
        )
        if source is None
    ]
    counts = collections.Counter(instructions)
    assert len(counts) == PAIRS
    assert set(counts.values()) == {2}


def test_rates_hold_in_every_batch(make, vocabulary):
    loader = make(batch_size=70)
    for step in range(3):
        prefixes = collections.Counter(loader.batch(step)["encoder_input_tokens"][:, 0].tolist())
        for prefix, share in ((vocabulary.r_id, 20), (vocabulary.s_id, 10), (vocabulary.x_id, 40)):
            assert abs(prefixes[prefix] - share) <= 2


def test_far_steps_cost_no_more(make):
    loader = make()
    loader.batch(0)
    seconds = []
    for step in (1, 10**6):
        start = time.perf_counter()
        for further in range(10):
            loader.batch(step + further)
        seconds.append(time.perf_counter() - start)
    assert seconds[1] < 5 * seconds[0] + 0.1


def test_changed_rates_and_restored_state(make, vocabulary):
    loader, restored = make(), make()
    before = loader.batch(4)
    loader.change_rates(5, [0, 0, 1, 0, 0, 0, 0])
    assert (loader.batch(5)["encoder_input_tokens"][:, 0] == vocabulary.s_id).all()
    restored.restore(json.loads(json.dumps(loader.state())))
    assert_same(restored.batch(9), loader.batch(9))
    with pytest.raises(ValueError, match="schedule starts"):
        loader.batch(4)
    assert_same(make().batch(4), before)


def test_epochs_go_on_across_a_change_of_rates(make, vocabulary):
    loader = make(batch_size=1)
    seen = [sources_of(loader.batch(step), vocabulary)[0] for step in range(30)]
    loader.change_rates(30, [0.1, 0, 1, 0, 0, 0.5, 0])
    seen += [sources_of(loader.batch(step), vocabulary)[0] for step in range(30, GROUPS)]
    assert len(set(seen)) == GROUPS


def test_held_out_examples(make, stores, vocabulary):
    loader = make(held_out=13, batch_size=13)
    trained = {s for step in range(12) for s in sources_of(loader.batch(step), vocabulary)}
    batches = loader.evaluation_batches(1)
    evaluated = set(sources_of(batches[0], vocabulary))
    assert len(trained) == GROUPS - 13
    assert len(evaluated) == 13
    assert not trained & evaluated
    loader.change_rates(3, [1, 0, 0, 0, 0, 0, 0])
    assert_same(loader.evaluation_batches(1)[0], batches[0])
    assert_same(make(held_out=13, batch_size=13, seed=99).evaluation_batches(1)[0], batches[0])
    part = loader.evaluation_batches(1, rows=slice(2, 5))[0]
    assert_same(part, {name: values[2:5] for name, values in batches[0].items()})
    only_s = loader.evaluation_batches(1, mixture=get_mixture("ul2_s"))[0]
    assert (only_s["encoder_input_tokens"][:, 0] == vocabulary.s_id).all()


def test_no_example_is_evaluated_on_twice(make, vocabulary, caplog):
    loader = make(held_out=13, batch_size=5)
    batches = loader.evaluation_batches(4)
    seen = [text for batch in batches for text in sources_of(batch, vocabulary)]
    assert len(seen) == len(set(seen)) == 10
    assert "evaluated on 2 batches of 5 instead of 4: there are 13 text" in caplog.text
    caplog.clear()
    assert len(loader.evaluation_batches(2)) == 2
    assert not caplog.text
    with pytest.raises(UserError, match=r"batch of 14 evaluation examples .* there are 13 text"):
        make(held_out=13, batch_size=14).evaluation_batches(1)


def test_identity_tells_what_the_batches_depend_on(make, stores, tmp_path):
    identity = make().identity()
    assert json.loads(json.dumps(identity)) == identity
    for change in (
        {"seed": 4},
        {"held_out": 2},
        {"batch_size": 8},
        {"encoder_length": 46},
        {"mixture": "flan"},
        {"mixture": BOTH},
        {"evaluation_stores": stores[:1]},
    ):
        assert make(**change).identity() != identity, change
    # What stores are called and where they lie does not matter; what they hold does.
    moved = []
    for number, prefix in enumerate(stores):
        for suffix in (".bin", ".idx", ".json"):
            source = prefix.with_name(prefix.name + suffix)
            if source.exists():
                shutil.copy(source, tmp_path / f"{number}{suffix}")
        moved.append(tmp_path / f"{number}")
    assert make(stores=moved).identity()["stores"] == identity["stores"]
    assert make(stores=moved[:1]).identity()["stores"] != identity["stores"]


def test_evaluation_stores(make, stores, vocabulary):
    loader = make(evaluation_stores=stores[1:], batch_size=23)
    assert len(set(sources_of(loader.evaluation_batches(1)[0], vocabulary))) == 23
    with pytest.raises(UserError, match="no text to evaluate ul2"):
        make().evaluation_batches(1)
    with pytest.raises(UserError, match="no instructions to evaluate flan"):
        loader.evaluation_batches(1, mixture=get_mixture("flan"))


def test_user_mistakes(make, stores, vocabulary, tmp_path):
    with pytest.raises(UserError, match="batch_size is 0"):
        make(batch_size=0)
    with pytest.raises(UserError, match="held_out is -1"):
        make(held_out=-1)
    with pytest.raises(UserError, match="for 7 tasks and flan has 1"):
        make("flan").restore(make().state())
    with pytest.raises(ValueError, match="do not fit 7 tasks"):
        make().change_rates(3, [0.5, 0.5])
    with pytest.raises(UserError, match="no room"):
        make(encoder_length=3)
    with pytest.raises(UserError, match=r"no groups of text but the 80 .* which mixture ul2 needs"):
        make(held_out=80)
    with pytest.raises(UserError, match=r"no instructions, .* flan needs; make some by .*=ins"):
        BatchLoader(get_mixture("flan"), stores[1:], vocabulary, 2, 20, 20)
    with TokenStoreWriter(tmp_path / "foreign", np.dtype("<u2")) as writer:
        writer.add_groups(np.full((3, 40), vocabulary.size))
    foreign = BatchLoader(get_mixture("ul2"), [tmp_path / "foreign"], vocabulary, 2, 45, 40)
    with pytest.raises(UserError, match=f"vocabulary has {vocabulary.size}"):
        foreign.batch(0)


def test_nothing_to_pack_is_said(make, caplog):
    make("ul2", pack=True)
    assert "Nothing is packed: ul2 takes no instructions" in caplog.text
    caplog.clear()
    make("ul2_flan", pack=True)
    assert "Nothing is packed" not in caplog.text


def test_stores_of_another_vocabulary_are_refused(vocabulary, tmp_path):
    with TokenStoreWriter(tmp_path / "store", np.dtype("<u2")) as writer:
        writer.add_groups(np.full((3, 40), 5))
    manifest = {"complete": True, "vocabulary": {"path": "other.model", "sha256": "0"}}
    write_manifest(tmp_path / "store", manifest)
    with pytest.raises(UserError, match=r"other.model, whose pieces are not those"):
        BatchLoader(get_mixture("ul2"), [tmp_path / "store"], vocabulary, 2, 45, 40)
    write_manifest(tmp_path / "store", manifest | {"complete": False})
    with pytest.raises(UserError, match="unfinished"):
        BatchLoader(get_mixture("ul2"), [tmp_path / "store"], vocabulary, 2, 45, 40)
    sizes = {"files": {"store.bin": {"bytes": 7}}}
    write_manifest(tmp_path / "store", manifest | sizes)
    with pytest.raises(UserError, match=r"store.bin has 240 bytes where .* says 7"):
        BatchLoader(get_mixture("ul2"), [tmp_path / "store"], vocabulary, 2, 45, 40)
    (tmp_path / "store.json").write_text("[]")  # Somebody's own: says nothing about the store.
    BatchLoader(get_mixture("ul2"), [tmp_path / "store"], vocabulary, 2, 45, 40)


def test_cut_groups_are_told(make, caplog):
    with caplog.at_level("WARNING", logger="absl"):
        make()
        assert not caplog.records
        make(decoder_length=20)
        make("flan", encoder_length=10)
    assert "At 45/20 tokens, sources of 40 tokens are cut to" in caplog.text
    assert "ul2_x3" in caplog.text
    assert "ul2_r3" not in caplog.text
    assert "At 10/40 tokens, sources of 11 tokens are cut to 7 for flan." in caplog.text


def test_imports_are_light():
    code = (
        "import sys, openba_jax.data.loader, openba_jax.data.text.preparation, openba_jax.prepare\n"
        "print([m for m in ('tensorflow', 'seqio', 'torch', 'jax') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
