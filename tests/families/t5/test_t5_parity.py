"""What transformers computes with the same parameters; scripts/fixtures_t5.py made the data."""

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

DATA = Path(__file__).parent / "data"
VARIANTS = sorted(folder.name for folder in DATA.iterdir())
TOLERANCE = 1e-4


class Fixture:
    def __init__(self, name):
        source = HuggingFace().open(DATA / name)
        self.model, self.params = source.model, load_tree(source)
        with np.load(DATA / name / "io.npz") as arrays:
            self.io = dict(arrays)

    def logits(self, inputs, targets):
        def apply(params):
            return self.model.module.apply(
                {"params": params}, jnp.asarray(inputs), jnp.asarray(targets), enable_dropout=False
            )

        return np.asarray(jax.jit(apply)(self.params))


@functools.cache
def fixture_of(name):
    return Fixture(name)


@pytest.fixture(params=VARIANTS)
def fixture(request):
    return fixture_of(request.param)


def assert_close(found, expected):
    print(f"largest difference: {np.abs(found - expected).max():.2e}")
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_configurations_are_read():
    configs = {name: fixture_of(name).model.config for name in VARIANTS}
    assert {n: c.tie_embeddings for n, c in configs.items()} == {
        "t5": True, "t5_1_1": False, "mt5": False, "ul2": False, "tied_unscaled": True,
    }  # fmt: skip
    assert {n: c.logits_scale == 1 for n, c in configs.items()} == {
        "t5": False, "t5_1_1": True, "mt5": True, "ul2": True, "tied_unscaled": True,
    }  # fmt: skip
    assert configs["mt5"].huggingface_type == "mt5"
    assert (configs["ul2"].mlp_activation, configs["ul2"].gated_mlp) == ("silu", True)
    assert (configs["tied_unscaled"].mlp_activation, configs["t5"].gated_mlp) == ("gelu", False)


def test_logits(fixture):
    io = fixture.io
    found = fixture.logits(io["inputs"], io["targets"])
    real = (io["targets"] > 0) | (np.arange(io["targets"].shape[1]) == 0)
    assert_close(found[real], io["logits"][real])


def test_logits_of_inputs_padded_on_the_left(fixture):
    io = fixture.io
    found = fixture.logits(io["left_inputs"], io["targets"][:2])
    real = (io["targets"][:2] > 0) | (np.arange(io["targets"].shape[1]) == 0)
    assert_close(found[real], io["left_logits"][real])


def test_logits_beyond_the_longest_distance(fixture):
    io = fixture.io
    found = fixture.logits(io["long_inputs"], io["long_targets"])[:, -4:]
    assert_close(found, io["long_logits"])


def test_greedy_answers(fixture):
    expected = fixture.io["greedy"]
    found = np.asarray(
        generate(fixture.model, fixture.params, jnp.asarray(fixture.io["inputs"]),
                 jax.random.key(0), max_new_tokens=12)
    )  # fmt: skip
    same_length(np.pad(found, ((0, 0), (1, 0))), expected)


def beams_of(name, penalty):
    fixture = fixture_of(name)
    found = generate_beams(
        fixture.model,
        fixture.params,
        jnp.asarray(fixture.io["inputs"]),
        beams=4,
        max_new_tokens=12,
        length_penalty=penalty,
    )
    return np.asarray(found.sequences), fixture.io[f"beams_{penalty:g}"]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("name", VARIANTS)
def test_four_beams(name, penalty):
    same_length(*beams_of(name, penalty))


def same_length(found, expected):
    """Token for token; transformers cuts off columns that are padding in all rows."""
    longest = max(found.shape[-1], expected.shape[-1])
    found, expected = (
        np.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, longest - x.shape[-1])]) for x in (found, expected)
    )
    np.testing.assert_array_equal(found, expected)
