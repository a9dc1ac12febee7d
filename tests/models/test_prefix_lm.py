"""A prefix language model reads prompts when it answers as it read inputs when it was trained."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.models.registry import model_of, named_config

PROMPTS = [[5, 6, 7, 8], [9], [3, 4]]
ANSWER = [11, 12, 13]


@pytest.mark.parametrize("both_ways", [True, False])
def test_answers_follow_prompts_as_targets_follow_inputs(both_ways: bool) -> None:
    model = model_of(
        named_config("tiny_llama", bidirectional_inputs=both_ways, initializer_std=0.3)
    )
    params = jax.jit(model.init)(jax.random.key(0))
    inputs = np.full((3, 5), model.padding)
    for row, prompt in zip(inputs, PROMPTS, strict=True):
        row[: len(prompt)] = prompt
    inputs = jnp.asarray(inputs)
    first = model.first_tokens(inputs)
    tokens = jnp.concatenate([first[:, None], jnp.tile(jnp.array(ANSWER), (3, 1))], axis=1)
    encoded = model.encode(params, inputs, room=len(ANSWER) + 1)
    answered = model.decode_hidden(params, encoded, inputs, tokens)
    for row, prompt in enumerate(PROMPTS):
        whole = jnp.array([[*prompt, *ANSWER]])
        is_input = (jnp.arange(whole.shape[1]) < len(prompt)).astype(jnp.int32)[None]
        batch = {
            "decoder_input_tokens": whole,
            "decoder_segment_ids": jnp.ones_like(whole),
            "decoder_positions": jnp.arange(whole.shape[1])[None],
            "decoder_causal_attention": is_input,
        }
        trained = model.hidden(params, batch)[0, len(prompt) - 1 :]
        np.testing.assert_allclose(answered[row], trained, atol=1e-4)
