"""Model folders of two kinds."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest
from tiny_model import vocabulary

from openba_jax.checkpoints import training_state
from openba_jax.models.registry import model_of, named_config

__all__ = ["vocabulary"]


@pytest.fixture(scope="session", params=["tiny", "tiny_llama"])
def folder(request, vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / "model"
    config = named_config(request.param, vocab_size=vocabulary.size, initializer_std=0.3)
    model = model_of(config.with_lengths(48, 32))
    params = jax.jit(model.init)(jax.random.key(0))
    training_state.create(path, model, params, tokenizer=vocabulary.path)
    return path
