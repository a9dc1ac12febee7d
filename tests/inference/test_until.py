"""Answers in segments: those of decoding in one go, cut at stop strings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from openba_jax.errors import UserError
from openba_jax.inference import until
from openba_jax.inference.generator import Generator
from openba_jax.inference.prompts import SentinelFrame
from openba_jax.inference.stop_strings import stop_strings
from openba_jax.inference.until import answer_until

PROMPTS = ["who", "what is water", "gold", "they and me", "liquid"]


def _answers(loaded, vocabulary, **settings) -> list[str]:
    frame = SentinelFrame(vocabulary, 24)
    ids = [frame.prompt(text, text) for text in PROMPTS]
    found = dict(answer_until(*loaded, vocabulary, ids, batch_size=3, **settings))
    return [found[number] for number in range(len(PROMPTS))]


@pytest.mark.parametrize("length", [5, 16, 41])
def test_segments_give_what_one_go_gives(loaded, vocabulary, length: int) -> None:
    whole = Generator(*loaded, vocabulary, 24, batch_size=1)(PROMPTS, max_new_tokens=length)
    ours = _answers(loaded, vocabulary, max_new_tokens=length)
    assert [text.strip() for text in ours] == whole


def test_answers_end_before_the_first_stop_string(loaded, vocabulary, monkeypatch) -> None:
    whole = _answers(loaded, vocabulary, max_new_tokens=64)
    stop = stop_strings([text[1:3] for text in whole])
    segments = []
    advance = until._advance

    def counted(*arguments, **settings):
        segments.append(arguments)
        return advance(*arguments, **settings)

    monkeypatch.setattr(until, "_advance", counted)
    ours = _answers(loaded, vocabulary, max_new_tokens=64, stop=stop)
    assert ours == [stop.cut(text) for text in whole]
    assert all(0 < len(cut) < len(text) for cut, text in zip(ours, whole, strict=True))
    assert len(segments) == 2  # One for each batch: four would have been the longest answers.


def test_logits_that_are_not_finite_give_no_answer(loaded, vocabulary) -> None:
    model, params = loaded
    bad = jax.tree.map(lambda x: x, params)
    scale = bad["decoder"]["final_layer_norm"]["scale"]
    bad["decoder"]["final_layer_norm"]["scale"] = jnp.full_like(scale, jnp.nan)
    with pytest.raises(UserError, match=r"request \d: the logits are not finite"):
        _answers((model, bad), vocabulary, max_new_tokens=4)
