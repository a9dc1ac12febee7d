"""Packed instruction samples: nothing lost, nothing leaks, batches stay functions of the step."""

import collections

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

from openba_jax.data import packing
from openba_jax.data.loader import BatchLoader
from openba_jax.data.store.token_store import open_stores
from openba_jax.data.store.writer import TokenStoreWriter
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.models.openba import network
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.registry import model_of
from openba_jax.objectives.instruction import Instruction
from openba_jax.objectives.mixture import get_mixture

PAIRS, WIDTHS = 60, (40, 24)
SIDES = ("encoder", "decoder")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A vocabulary and a store of pairs, some longer than a row, and groups of text."""
    folder = tmp_path_factory.mktemp("packing")
    texts = [f"{i} {i * i} {i**3}" for i in range(200)]
    vocabulary = train_vocabulary(texts, 280, folder / "tokenizer.model")
    rng = np.random.default_rng(0)
    with TokenStoreWriter(folder / "store", np.dtype("<u2")) as writer:
        writer.add_groups(rng.integers(3, 260, (30, 20)))
        for i in range(PAIRS):
            lengths = (0, 0) if i == 7 else rng.integers(0, (45, 25) if i % 9 == 0 else (14, 8))
            source, target = (rng.integers(3, 260, n) for n in lengths)
            sizes = np.array([len(source), len(target) + 1])
            writer.add_pairs("instructions", np.array([*source, *target, 1]), sizes)
    return folder / "store", vocabulary


def make(files, mixture="flan", **changes):
    store, vocabulary = files
    arguments = {"batch_size": 4, "seed": 3, "pack": True, **changes}
    return BatchLoader(
        get_mixture(mixture),
        [store],
        vocabulary,
        encoder_length=WIDTHS[0],
        decoder_length=WIDTHS[1],
        **arguments,
    )


def segments(batch):
    """Every sample of a batch, as (row, segment, encoder tokens, decoder tokens)."""
    for row, (encoder, decoder) in enumerate(
        zip(batch["encoder_segment_ids"], batch["decoder_segment_ids"], strict=True)
    ):
        assert encoder.max() == decoder.max()
        for segment in range(1, encoder.max() + 1):
            yield (
                row,
                segment,
                tuple(batch["encoder_input_tokens"][row][encoder == segment].tolist()),
                tuple(batch["decoder_target_tokens"][row][decoder == segment].tolist()),
            )


def expected_samples(files):
    store, vocabulary = files
    pairs = open_stores([store])
    everything = np.arange(PAIRS)
    samples = Instruction()(
        *(pairs.read("instructions", everything, side) for side in ("source", "target")),
        vocabulary,
        *WIDTHS,
    )
    return [
        tuple(tuple(int(token) for token in row if token) for row in rows)
        for rows in zip(samples["inputs"], samples["targets"], strict=True)
    ]


def test_an_epoch_shows_each_sample_once_in_fewer_rows(files):
    loader = make(files, batch_size=1)
    rows = loader._training.ranges["instructions"][1]
    assert rows < PAIRS / 2
    for epoch in range(2):
        seen = collections.Counter(
            sample[2:]
            for step in range(epoch * rows, (epoch + 1) * rows)
            for sample in segments(loader.batch(step))
        )
        assert seen == collections.Counter(expected_samples(files))


def test_batches_are_functions_of_the_step(files):
    first, again = make(files), make(files)
    later = {step: first.batch(step) for step in (9, 2)}
    for step, batch in later.items():
        for name, values in again.batch(step).items():
            np.testing.assert_array_equal(values, batch[name])
    parts = [first.batch(2, slice(i, i + 2)) for i in (0, 2)]
    for name, values in later[2].items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)
    other = make(files, seed=4).batch(2)
    assert (other["encoder_input_tokens"] != later[2]["encoder_input_tokens"]).any()


def test_fields(files):
    batch = make(files, "ul2_flan", batch_size=8).batch(0)
    for side in SIDES:
        ids, positions = batch[f"{side}_segment_ids"], batch[f"{side}_positions"]
        tokens = batch["encoder_input_tokens" if side == "encoder" else "decoder_target_tokens"]
        np.testing.assert_array_equal(ids > 0, tokens > 0)
        starts = np.diff(np.pad(ids, ((0, 0), (1, 0))), axis=1) > 0
        np.testing.assert_array_equal(starts, (positions == 0) & (ids > 0))
        within = np.diff(positions, axis=1)[(np.diff(ids, axis=1) == 0) & (ids[:, 1:] > 0)]
        assert (within == 1).all()
    first = batch["decoder_positions"] == 0
    assert not batch["decoder_input_tokens"][first].any()
    shifted = np.pad(batch["decoder_target_tokens"][:, :-1], ((0, 0), (1, 0)))
    np.testing.assert_array_equal(batch["decoder_input_tokens"][~first], shifted[~first])
    # Text is not packed, instructions are.
    counts = batch["encoder_segment_ids"].max(axis=1)
    assert (counts == 1).sum() >= 4
    assert counts.max() > 1
    plain = make(files, "ul2_flan", batch_size=8, held_out=8).evaluation_batches(1)[0]
    assert "encoder_segment_ids" not in plain


def test_a_packed_sample_has_the_logits_that_it_has_alone(files):
    _, vocabulary = files
    config = OpenBAConfig(
        vocab_size=vocabulary.size,
        embed_dim=32,
        num_heads=4,
        head_dim=8,
        mlp_dim=48,
        encoder_layers=2,
        decoder_layers=2,
        initializer_std=0.3,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
    )
    params = model_of(config).init(jax.random.key(0))
    apply = jax.jit(network.OpenBA(config).apply)

    def logits(batch):
        names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
        packed = {name: batch[name] for name in batch if "segment" in name or "position" in name}
        tokens = (batch[name] for name in names)
        return np.asarray(apply({"params": params}, *tokens, **packed))

    batch = make(files).batch(0)
    together = logits(batch)
    compared = 0
    for row, segment, inputs, targets in segments(batch):
        alone = {
            "encoder_input_tokens": np.array([inputs], np.int32),
            "decoder_input_tokens": np.array([[0, *targets[:-1]]], np.int32),
            "decoder_target_tokens": np.array([targets], np.int32),
        }
        padded = {
            name: np.pad(a, ((0, 0), (0, WIDTHS[name.startswith("decoder")] - a.shape[1])))
            for name, a in alone.items()
        }
        here = together[row][batch["decoder_segment_ids"][row] == segment]
        np.testing.assert_allclose(here, logits(padded)[0, : len(targets)], atol=1e-4)
        compared += segment > 1
    assert compared > 4
    # What the rule forbids would show: without segment ids the logits are others.
    unpacked = {k: v for k, v in batch.items() if "segment" not in k and "position" not in k}
    real = batch["decoder_segment_ids"] > 1
    assert np.abs(logits(unpacked) - together)[real].max() > 0.1


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9)), max_size=40),
    st.integers(12, 30),
    st.integers(9, 20),
)
def test_rows_are_as_full_as_the_order_allows(lengths, encoder, decoder):
    order = np.random.default_rng(0).permutation(len(lengths))
    sizes = np.array(lengths, np.int64).reshape(-1, 2)[order]
    rows = packing.plan_rows(order, sizes[:, 0], sizes[:, 1], (encoder, decoder))
    place, members = rows.members(np.arange(len(rows)))
    np.testing.assert_array_equal(members, order)
    totals = np.zeros((len(rows), 2), np.int64)
    np.add.at(totals, place, sizes)
    assert (totals <= (encoder, decoder)).all()
    assert (totals > 0).all()
    firsts = sizes[rows.starts[1:-1]]
    assert ((totals[:-1] + firsts) > (encoder, decoder)).any(axis=1).all()
