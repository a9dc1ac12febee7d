"""The schedule of a recovery over its stages: one learning rate, batches of its own for each."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_ancestor import data_of

from examples import facts
from openba_jax.errors import UserError
from openba_jax.models.axes import flatten
from openba_jax.models.registry import model_of, named_config
from openba_jax.staged.corpora import Corpora
from openba_jax.staged.models import ScheduleWindow, learning_rate
from openba_jax.staged.settings import OPTIMIZERS, Data, Phase
from openba_jax.training.optimizer import optimizer_of

RECOVER = Phase("ul2_flan", peak=4e-3, minimum=2e-4, warmup_share=0.05)


def _rates(window: ScheduleWindow, steps: int) -> np.ndarray:
    rate = learning_rate(RECOVER, window)
    return np.array([rate(step) for step in range(steps)])


def test_the_rate_falls_through_all_stages_as_in_the_control() -> None:
    whole = _rates(ScheduleWindow(100), 100)
    parts = [
        _rates(ScheduleWindow(100, before), steps)
        for before, steps in ((0, 20), (20, 30), (50, 50))
    ]
    joined = np.concatenate(parts)
    warm = [start + step for start in (0, 20, 50) for step in range(5)]
    rest = np.setdiff1d(np.arange(100), warm)
    np.testing.assert_allclose(joined[rest], whole[rest], rtol=1e-6)
    assert np.all(np.diff(whole[5:]) < 0)
    # Every cut is followed by a warm-up, the control's only one included.
    for part in [whole, *parts]:
        assert part[0] == 0
        assert np.all(np.diff(part[:6]) > 0)


def test_a_phase_without_stages_ends_at_its_minimum() -> None:
    rate = learning_rate(RECOVER, ScheduleWindow(100))
    assert float(rate(5)) == pytest.approx(4e-3, rel=0.02)
    assert float(rate(100)) == pytest.approx(2e-4)


def test_a_phase_trains_with_the_optimizer_that_it_names() -> None:
    model = model_of(named_config("tiny"))
    params = jax.jit(model.init)(jax.random.key(0))
    updates = {}
    for name, make in OPTIMIZERS.items():
        phase = Phase("ul2", peak=1e-2, minimum=1e-3, optimizer=name)
        rate = learning_rate(phase, ScheduleWindow(100))
        transformation, schedule = optimizer_of(make(rate, weight_decay=0.0), model)
        assert float(schedule(10)) == float(rate(10)) > 0
        # Gradients of rank one: AdamW moves a kernel along their signs, Muon along their direction.
        gradients = jax.tree.map(jnp.ones_like, params)
        state = transformation.init(params)
        for _ in range(2):  # The rate of the first step is 0.
            update, state = transformation.update(gradients, state, params)
        updates[name] = update
    same = flatten(jax.tree.map(np.allclose, updates["adamw"], updates["muon"]))
    assert same["decoder/final_layer_norm/scale"]
    assert not same["decoder/layers/mlp/wo/kernel"]


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(UserError, match="'sgd'; known are adamw and muon"):
        Phase("ul2", peak=1e-3, minimum=1e-4, optimizer="sgd")


def test_parts_train_on_other_batches_and_are_measured_on_the_same(tmp_path: Path) -> None:
    facts.write(tmp_path / "facts", facts_per_relation=2, documents=400, instructions=300)
    data = Data(
        corpus=str(tmp_path / "facts/corpus.jsonl"),
        instructions=str(tmp_path / "facts/instructions.jsonl"),
        questions="",
        vocabulary_size=900,
        group_size=28,
        encoder_length=48,
        decoder_length=24,
        batch_size=8,
        held_out=16,
        eval_batches=1,
    )
    corpora = Corpora(tmp_path / "data", data, seed=3)
    vocabulary = corpora.train_tokenizer()
    first, again, second = (corpora.batches(vocabulary, "ul2_flan", part) for part in (1, 1, 2))
    name = "decoder_target_tokens"
    np.testing.assert_array_equal(first.batch(0)[name], again.batch(0)[name])
    assert np.any(first.batch(0)[name] != second.batch(0)[name])
    measured = [batches.evaluation_batches(1)[0][name] for batches in (first, second)]
    np.testing.assert_array_equal(*measured)


def test_what_trains_on_other_text_is_measured_on_the_same(corpus: Path, tokenizer: Path) -> None:
    corpora = Corpora(tokenizer.parents[1], data_of(corpus), seed=3)
    vocabulary = corpora.train_tokenizer()
    ul2, o_ul2 = corpora.batches(vocabulary, "ul2"), corpora.batches(vocabulary, "o_ul2")
    compared = corpora.batches(vocabulary, "o_ul2", 0, "ul2")
    name = "decoder_target_tokens"
    np.testing.assert_array_equal(compared.batch(0)[name], o_ul2.batch(0)[name])
    wanted, other, found = (each.evaluation_batches(1)[0][name] for each in (ul2, o_ul2, compared))
    np.testing.assert_array_equal(found, wanted)
    assert np.any(found != other)
    assert compared.identity() != o_ul2.identity()
