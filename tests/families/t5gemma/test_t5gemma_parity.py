"""What transformers computes for small random models; `scripts/fixtures_t5gemma.py` made them.

`balanced` is as published: one head with the decoder's embedding, bounds on scores and logits,
local and global layers in turn. `unbalanced` differs in all of that.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.checkpoints.checkpoint import load_tree
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.inference.beam_search import generate_beams
from openba_jax.inference.decoding import generate
from openba_jax.models.base import DecodingState

DATA = Path(__file__).parent / "data"
TOLERANCE = 1e-4


class Fixture:
    """A model of transformers, and its configuration and parameters here."""

    def __init__(self, name, scan_layers):
        source = HuggingFace().open(DATA / name)
        source.model = source.model.replace(scan_layers=scan_layers)
        self.model, self.params = source.model, load_tree(source)
        with np.load(DATA / name / "io.npz") as arrays:
            self.io = dict(arrays)

    def logits(self, inputs, targets, *packing, config=None):
        module = self.model.replace(**config or {}).module

        def apply(params):
            return module.apply(
                {"params": params}, inputs, targets, None, *packing, enable_dropout=False
            )

        return np.asarray(jax.jit(apply)(self.params))

    def check(self, found, expected, real=None):
        difference = np.abs(found - expected)
        largest = difference.max() if real is None else difference[real].max()
        print(f"largest difference of a logit: {largest:.2e}")  # Shown by `pytest -rP`.
        assert largest < TOLERANCE


@pytest.fixture(scope="module", params=["balanced", "unbalanced", "balanced-unrolled"])
def fixture(request):
    name, _, unrolled = request.param.partition("-")
    return Fixture(name, not unrolled)


@pytest.fixture(scope="module", params=["balanced", "unbalanced"])
def scanned(request):
    return Fixture(request.param, True)


@pytest.mark.parametrize("side", ["", "left_"])
def test_padded_batches(fixture, side):
    io = fixture.io
    assert (io["mask"] == 0).any()
    found = fixture.logits(io[f"{side}inputs"], io["targets"])
    fixture.check(found, io[f"{side}logits"], io["target_mask"] == 1)


def test_inputs_much_longer_than_the_window(fixture):
    io, config = fixture.io, fixture.model.config
    assert io["long_inputs"].shape[1] > 5 * config.encoder_sliding_window
    assert io["long_targets"].shape[1] > 5 * config.decoder_sliding_window
    fixture.check(fixture.logits(io["long_inputs"], io["long_targets"]), io["long_logits"])


def test_packed_rows_are_those_of_separate_ones(scanned):
    io = scanned.io

    def packed(tokens, mask):
        lengths = mask.sum(axis=1)
        rows = [
            [row[:n], np.full(n, i + 1), np.arange(n)]
            for i, (row, n) in enumerate(zip(tokens, lengths, strict=True))
        ]
        return [
            jnp.asarray(np.concatenate([*part, [0, 0]]))[None] for part in zip(*rows, strict=True)
        ]

    inputs, of_inputs, input_places = packed(io["inputs"], io["mask"])
    targets, of_targets, target_places = packed(io["targets"], io["target_mask"])
    found = scanned.logits(inputs, targets, of_inputs, of_targets, input_places, target_places)
    scanned.check(found[0, :-2], io["logits"][io["target_mask"] == 1])


def test_0_in_front_of_targets_is_the_start(scanned):
    io = scanned.io
    targets = io["targets"].copy()
    assert set(targets[:, 0]) == {scanned.model.config.start_id} == {2}
    targets[:, 0] = 0
    found = scanned.logits(io["inputs"], targets)
    scanned.check(found, io["logits"], io["target_mask"] == 1)


def test_cached_decoding(fixture):
    io, model, params = fixture.io, fixture.model, fixture.params
    inputs, targets = io["long_inputs"], io["long_targets"]
    cache, fixed = jax.jit(lambda: model.start_decoding(params, inputs, targets.shape[1]))()

    @jax.jit
    def step(cache, last):
        return model.decode_step(params, DecodingState(cache, fixed), inputs, last)

    found = []
    for place in range(targets.shape[1]):
        logits, cache = step(cache, targets[:, place : place + 1])
        found.append(np.asarray(logits)[:, 0])
    fixture.check(np.stack(found, 1), io["long_logits"])


def test_greedy(fixture):
    io = fixture.io
    found = generate(
        fixture.model, fixture.params, io["inputs"], jax.random.key(0), max_new_tokens=12
    )
    np.testing.assert_array_equal(found, io["greedy"][:, 1:])


def beams(fixture, length_penalty):
    search = functools.partial(generate_beams, fixture.model, fixture.params, beams=4)
    found = search(fixture.io["inputs"], max_new_tokens=12, length_penalty=length_penalty)
    return np.asarray(found.sequences)[..., 1:], np.asarray(found.scores)


@pytest.mark.parametrize(("length_penalty", "name"), [(0.0, "beams"), (1.0, "beams_by_length")])
def test_beams(fixture, length_penalty, name):
    sequences, scores = beams(fixture, length_penalty)
    np.testing.assert_array_equal(sequences, fixture.io[name][..., 1:])
    np.testing.assert_allclose(scores, fixture.io[f"{name}_scores"], atol=TOLERANCE)


def test_bfloat16_stays_near(scanned):
    io = scanned.io
    real = io["target_mask"] == 1
    found = scanned.logits(io["inputs"], io["targets"], config={"dtype": "bfloat16"})[real]
    expected = io["logits"][real]
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    print(f"relative error in bfloat16: {error:.2e}")
    assert error < 5e-2
