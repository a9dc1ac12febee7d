"""Text to text: answers by themselves and in company; what is refused instead of answered."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.inference.beam_search import BeamSettings, generate_beams
from openba_jax.inference.generator import Generator
from openba_jax.inference.padding import pad_rows
from openba_jax.inference.prompts import SentinelFrame


def test_answers_do_not_depend_on_their_company(loaded, vocabulary: Vocabulary) -> None:
    prompts = ["who", "what is water", "gold", "they"]
    many = Generator(*loaded, vocabulary, 24, batch_size=3)(prompts, max_new_tokens=6)
    alone = Generator(*loaded, vocabulary, 24, batch_size=1)
    assert many == [alone([prompt], max_new_tokens=6)[0] for prompt in prompts]


def test_a_prompt_that_cannot_be_read_is_named_before_any_is_answered(
    loaded, vocabulary: Vocabulary
) -> None:
    generator = Generator(*loaded, vocabulary, 8, batch_size=1)
    for prompt, message in (("what is water and gold", "exceeds the 5"), ("\ud800", "half of")):
        answers = generator.stream(["who", prompt], max_new_tokens=4)
        with pytest.raises(UserError, match=f"prompt 2.*{message}"):
            next(answers)


def test_the_best_beam_is_the_answer(loaded, vocabulary: Vocabulary) -> None:
    model, params = loaded
    generator = Generator(model, params, vocabulary, 24, batch_size=2)
    prompts = ["who", "what is water", "gold"]
    batches = generator.stream(prompts, max_new_tokens=6, search=BeamSettings(4, 0.5))
    found = [answer for batch in batches for answer in batch]
    frame = SentinelFrame(vocabulary, 24)
    rows = pad_rows([frame.prompt(prompt, "") for prompt in prompts], 24)
    beams = generate_beams(model, params, rows, beams=4, max_new_tokens=6, length_penalty=0.5)
    best = beams.sequences[:, 0, 1:].tolist()
    assert found == [vocabulary.decode(ids, skip_special_tokens=True).strip() for ids in best]
    assert found != generator(prompts, max_new_tokens=6)


@pytest.mark.parametrize("search", [None, BeamSettings(3)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_give_no_answer(
    loaded, vocabulary, value: float, search: BeamSettings | None
) -> None:
    model, params = loaded
    bad = jax.tree.map(lambda x: x, params)
    scale = bad["decoder"]["final_layer_norm"]["scale"]
    bad["decoder"]["final_layer_norm"]["scale"] = jnp.full_like(scale, value)
    generator = Generator(model, bad, vocabulary, 24, batch_size=2)
    with pytest.raises(UserError, match="prompt 1: the logits are not finite"):
        next(generator.stream(["who"], max_new_tokens=4, search=search))
