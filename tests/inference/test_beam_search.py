"""Beam search against exhaustive enumeration, over a made-up model."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.inference.beam_search import beam_search, generate_beams
from openba_jax.inference.decoding import generate
from openba_jax.models.registry import model_of, named_config

VOCAB, STEPS = 4, 2


def table_search(tables, **options):
    """Searches a model whose logits depend on the position, the last token and the example."""
    batch, beams = tables.shape[0], options["beams"]
    rows = jnp.repeat(jnp.asarray(tables), beams, axis=0)

    def step(cache, last):
        position, history = cache
        logits = rows[jnp.arange(batch * beams), position, last]
        return logits, (position + 1, history * VOCAB + last)

    def gather(cache, order):
        return cache[0], cache[1][order]

    cache = (jnp.int32(0), jnp.zeros(batch * beams, jnp.int32))
    first = jnp.zeros(batch, jnp.int32)
    return jax.jit(
        lambda: beam_search(step, gather, cache, first, max_new_tokens=STEPS, **options)
    )()


def all_answers(table, length_penalty, start):
    """Every answer with its score, best first; `start` counts in the length of what has no end."""
    log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(table)))
    found = {}
    for tokens in itertools.product(range(VOCAB), repeat=STEPS):
        total, last, answer = 0.0, 0, [0]
        for position, token in enumerate(tokens):
            total += float(log_p[position, last, token])
            if token == 1:
                break
            answer.append(token)
            last = token
        ids = (*answer, 1) if len(answer) <= STEPS else tuple(answer)
        length = len(answer) if 1 in ids else len(answer) - 1 + start
        found[ids] = total / length**length_penalty
    return sorted(found.items(), key=lambda item: -item[1])


@pytest.mark.parametrize(("rules", "start"), [("transformers_4", 1), ("transformers_5", 0)])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_wide_search_is_exhaustive(length_penalty, rules, start):
    tables = np.random.default_rng(0).normal(size=(3, STEPS, VOCAB, VOCAB)).astype(np.float32)
    beams = VOCAB**STEPS
    found = table_search(tables, beams=beams, length_penalty=length_penalty, rules=rules)
    for row, table in enumerate(tables):
        expected = all_answers(table, length_penalty, start)
        for number, (ids, score) in enumerate(expected[:10]):
            got = np.asarray(found.sequences[row, number])
            assert tuple(got[: len(ids)]) == ids
            assert not got[len(ids) :].any()
            assert float(found.scores[row, number]) == pytest.approx(score, abs=1e-5)


def test_early_stopping_takes_the_first_to_end():
    # Ending at once is likely, going on is likelier and better in the end.
    table = np.full((1, STEPS, VOCAB, VOCAB), -9.0, np.float32)
    table[:, 0, :, 1], table[:, 0, :, 2], table[:, 0, :, 3] = 1.0, 1.1, 0.9
    table[:, 1:, :, 2] = 9.0
    patient = table_search(table, beams=1, length_penalty=1.0)
    assert np.asarray(patient.sequences[0, 0]).tolist() == [0, 2, 2]
    table[:, 0, :, 1] = 1.2
    hasty = table_search(table, beams=1, length_penalty=1.0, early_stopping=True)
    assert np.asarray(hasty.sequences[0, 0]).tolist() == [0, 1, 0]
    patient = table_search(table, beams=1, length_penalty=1.0)
    assert np.asarray(patient.sequences[0, 0]).tolist() == [0, 2, 2]


def test_one_beam_is_greedy():
    model = model_of(named_config("tiny", encoder_layers=1, decoder_layers=1, initializer_std=0.5))
    params = jax.jit(model.init)(jax.random.key(1))
    tokens = jnp.asarray([[5, 6, 7, 1], [9, 8, 1, 0]], jnp.int32)
    greedy = generate(model, params, tokens, jax.random.key(0), max_new_tokens=5)
    found = generate_beams(model, params, tokens, beams=1, max_new_tokens=5)
    ends = (np.asarray(greedy) == 1).any()
    assert not ends  # With an end the two may differ: beam search weighs it against going on.
    np.testing.assert_array_equal(found.sequences[:, 0, 1:], greedy)
