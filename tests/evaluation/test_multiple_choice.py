"""Scoring of given answers, against a plain computation; question files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.data.vocabulary import Vocabulary, train_vocabulary
from openba_jax.errors import UserError
from openba_jax.evaluation.loss import mean_loss
from openba_jax.evaluation.multiple_choice import (
    Question,
    answer_questions,
    read_questions,
    score_files,
)
from openba_jax.evaluation.scoring import answer_log_likelihoods, fitting_length, pad_rows
from openba_jax.inference.generator import Generator
from openba_jax.models.openba.config import named_config
from openba_jax.models.openba.network import OpenBA, init_params

QUESTIONS = [
    Question("What is water?", ("H2O", "a metal and no liquid", "NaCl", "gold"), 0),
    Question("Who?", ("I", "you and me", "they"), 2),
]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    texts = ["what is water who you and me they a metal liquid gold H2O NaCl ?"] * 20
    return train_vocabulary(texts, 285, tmp_path_factory.mktemp("vocabulary") / "tok.model")


@pytest.fixture(scope="module")
def model(vocabulary: Vocabulary):
    config = named_config("tiny", vocab_size=vocabulary.size, initializer_std=0.3)
    return config, jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))


def _item(question: Question) -> dict:
    fields = {f"res{i}": option for i, option in enumerate(question.options, start=1)}
    answer = "ABCDE"[question.answer]
    return {"demo": [], "data": {"question": question.text, **fields, "ans": answer}}


def test_likelihoods_equal_a_plain_computation(model) -> None:
    config, params = model
    inputs = pad_rows([[5, 6, 7, 1], [9, 1]], 6)
    targets = pad_rows([[3, 4, 1], [8, 1], [4, 4, 4, 1], [7, 1]], 5).reshape(2, 2, 5)
    weights = (targets > 1).astype(np.float32)
    ours = answer_log_likelihoods(config, params, inputs, targets, weights)
    for i in range(2):
        for j in range(2):
            target = targets[i, j]
            decoder = np.concatenate([[0], target[:-1]])[None]
            logits = OpenBA(config).apply(
                {"params": params}, jnp.asarray(inputs[i : i + 1]), decoder, enable_dropout=False
            )
            log_p = jax.nn.log_softmax(logits[0])[np.arange(5), target]
            np.testing.assert_allclose(ours[i, j], (log_p * weights[i, j]).sum(), rtol=1e-5)


def test_large_batches_go_position_by_position(model, monkeypatch) -> None:
    config, params = model
    rng = np.random.default_rng(0)
    inputs = rng.integers(3, 200, (2, 6))
    targets = rng.integers(3, 200, (2, 2, 5))
    weights = np.ones(targets.shape, np.float32)
    at_once = answer_log_likelihoods(config, params, inputs, targets, weights)
    monkeypatch.setattr("openba_jax.evaluation.scoring.MAX_CHUNK_LOGITS", 1)
    by_position = answer_log_likelihoods.__wrapped__(config, params, inputs, targets, weights)
    np.testing.assert_allclose(by_position, at_once, rtol=1e-5)


def test_the_answer_is_the_likeliest_per_token(model, vocabulary: Vocabulary) -> None:
    config, params = model
    predicted = answer_questions(
        config, params, vocabulary, QUESTIONS, encoder_length=32, decoder_length=24, batch_size=4
    )
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
                config, params, pad_rows([inputs], 32), targets[None], weights
            )
            means.append(float(sums[0, 0]) / len(ids))
        assert prediction == int(np.argmax(means))


def test_scores_of_files(model, vocabulary: Vocabulary, tmp_path: Path) -> None:
    config, params = model
    for i, question in enumerate(QUESTIONS):
        (tmp_path / f"subject{i}.json").write_text(json.dumps([_item(question)] * (i + 1)))
    scores = score_files(
        config,
        params,
        vocabulary,
        sorted(tmp_path.glob("*.json")),
        encoder_length=32,
        decoder_length=24,
        batch_size=2,
    )
    assert set(scores) == {"subject0", "subject1", "total"}
    assert scores["total"].count == 3
    assert scores["total"].right == scores["subject0"].right + scores["subject1"].right
    assert scores["total"].chance == pytest.approx((1 / 4 + 1 / 3 + 1 / 3) / 3)


def test_real_question_files_are_read(shared_dir: Path) -> None:
    paths = sorted((shared_dir / "data/eval").glob("*/*.json"))
    if not paths:
        pytest.skip(f"{shared_dir}/data/eval holds no question files")
    for path in paths:
        questions = read_questions(path)
        assert all(0 <= q.answer < len(q.options) <= 5 for q in questions)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "cannot read"),
        ("[]", "holds no question"),
        ('[{"data": {"question": "q", "res1": "a"}}]', "no question file"),
        ('[{"data": {"question": "q", "res1": "a", "ans": "B"}}]', "no question file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "q.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_questions(path)


def test_too_long_is_said(model, vocabulary: Vocabulary) -> None:
    config, params = model
    with pytest.raises(UserError, match="exceeds the encoder length 8"):
        answer_questions(config, params, vocabulary, QUESTIONS, encoder_length=8, decoder_length=24)
    with pytest.raises(UserError, match="exceeds the decoder length 4"):
        answer_questions(config, params, vocabulary, QUESTIONS, encoder_length=64, decoder_length=4)
    with pytest.raises(UserError, match="exceeds the 5 that fit"):
        Generator(config, params, vocabulary, 8)(["what is water and gold"], max_new_tokens=4)


def test_answers_do_not_depend_on_their_company(model, vocabulary: Vocabulary) -> None:
    config, params = model
    prompts = ["who", "what is water", "gold", "they"]
    many = Generator(config, params, vocabulary, 24, batch_size=3)(prompts, max_new_tokens=6)
    alone = Generator(config, params, vocabulary, 24, batch_size=1)
    assert many == [alone([prompt], max_new_tokens=6)[0] for prompt in prompts]


def test_what_is_short_is_padded_to_little() -> None:
    assert fitting_length([[1] * 7, [1] * 129], 1024) == 256
    assert fitting_length([[1] * 7], 1024) == 128
    assert fitting_length([[1] * 7], 40) == 40
    assert fitting_length([], 40) == 0


def test_a_longer_limit_changes_no_answer(model, vocabulary: Vocabulary) -> None:
    config, params = model
    answers = [
        answer_questions(
            config, params, vocabulary, QUESTIONS, encoder_length=length, decoder_length=length
        ).tolist()
        for length in (40, 4096)
    ]
    assert answers[0] == answers[1]


def test_mean_loss_weighs_tokens_not_batches(model) -> None:
    config, params = model

    def batch(targets: list[list[int]]) -> dict[str, np.ndarray]:
        rows = pad_rows(targets, 4)
        return {
            "encoder_input_tokens": np.full((1, 3), 5, np.int32),
            "decoder_input_tokens": np.pad(rows[:, :-1], ((0, 0), (1, 0))),
            "decoder_target_tokens": rows,
            "decoder_loss_weights": (rows > 0).astype(np.float32),
        }

    short, long = batch([[7]]), batch([[9, 8, 7, 6]])
    one, four, both = (mean_loss(config, params, b) for b in ([short], [long], [short, long]))
    assert both["targets"] == 5
    assert both["loss"] == pytest.approx((one["loss"] + 4 * four["loss"]) / 5, rel=1e-5)
