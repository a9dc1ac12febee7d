"""Decoding and scoring through T5X's model class against the native runner."""

import functools
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("t5x.models", reason="T5X is not importable; see docs/t5x.md")

import t5x_toy
from t5x import decoding as t5x_decoding
from t5x import models

from openba_jax.evaluation.scoring import answer_log_likelihoods
from openba_jax.inference.beam_search import generate_beams
from openba_jax.inference.decoding import Sampling, generate
from openba_jax.models import registry
from openba_jax.models.registry import model_of
from openba_jax.t5x import decoding

LENGTH = 12


@pytest.fixture(scope="module", params=[True, False], ids=["scanned", "unrolled"])
def config(request):
    return t5x_toy.config(scan_layers=request.param)


@pytest.fixture(scope="module")
def params(config):
    params = model_of(config).init(jax.random.key(0))
    # Ends are found in some rows, before the longest length and not at once.
    bias = params["logits_dense"]["bias"]
    return {**params, "logits_dense": {"bias": bias.at[1].set(4.0)}}


@pytest.fixture(scope="module")
def batch():
    inputs = np.random.default_rng(0).integers(3, 60, (6, 9), dtype=np.int32)
    inputs[1, 5:] = 0
    return {
        "encoder_input_tokens": jnp.asarray(inputs),
        "decoder_input_tokens": jnp.zeros((6, LENGTH), jnp.int32),
    }


def predict(config, params, batch, decode_fn, **options):
    model = t5x_toy.model(config=config, decode_fn=decode_fn)
    found, aux = model.predict_batch_with_aux(
        params, batch, rng=jax.random.key(7), return_all_decodes=True, **options
    )
    return np.asarray(found), np.asarray(aux["scores"])


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.8), Sampling(1.0, top_k=5), Sampling(1.2, top_p=0.7)]
)
def test_sampling_is_the_native_one(config, params, batch, sampling):
    expected = generate(
        model_of(config),
        params,
        batch["encoder_input_tokens"],
        jax.random.key(7),
        max_new_tokens=LENGTH,
        sampling=sampling,
    )
    decode = functools.partial(
        decoding.sample,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    )
    found, _ = predict(config, params, batch, decode)
    np.testing.assert_array_equal(found[:, 0], expected)
    assert (np.asarray(expected) == 1).any()
    assert len({tuple(row) for row in np.asarray(expected).tolist()}) > 1


def test_beams_are_the_native_ones(config, params, batch):
    inputs = batch["encoder_input_tokens"]
    expected = generate_beams(model_of(config), params, inputs, beams=4, max_new_tokens=LENGTH)
    found, scores = predict(config, params, batch, decoding.beam_search, num_decodes=4)
    np.testing.assert_array_equal(found[:, ::-1], expected.sequences[:, :, 1:])
    np.testing.assert_allclose(scores[:, ::-1], expected.scores, atol=1e-5)


def test_t5xs_own_decoding_works_with_this_network(config, params, batch):
    greedy = generate(
        model_of(config),
        params,
        batch["encoder_input_tokens"],
        jax.random.key(0),
        max_new_tokens=LENGTH,
    )
    sample = functools.partial(t5x_decoding.temperature_sample, temperature=0.0)
    found, _ = predict(config, params, batch, sample)
    np.testing.assert_array_equal(found[:, 0], greedy)
    # One beam of theirs is greedy, too; theirs goes on after an end, for which it keeps a place.
    found, scores = predict(config, params, batch, t5x_decoding.beam_search, num_decodes=4)
    assert (np.diff(scores, axis=1) >= -1e-5).all()
    assert found.shape == (6, 4, LENGTH)
    best = found[:, -1]
    log_p = answer_log_likelihoods(
        model_of(config),
        params,
        batch["encoder_input_tokens"],
        jnp.asarray(best)[:, None],
        jnp.asarray(best > 0, jnp.float32)[:, None],
    )
    length = (best > 0).sum(1)
    ended = (best == 1).any(1)
    assert ended.any()
    expected = np.asarray(log_p)[:, 0] / ((5.0 + length) / 6.0) ** 0.6
    np.testing.assert_allclose(scores[ended, -1], expected[ended], rtol=1e-4)


