"""Continuations scored in company as each alone, and as answers are."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from openba_jax.evaluation import continuations as room
from openba_jax.evaluation.continuations import Continuation, rounded_length, score_continuations
from openba_jax.evaluation.scoring import answer_log_likelihoods
from openba_jax.inference.decoding import generate
from openba_jax.inference.padding import pad_rows
from openba_jax.models.registry import model_of, named_config


@pytest.fixture(scope="module", params=["tiny", "tiny_llama"])
def network(request):
    model = model_of(named_config(request.param, vocab_size=300, initializer_std=0.3))
    return model, jax.jit(model.init)(jax.random.key(0))


def _some(count: int) -> list[Continuation]:
    rng = np.random.default_rng(0)
    contexts = [tuple(rng.integers(3, 300, n).tolist()) for n in (1, 3, 20, 40)]
    found = []
    for number in range(count):
        targets = tuple(rng.integers(3, 300, 1 + number % 20).tolist())
        found.append(Continuation(contexts[number % 4], targets, slice(0, len(targets))))
    return found


def test_scores_are_those_of_answers(network) -> None:
    model, params = network
    continuations = _some(41)  # Eleven of a context: more than are scored at once.
    continuations[3] = continuations[3]._replace(scored=slice(0, 2))
    found = dict(score_continuations(model, params, continuations, batch_size=6))
    assert sorted(found) == list(range(41))
    for number, each in enumerate(continuations):
        weights = np.zeros((1, 1, 32), np.float32)
        weights[0, 0, each.scored] = 1
        inputs = pad_rows([each.inputs], 64, model.padding)
        targets = pad_rows([each.targets], 32)[None]
        alone = answer_log_likelihoods(model, params, inputs, targets, weights)
        np.testing.assert_allclose(found[number].log_likelihood, alone[0, 0], rtol=2e-4, atol=1e-4)


def test_what_greedy_decoding_gives_is_marked(network) -> None:
    model, params = network
    context = (5, 6, 7)
    inputs = pad_rows([context], 16, model.padding)
    ids = generate(model, params, inputs, jax.random.key(0), max_new_tokens=6, stop_ids=(-9,))
    answer = tuple(ids[0].tolist())
    other = (*answer[:3], answer[3] + 1, *answer[4:])
    continuations = [
        Continuation(context, answer, slice(0, 6)),
        Continuation(context, other, slice(0, 6)),
        Continuation(context, other, slice(0, 3)),
    ]
    found = dict(score_continuations(model, params, continuations, batch_size=4))
    assert [found[number].greedy for number in range(3)] == [True, False, True]


def test_logits_in_chunks_change_nothing(network, monkeypatch) -> None:
    model, params = network
    continuations = _some(8)
    whole = dict(score_continuations(model, params, continuations, batch_size=4))
    monkeypatch.setattr(room, "MAX_CHUNK_LOGITS", 1)
    monkeypatch.setattr(room, "continuation_scores", room.continuation_scores.__wrapped__)
    parts = dict(score_continuations(model, params, continuations, batch_size=4))
    for number, score in whole.items():
        np.testing.assert_allclose(parts[number].log_likelihood, score.log_likelihood, rtol=1e-4)
        assert parts[number].greedy == score.greedy


def test_few_programs_are_compiled(network) -> None:
    model, params = network
    before = room.continuation_scores._cache_size()
    dict(score_continuations(model, params, _some(200), batch_size=8))
    assert room.continuation_scores._cache_size() - before <= 8
    assert {rounded_length(n) for n in range(300)} == {16, 32, 64, 128, 256, 384}
