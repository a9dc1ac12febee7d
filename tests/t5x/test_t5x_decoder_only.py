"""A model without an encoder in the real T5X against the native runner."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("t5x.models", reason="T5X is not importable; see docs/t5x.md")

import seqio
import t5x_decoder_toy as toy
import t5x_toy
from flax import core, traverse_util

from openba_jax.errors import UserError
from openba_jax.evaluation.scoring import answer_log_likelihoods
from openba_jax.inference.beam_search import generate_beams
from openba_jax.inference.decoding import Sampling, generate
from openba_jax.models.registry import model_of
from openba_jax.nn.losses import token_cross_entropy

BATCHES = toy.Batches(samples=1)
LENGTH = 2 * BATCHES.length


@pytest.fixture(scope="module", params=[True, False], ids=["scanned", "unrolled"])
def config(request):
    # Sharp enough that answers vary.
    return toy.config(scan_layers=request.param, initializer_std=0.3)


@pytest.fixture(scope="module")
def params(config):
    return model_of(config).init(jax.random.key(0))


@pytest.fixture(scope="module")
def prompts():
    """What the native runner reads: inputs, padded with -1."""
    batch = BATCHES.batch(0)
    lengths = (batch["decoder_causal_attention"] > 0).sum(1)
    assert len(set(lengths.tolist())) > 2
    inputs = np.where(np.arange(LENGTH) < lengths[:, None], batch["decoder_input_tokens"], -1)
    assert (inputs == 0).any()
    return inputs


def test_steps_are_those_of_the_native_runner(tmp_path):
    ours, theirs = toy.first_models(tmp_path)
    native = toy.train_natively(tmp_path / "native", 20, ours)
    found = toy.train_in_t5x(tmp_path / "t5x", 20, theirs)
    assert len(native) == len(found) == 20
    assert native[-1] < native[0] - 0.1
    np.testing.assert_allclose(found, native, atol=1e-4)
    expected = t5x_toy.read(tmp_path / "native")["params"]
    for path, leaf in traverse_util.flatten_dict(t5x_toy.read(tmp_path / "t5x")["params"]).items():
        there = traverse_util.flatten_dict(expected)[path]
        np.testing.assert_allclose(leaf, there, atol=1e-3, err_msg=str(path))


def test_partitions_do_not_change_losses(tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, Path(toy.__file__), tmp_path],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [run["devices"] for run in runs] == [2, 2]
    np.testing.assert_allclose(runs[1]["losses"], runs[0]["losses"], atol=1e-4)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8), Sampling(1.0, top_k=5)])
def test_answers_are_the_native_ones(config, params, prompts, sampling):
    model = model_of(config)

    def native(end):
        return np.asarray(
            generate(
                model,
                params,
                prompts,
                jax.random.key(7),
                max_new_tokens=LENGTH,
                sampling=sampling,
                stop_ids=(end,),
            )
        )

    # What comes often ends an answer, so that some end early, and not all.
    free = native(63)[:, 2:]
    end = int(np.bincount(free[free >= 0]).argmax())
    expected = native(end)
    assert (expected == -1).any()
    assert (expected[:, -1] != -1).any()
    built = toy.model(
        config=config, sampling=sampling, vocabulary=seqio.PassThroughVocabulary(64, eos_id=end)
    )
    predict = jax.jit(built.predict_batch_with_aux)
    found, aux = predict(params, BATCHES.batch(0), jax.random.key(7))
    np.testing.assert_array_equal(found, expected)
    scores = answer_log_likelihoods(
        model,
        params,
        prompts,
        jnp.maximum(expected, 0)[:, None],
        (expected >= 0).astype(np.float32)[:, None],
    )
    np.testing.assert_allclose(aux["scores"], scores[:, 0], atol=1e-4)
    np.testing.assert_array_equal(
        built.predict_batch(params, BATCHES.batch(0), jax.random.key(7)), expected
    )


def test_what_is_not_an_input_is_not_read(config, params, prompts):
    batch = BATCHES.batch(0)
    built = toy.model(config=config, max_new_tokens=3)
    found = built.predict_batch(params, batch)
    assert found.shape == (8, 3)
    hidden = {**batch, "decoder_input_tokens": np.where(prompts < 0, 5, prompts)}
    np.testing.assert_array_equal(built.predict_batch(params, hidden), found)
    # Of packed rows the first sample is the prompt.
    packed = toy.Batches().batch(0)
    first = {**packed, "decoder_segment_ids": packed["decoder_segment_ids"] % 2}
    np.testing.assert_array_equal(
        built.predict_batch(params, packed), built.predict_batch(params, first)
    )


def test_beams_are_the_native_ones(config, params, prompts):
    expected = generate_beams(
        model_of(config), params, prompts, beams=3, max_new_tokens=LENGTH, length_penalty=0.5
    )
    built = toy.model(config=config, num_decodes=3, length_penalty=0.5)
    found, aux = built.predict_batch_with_aux(params, BATCHES.batch(0), return_all_decodes=True)
    np.testing.assert_array_equal(found[:, ::-1], expected.sequences[:, :, 1:])
    np.testing.assert_allclose(aux["scores"][:, ::-1], expected.scores, atol=1e-5)
    best = built.predict_batch(params, BATCHES.batch(0))
    np.testing.assert_array_equal(best, expected.sequences[:, 0, 1:])


def test_losses_and_scores(config, params):
    batch = toy.Batches().batch(0)
    built = toy.model(config=config)
    hidden = built.model.hidden(params, batch)
    total, counts = token_cross_entropy(hidden, built.model.head(params), batch)
    loss, metrics = jax.jit(lambda p: built.loss_fn(p, batch, None))(params)
    assert loss == pytest.approx(float(total / counts["weight_sum"]), rel=1e-5)
    real = (batch["decoder_segment_ids"] > 0).sum()
    assert metrics["tokens"].compute() == real
    fill = metrics["non_padding_fraction/decoder"].compute()
    assert fill == pytest.approx(real / batch["decoder_segment_ids"].size)
    scores, sown = built.score_batch(params, batch, return_intermediates=True)
    assert float(-scores.sum()) == pytest.approx(float(total), rel=1e-5)
    np.testing.assert_allclose(built.score_batch(params, batch), scores, atol=1e-5)
    (tokens,) = sown["decoder"]["token_scores"]
    np.testing.assert_allclose(tokens.sum(-1), scores, atol=1e-5)


def test_axes_are_declared(config):
    built = toy.model(config=config)
    found = core.unfreeze(built.get_initial_variables(jax.random.key(0), {}))
    names = traverse_util.flatten_dict(built.model.logical_axes())
    axes = traverse_util.flatten_dict(found["params_axes"])
    assert {
        (*path[:-1], path[-1].removesuffix("_axes")): meta.names for path, meta in axes.items()
    } == names


def test_mistakes_are_told():
    with pytest.raises(UserError, match="has an encoder"):
        toy.model(config=t5x_toy.config())
    with pytest.raises(UserError, match="beams do not sample"):
        toy.model(num_decodes=2, sampling=Sampling(1.0))
    with pytest.raises(UserError, match=r"decoder_params has \['alpha'\]"):
        toy.model().predict_batch_with_aux({}, {}, decoder_params={"alpha": 1})
