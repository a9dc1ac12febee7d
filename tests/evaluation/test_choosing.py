"""Batches: few shapes, the same scores whatever the batch, demonstrations read once."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.evaluation import choosing
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.choosing import FramedLetters, FramedQuestion, bucket, score_questions
from openba_jax.evaluation.prompting.framing import frame_question
from openba_jax.evaluation.prompting.template import Template
from openba_jax.evaluation.question import Question
from openba_jax.models.registry import model_of, named_config


def test_lengths_are_few() -> None:
    sizes = {bucket(length, 32, 1024) for length in range(1, 1025)}
    assert sizes == {32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024}
    assert all(bucket(n, 32, 1024) >= n for n in range(1, 1025))
    assert bucket(20, 32, 24) == 24
    assert bucket(100, 32, 100) == 100


def _asked(family: str, vocabulary, **changes) -> AskedModel:
    model = model_of(named_config(family, vocab_size=vocabulary.size, **changes))
    params = jax.jit(model.init)(jax.random.key(0))
    return AskedModel(model, params, vocabulary, 400, 24, batch_size=4)


def _framed(asked: AskedModel, letters: bool, count: int = 6):
    rng = np.random.default_rng(0)
    head = rng.integers(3, 200, 70).tolist()
    framed: list[FramedQuestion | FramedLetters] = []
    for n in range(count):
        prompt = head[: 70 if n < 4 else 10] + rng.integers(3, 200, 3 + 9 * n).tolist()
        if letters:
            framed.append(FramedLetters(prompt, [7, 8], rng.integers(3, 200, 2 + n % 3).tolist()))
        else:
            answers = [rng.integers(3, 200, 2 + k + n).tolist() for k in range(2 + n % 3)]
            framed.append(FramedQuestion(prompt, answers))
    return framed


def _scores(framed, asked: AskedModel) -> list[np.ndarray]:
    places = [f"question {n}" for n in range(len(framed))]
    done: list[int] = []
    scores = [sums for sums, _ in score_questions(framed, places, asked, done.append)]
    assert sum(done) == len(framed)
    return scores


@pytest.mark.parametrize("letters", [False, True])
@pytest.mark.parametrize("family", ["tiny", "tiny_llama"])
def test_a_batch_changes_no_score(family: str, letters: bool, vocabulary, monkeypatch) -> None:
    asked = _asked(family, vocabulary)
    framed = _framed(asked, letters)
    read: list[int] = []
    whole = choosing.read_prefix

    def spy(model, params, prefix, room):
        read.append(prefix.shape[1])
        return whole(model, params, prefix, room)

    monkeypatch.setattr(choosing, "read_prefix", spy)
    together = _scores(framed, asked)
    assert set(read) == ({64} if family == "tiny_llama" else set())
    for each, scores in zip(framed[::5], together[::5], strict=True):
        (alone,) = _scores([each], asked)
        np.testing.assert_allclose(scores, alone, rtol=2e-5, atol=2e-5)
    if read:
        monkeypatch.setattr(choosing, "_shared_length", lambda prompts: 0)
        for scores, apart in zip(together, _scores(framed, asked), strict=True):
            np.testing.assert_allclose(scores, apart, rtol=2e-5, atol=2e-5)


def test_bidirectional_inputs_are_read_at_once(vocabulary) -> None:
    assert _asked("tiny_llama", vocabulary).model.reads_on
    prefix = _asked("tiny_llama", vocabulary, bidirectional_inputs=True)
    assert not prefix.model.reads_on
    assert len(_scores(_framed(prefix, True), prefix)) == 6


def test_letters_behind_a_prompt_that_goes_on(tmp_path) -> None:
    texts = ["A B C D what is water who you and me they : ?"] * 20
    vocabulary = train_vocabulary(texts, 280, tmp_path / "tok.model")
    asked = _asked("tiny_llama", vocabulary)
    question = Question("what is water", ("I", "you", "me"), 0, "q")
    template = Template("{question} {options} ?", "letters", "{letter}: {answer}")
    framed = frame_question(question, template, asked, 0, "", False).framed
    assert isinstance(framed, FramedLetters)
    assert len(set(framed.letters)) == 3
    for letter, token in zip("ABC", framed.letters, strict=True):
        assert asked.frame.answer(letter, "q")[: len(framed.prefix) + 1] == [*framed.prefix, token]
