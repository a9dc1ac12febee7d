"""Slots: rows in changing company are answered as alone, whatever joins and leaves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.inference import slots
from openba_jax.inference.decoding import GREEDY, NOT_FINITE, Sampling, generate
from openba_jax.inference.padding import pad_rows
from openba_jax.inference.slots import SlotDecoder, prompt_lengths
from openba_jax.models.registry import model_of, named_config

ROOM = 6


def _model(name: str):
    model = model_of(named_config(name, vocab_size=300))
    params = jax.jit(model.init)(jax.random.key(1))
    # Larger weights, so that answers differ.
    return model, jax.tree.map(lambda x: x * 4 if x.ndim > 1 else x, params)


def _prompts() -> list[list[int]]:
    draw = np.random.default_rng(0)
    return [draw.integers(3, 250, length).tolist() for length in (5, 40, 17, 33, 2)]


def _answers(decoder: SlotDecoder, prompts, settings) -> list[list[int]]:
    """All answers, with rows that join as soon as a slot is free."""
    answers: list[list[int]] = [[] for _ in prompts]
    waiting = list(range(len(prompts)))
    held: list[int | None] = [None] * decoder.slots
    while waiting or any(row is not None for row in held):
        for slot, row in enumerate(held):
            if row is None and waiting:
                held[slot] = waiting.pop(0)
                decoder.join(slot, prompts[held[slot]], *settings[held[slot]])
        tokens = decoder.step()
        for slot, row in enumerate(held):
            if row is not None:
                answers[row].append(int(tokens[slot]))
                if len(answers[row]) == ROOM - row % 3:  # Rows leave at different times.
                    held[slot] = None
    return answers


@pytest.mark.parametrize("family", ["tiny", "tiny_llama", "tiny_t5gemma"])
def test_greedy_answers_are_those_of_whole_batches(family: str) -> None:
    model, params = _model(family)
    prompts = _prompts()
    decoder = SlotDecoder(model, params, 2, 40, ROOM)
    found = _answers(decoder, prompts, [(GREEDY, 0)] * len(prompts))
    rows = pad_rows(prompts, 40, model.padding)
    key = jax.random.key(0)
    wanted = generate(model, params, rows, key, max_new_tokens=ROOM, stop_ids=(299,)).tolist()
    assert found == [row[: len(answer)] for row, answer in zip(wanted, found, strict=True)]
    assert len({tuple(answer[:2]) for answer in found}) > 1


def test_sampled_answers_depend_on_their_own_settings_alone_and_compile_nothing() -> None:
    model, params = _model("tiny")
    prompts = _prompts()
    settings = [
        (Sampling(0.9), 7),
        (Sampling(1.5, top_k=5), 8),
        (Sampling(1.2, top_p=0.6), 9),
        (GREEDY, 3),
        (Sampling(0.7, top_k=3, top_p=0.9), -(2**40) - 1),
    ]
    decoder = SlotDecoder(model, params, 3, 40, ROOM)
    decoder.compile()
    compiled = slots._join._cache_size(), slots._step._cache_size()
    found = _answers(decoder, prompts, settings)
    alone = [
        _answers(decoder, [prompt], [setting])[0]
        for prompt, setting in zip(prompts, settings, strict=True)
    ]
    assert [row[: len(answer)] for row, answer in zip(alone, found, strict=True)] == found
    assert (slots._join._cache_size(), slots._step._cache_size()) == compiled
    other = _answers(decoder, prompts[:1], [(Sampling(0.9), 8)])[0]
    assert other != alone[0]


def test_logits_that_are_not_finite_are_marked(loaded) -> None:
    model, params = loaded
    bad = jax.tree.map(lambda x: x, params)
    scale = bad["decoder"]["final_layer_norm"]["scale"]
    bad["decoder"]["final_layer_norm"]["scale"] = jnp.full_like(scale, jnp.nan)
    decoder = SlotDecoder(model, bad, 1, 32, 4)
    decoder.join(0, [5, 6], GREEDY)
    assert decoder.step().tolist() == [NOT_FINITE]


def test_few_lengths_are_compiled() -> None:
    assert prompt_lengths(570) == (32, 64, 128, 256, 512, 570)
    assert prompt_lengths(32) == (32,)
    assert prompt_lengths(7) == (7,)


def test_a_prompt_that_is_too_long_is_refused(loaded) -> None:
    decoder = SlotDecoder(*loaded, 1, 32, 4)
    with pytest.raises(ValueError, match="33 tokens"):
        decoder.join(0, [5] * 33, GREEDY)
