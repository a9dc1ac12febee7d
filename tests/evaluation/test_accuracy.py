"""Scoring of given answers against a plain computation; questions that cannot be asked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks.base import TOTAL
from openba_jax.evaluation.benchmarks.choices import Question
from openba_jax.evaluation.benchmarks.json_choice import BENCHMARK
from openba_jax.evaluation.loss import LossOnBatches
from openba_jax.evaluation.measuring import measure
from openba_jax.evaluation.score import Score
from openba_jax.evaluation.scoring import answer_log_likelihoods
from openba_jax.inference.padding import fitting_length, pad_rows
from openba_jax.parallel import sharding

QUESTIONS = [
    Question("What is water?", ("H2O", "a metal and no liquid", "NaCl", "gold"), 0, "q.json 1"),
    Question("Who?", ("I", "you and me", "they"), 2, "q.json 2"),
]


def _choices(loaded, vocabulary: Vocabulary, length: int = 32, answer: int = 24) -> list[int]:
    asked = AskedModel(*loaded, vocabulary, length, answer, batch_size=4)
    return [record["choice"] for record in BENCHMARK.answers(QUESTIONS, asked)]


def _accuracy(loaded, subjects, vocabulary: Vocabulary, **options) -> dict[str, Score]:
    asked = AskedModel(*loaded, vocabulary, 32, 24, batch_size=2, **options)
    measured = measure(BENCHMARK, subjects, asked)
    return {**measured.subjects, TOTAL: measured.total}


def test_likelihoods_equal_a_plain_computation(loaded) -> None:
    model, params = loaded
    inputs = pad_rows([[5, 6, 7, 1], [9, 1]], 6)
    targets = pad_rows([[3, 4, 1], [8, 1], [4, 4, 4, 1], [7, 1]], 5).reshape(2, 2, 5)
    weights = (targets > 1).astype(np.float32)
    ours = answer_log_likelihoods(model, params, inputs, targets, weights)
    for i in range(2):
        for j in range(2):
            target = targets[i, j]
            decoder = np.concatenate([[0], target[:-1]])[None]
            logits = model.module.apply(
                {"params": params}, jnp.asarray(inputs[i : i + 1]), decoder, enable_dropout=False
            )
            log_p = jax.nn.log_softmax(logits[0])[np.arange(5), target]
            np.testing.assert_allclose(ours[i, j], (log_p * weights[i, j]).sum(), rtol=1e-5)


def test_large_batches_go_position_by_position(loaded, monkeypatch) -> None:
    model, params = loaded
    rng = np.random.default_rng(0)
    inputs = rng.integers(3, 200, (2, 6))
    targets = rng.integers(3, 200, (2, 2, 5))
    weights = np.ones(targets.shape, np.float32)
    at_once = answer_log_likelihoods(model, params, inputs, targets, weights)
    monkeypatch.setattr("openba_jax.evaluation.scoring.MAX_CHUNK_LOGITS", 1)
    by_position = answer_log_likelihoods.__wrapped__(model, params, inputs, targets, weights)
    np.testing.assert_allclose(by_position, at_once, rtol=1e-5)


def test_the_answer_is_the_likeliest_per_token(loaded, vocabulary: Vocabulary) -> None:
    model, params = loaded
    predicted = _choices(loaded, vocabulary)
    for question, prediction in zip(QUESTIONS, predicted, strict=True):
        frame = [vocabulary.sentinel(0)]
        inputs = [vocabulary.s_id, *vocabulary.encode(question.text), *frame, 1]
        means = []
        for option in question.options:
            ids = vocabulary.encode(option)
            targets = pad_rows([[*frame, *ids]], 24)
            weights = np.zeros((1, 1, 24), np.float32)
            weights[0, 0, 1 : 1 + len(ids)] = 1
            sums = answer_log_likelihoods(
                model, params, pad_rows([inputs], 32), targets[None], weights
            )
            means.append(float(sums[0, 0]) / len(ids))
        assert prediction == int(np.argmax(means))


def test_scores_of_subjects(loaded, vocabulary: Vocabulary) -> None:
    subjects = {"one": QUESTIONS[:1], "two": QUESTIONS[1:] * 2}
    scores = _accuracy(loaded, subjects, vocabulary)
    assert set(scores) == {"one", "two", "total"}
    assert scores["total"].count == 3
    assert scores["total"].right == scores["one"].right + scores["two"].right
    assert scores["total"].chance == pytest.approx((1 / 4 + 1 / 3 + 1 / 3) / 3)
    assert scores["total"].skipped == 0


@pytest.mark.parametrize(
    ("odd", "parse_special", "message"),
    [
        (Question("water " * 40, ("I", "you"), 0, "s.json 7"), False, "encoder length 32"),
        (Question("Who?", ("I", "you " * 40), 0, "s.json 7"), False, "decoder length 24"),
        (Question("Who?", ("I", ""), 0, "s.json 7"), False, "the answer '' has no token"),
        (Question("Who?", ("I", "</s>"), 0, "s.json 7"), True, "'</s>' has no token"),
        (Question("Who?", ("I", "they", "I"), 0, "s.json 7"), False, "there more than once"),
        (Question("Who \ud800?", ("I", "they"), 0, "s.json 7"), False, "half of a pair"),
    ],
)
def test_what_cannot_be_asked_is_named_and_counted_as_wrong(
    loaded, vocabulary: Vocabulary, caplog, odd: Question, parse_special: bool, message: str
) -> None:
    options = {"parse_special": parse_special}
    asked = _accuracy(loaded, {"one": QUESTIONS}, vocabulary, **options)["total"]
    assert asked.right > 0  # Else the next comparison says little.
    scores = _accuracy(loaded, {"one": [odd, *QUESTIONS], "odd": [odd]}, vocabulary, **options)
    assert (scores["one"].right, scores["one"].count) == (asked.right, 3)
    assert scores["one"].skipped == 1
    assert scores["one"].accuracy == asked.right / 3
    assert "3, 1 of them skipped and counted as wrong" in str(scores["one"])
    assert str(scores["odd"]) == "none of 1 questions could be asked"
    assert caplog.text.count("It is skipped and counts as wrong") == 2
    assert "s.json 7" in caplog.text
    assert message in caplog.text
    with pytest.raises(UserError, match="none of the 1 questions of json_choice"):
        _accuracy(loaded, {"odd": [odd]}, vocabulary, **options)


def test_the_same_option_twice_is_asked_where_it_is_wrong(loaded, vocabulary: Vocabulary) -> None:
    question = Question("Who?", ("I", "they", "they"), 0, "s.json 7")
    scores = _accuracy(loaded, {"one": [question]}, vocabulary)
    assert scores["one"].skipped == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(loaded, vocabulary, value: float) -> None:
    model, params = loaded
    bad = jax.tree.map(lambda x: x, params)
    bad["decoder"]["final_layer_norm"]["scale"] = jnp.full_like(
        bad["decoder"]["final_layer_norm"]["scale"], value
    )
    with pytest.raises(UserError, match=r"q\.json 1: the score of an answer is not finite"):
        _choices((model, bad), vocabulary)


def test_what_is_short_is_padded_to_little() -> None:
    assert fitting_length([[1] * 7, [1] * 129], 1024) == 256
    assert fitting_length([[1] * 7], 1024) == 128
    assert fitting_length([[1] * 7], 40) == 40
    assert fitting_length([], 40) == 0


def test_a_longer_limit_changes_no_answer(loaded, vocabulary: Vocabulary) -> None:
    answers = [_choices(loaded, vocabulary, length, length) for length in (40, 4096)]
    assert answers[0] == answers[1]


def test_mean_loss_weighs_tokens_not_batches(loaded) -> None:
    model, params = loaded

    def batch(targets: list[list[int]]) -> dict[str, np.ndarray]:
        rows = pad_rows(targets, 4)
        return {
            "encoder_input_tokens": np.full((1, 3), 5, np.int32),
            "decoder_input_tokens": np.pad(rows[:, :-1], ((0, 0), (1, 0))),
            "decoder_target_tokens": rows,
            "decoder_loss_weights": (rows > 0).astype(np.float32),
        }

    short, long = batch([[7]]), batch([[9, 8, 7, 6]])
    mesh = sharding.make_mesh((1, 1, 1))
    with sharding.use_mesh(mesh):
        one, four, both = (
            LossOnBatches(model, mesh, batches, 1)(params)
            for batches in ([short], [long], [short, long])
        )
    assert both["targets"] == 5
    assert both["loss"] == pytest.approx((one["loss"] + 4 * four["loss"]) / 5, rel=1e-5)
