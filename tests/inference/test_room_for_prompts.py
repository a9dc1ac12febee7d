"""A decoder has one sequence for a prompt and its answer."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from openba_jax.checkpoints import training_state
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.errors import UserError
from openba_jax.infer import infer
from openba_jax.models.registry import model_of, named_config


def test_answers_leave_room_for_prompts(vocabulary: Vocabulary, tmp_path: Path) -> None:
    model = model_of(named_config("tiny_llama", vocab_size=vocabulary.size, max_length=40))
    params = jax.jit(model.init)(jax.random.key(0))
    training_state.create(tmp_path / "model", model, params, tokenizer=vocabulary.path)
    for tokens in (40, 128):
        with pytest.raises(UserError, match=f"MAX_NEW_TOKENS is {tokens}, .* has 40 positions"):
            infer(str(tmp_path / "model"), ["who"], max_new_tokens=tokens)
    infer(str(tmp_path / "model"), ["who"], max_new_tokens=2)
