"""Answers that can be nothing but a labelled sentence: what it changes for a model that errs."""

from __future__ import annotations

import json
import random

import jax
import numpy as np
import optax
import pytest

from openba_jax.data.ner.prompts import answer, labels_of
from openba_jax.data.ner.sentences import Sentence
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.evaluation.asking import AskedModel
from openba_jax.evaluation.benchmarks.registry import benchmark
from openba_jax.evaluation.measuring import measure
from openba_jax.evaluation.ner.ner import as_item
from openba_jax.evaluation.ner.rewriting import Parts, Rewriting, make_trie
from openba_jax.inference.padding import pad_rows
from openba_jax.inference.prompts import BeginningFrame, SentinelFrame
from openba_jax.models.registry import model_of, named_config
from openba_jax.nn.losses import token_cross_entropy

STEPS = 120
TYPES = ("per", "a loc")
NAMES = {
    "per": ["an", "bo", "cy", "di"],
    "a loc": ["rom", "ny c", "li", "uk"],
}
OTHERS = ["x", "y", "z", ",", "q"]


def _sentence(rng: random.Random) -> Sentence:
    words: list[str] = []
    labels: list[str] = []
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.5:
            words.append(rng.choice(OTHERS))
            labels.append("O")
        else:
            kind = rng.choice(TYPES)
            name = rng.choice(NAMES[kind]).split()
            words += name
            labels += [f"B-{kind}", *[f"I-{kind}"] * (len(name) - 1)]
    place = f"sentence {words}"
    return Sentence(tuple(words), tuple(labels), TYPES, "made", " ".join(words), place)


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> AskedModel:
    """A small model that was trained a little: it labels well, and often loses its thread."""
    rng = random.Random(0)
    texts = [each.prompt + " " + each.answer for each in (_sentence(rng) for _ in range(400))]
    path = tmp_path_factory.mktemp("ner") / "tok.model"
    vocabulary = train_vocabulary(texts, 300, path)
    config = named_config("tiny", vocab_size=vocabulary.size)
    model = model_of(config.with_lengths(32, 64))
    frame = SentinelFrame(vocabulary, 32, 64)
    params = jax.jit(model.init)(jax.random.key(0))
    optimizer = optax.adam(4e-3)

    def batch() -> dict[str, np.ndarray]:
        sentences = [_sentence(rng) for _ in range(32)]
        targets = pad_rows([frame.answer(each.answer, "") for each in sentences], 64)
        return {
            "encoder_input_tokens": pad_rows([frame.prompt(s.prompt, "") for s in sentences], 32),
            "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
            "decoder_target_tokens": targets,
            "decoder_loss_weights": (targets > 0).astype(np.float32),
        }

    @jax.jit
    def step(params, state, batch):
        def loss(params):
            total, sums = token_cross_entropy(
                model.hidden(params, batch), model.head(params), batch
            )
            return total / sums["weight_sum"]

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    for _ in range(STEPS):
        params, state, _ = step(params, state, batch())
    return AskedModel(model, params, vocabulary, 32, 64, batch_size=16)


def test_answers_are_never_malformed_and_more_often_right(asked) -> None:
    rng = random.Random(1)
    items = {"made": [as_item(_sentence(rng)) for _ in range(32)]}
    free = measure(benchmark("ner"), items, asked).total
    bound = measure(benchmark("ner_constrained"), items, asked).total
    assert free.figures["malformed"] > 0.1  # Else there would be nothing to mend.
    assert bound.figures["malformed"] == 0
    assert bound.figure > free.figure + 0.1


def _walk(automaton: Rewriting, ids: list[int]) -> None:
    for token in ids:
        assert token in automaton.allowed()
        automaton.read(token)


@pytest.mark.parametrize("kind", [SentinelFrame, BeginningFrame])
@pytest.mark.parametrize("labels", [["O"] * 4, ["B-per", "I-per", "O", "B-a loc"]])
def test_the_tokens_of_right_answers_are_allowed(asked, kind, labels) -> None:
    frame, words = kind(asked.vocabulary, 64), ["an", "bo", "(", "rom,uk"]
    parts = Parts(frame)
    automaton = Rewriting(words, labels_of(TYPES), parts.trie, parts.leading, 1)
    ids = frame.answer(answer(words, labels), "x")
    _walk(automaton, ids)
    assert automaton.allowed() == []
    assert asked.vocabulary.decode(ids, True).strip() == answer(words, labels)


def test_byte_level_pieces_are_allowed(tmp_path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.decoders import ByteLevel as Decoder
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = Decoder()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=400, special_tokens=["</s>"], initial_alphabet=alphabet)
    text = "Anna(B-per) likes(O) 东京(B-a loc) Rome(I-a loc)"
    tokenizer.train_from_iterator([text] * 9, trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    vocabulary = open_vocabulary(tmp_path / "tokenizer.json")
    words, labels = ["Anna", "likes", "东京", "Rome"], ["B-per", "O", "B-a loc", "I-a loc"]
    frame = BeginningFrame(vocabulary, 64)
    parts = Parts(frame)
    automaton = Rewriting(words, labels_of(TYPES), parts.trie, parts.leading, vocabulary.eos_id)
    ids = frame.answer(answer(words, labels), "x")
    _walk(automaton, ids)
    assert automaton.allowed() == []
    assert vocabulary.decode(ids, True).strip() == text


def test_labels_whose_tokens_begin_others() -> None:
    tries = {"a": make_trie([[5], [5, 6]]), "b": make_trie([[6, 7], [8]])}
    automaton = Rewriting(["a", "b"], ["x"], lambda word, *_: tries[word], [3], 1)
    assert automaton.allowed() == [3]
    _walk(automaton, [3])
    assert automaton.allowed() == [5]
    _walk(automaton, [5])
    # The first word may be whole, or go on.
    assert automaton.allowed() == [6, 8]
    _walk(automaton, [6])
    assert automaton.allowed() == [6, 7, 8]
    _walk(automaton, [7])
    assert automaton.allowed() == [1]
    _walk(automaton, [1])
    assert automaton.allowed() == []