def test_a_prompt_is_prefilled(config, params, batch):
    sample = functools.partial(t5x_decoding.temperature_sample, temperature=0.0)
    greedy, _ = predict(config, params, batch, sample)
    prompts = np.zeros((6, LENGTH), np.int32)
    for row, prompt in enumerate(prompts):
        count = min(row, int((greedy[row, 0] > 1).sum()))
        prompt[1 : 1 + count] = greedy[row, 0, :count]
    prompted = {**batch, "decoder_input_tokens": jnp.asarray(prompts)}
    found, _ = predict(config, params, prompted, sample, prompt_with_targets=True)
    assert prompts.any()
    np.testing.assert_array_equal(found, greedy)


def test_scores(config, params):
    batch = t5x_toy.Batches().batch(0)
    model = t5x_toy.model(config=config)
    found, intermediates = model.score_batch(params, batch, return_intermediates=True)
    expected = answer_log_likelihoods(
        model_of(config),
        params,
        batch["encoder_input_tokens"],
        batch["decoder_target_tokens"][:, None],
        batch["decoder_loss_weights"][:, None],
    )
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(model.score_batch(params, batch), found, atol=1e-6)
    (tokens,) = intermediates["decoder"]["token_scores"]
    np.testing.assert_allclose(tokens.sum(-1), found, atol=1e-5)
    # T5X's own class, with one-hot vectors of the whole vocabulary, finds the same.
    stock = models.EncoderDecoderModel.score_batch(model, params, batch)
    np.testing.assert_allclose(found, stock, atol=1e-5)


def test_scores_of_large_batches_go_position_by_position(config, params, monkeypatch):
    batch = t5x_toy.Batches().batch(0)
    model = t5x_toy.model(config=config)
    at_once = model.score_batch(params, batch)
    monkeypatch.setattr("openba_jax.evaluation.scoring.MAX_CHUNK_LOGITS", 1)
    np.testing.assert_allclose(model.score_batch(params, batch), at_once, atol=1e-5)


def test_packed_batches(config, params):
    rows = t5x_toy.Batches().batch(0)
    one = {name: array[:2] for name, array in rows.items()}
    packed = {name: array.reshape(1, -1) for name, array in one.items()}
    for side, length in (("encoder", 8), ("decoder", 6)):
        packed[f"{side}_segment_ids"] = np.repeat([[1, 2]], length, axis=1).astype(np.int32)
        packed[f"{side}_positions"] = np.tile(np.arange(length, dtype=np.int32), 2)[None]
    model = t5x_toy.model(config=config)
    separate = model.score_batch(params, one)
    np.testing.assert_allclose(model.score_batch(params, packed)[0], separate.sum(), atol=1e-4)


def test_a_family_of_the_registry(monkeypatch, tmp_path, params, batch):
    """The one of docs/extending.md: nothing in the bridge knows what family it runs."""
    page = (Path(__file__).parents[2] / "docs/extending.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# file: primer.py\n(.*?)```", page, re.DOTALL)
    (tmp_path / "primer.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "primer", raising=False)
    monkeypatch.setitem(registry.FAMILIES, "primer", "primer")
    changes = {"family": "primer", "scan_layers": "layers" in params["decoder"]}
    primer = registry.model_from_dict({**t5x_toy.config().to_dict(), **changes})
    inputs = batch["encoder_input_tokens"]
    expected = generate(primer, params, inputs, jax.random.key(7), max_new_tokens=LENGTH)
    found, _ = predict(primer.config, params, batch, decoding.sample)
    np.testing.assert_array_equal(found[:, 0], expected)
    rows = t5x_toy.Batches().batch(0)
    scores = t5x_toy.model(config=primer.config).score_batch(params, rows)
    of_openba = t5x_toy.model(config=t5x_toy.config(scan_layers=changes["scan_layers"]))
    assert np.abs(scores - of_openba.score_batch(params, rows)).max() > 1e-2
