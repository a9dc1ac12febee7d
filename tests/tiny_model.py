"""Fixtures: a small vocabulary and a model for it, which conftest files import."""

from __future__ import annotations

from typing import Any

import jax
import pytest

from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.models.base import Model
from openba_jax.models.registry import model_of, named_config


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    texts = ["what is water who you and me they a metal liquid gold H2O NaCl ?"] * 20
    return train_vocabulary(texts, 285, tmp_path_factory.mktemp("vocabulary") / "tok.model")


@pytest.fixture(scope="session")
def loaded(vocabulary: Vocabulary) -> tuple[Model, dict[str, Any]]:
    model = model_of(named_config("tiny", vocab_size=vocabulary.size, initializer_std=0.3))
    return model, jax.jit(model.init)(jax.random.key(0))
