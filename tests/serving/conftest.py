"""The fixtures of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from http_server import ROOM, Server, running
from tiny_model import loaded, vocabulary

from openba_jax.checkpoints import training_state
from openba_jax.data.vocabulary_training import train_vocabulary
from openba_jax.models.registry import model_of, named_config
from openba_jax.serving.app import Served
from openba_jax.serving.loading import start_serving

__all__ = ["loaded", "vocabulary"]


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with answers of some length, for prompts of 96 tokens."""
    root = tmp_path_factory.mktemp("talkative")
    texts = [f"The square of {i} is {i * i}, its cube is {i**3}. 金 €" for i in range(300)]
    vocabulary = train_vocabulary(texts, 360, root / "tokenizer.model")
    config = named_config(
        "tiny", vocab_size=vocabulary.size, initializer_std=0.3, max_encoder_length=96
    )
    model = model_of(config)
    params = jax.jit(model.init)(jax.random.key(3))
    training_state.create(root / "model", model, params, tokenizer=vocabulary.path)
    return root / "model"


@pytest.fixture(scope="session")
def served(model_dir: Path) -> Iterator[Served]:
    """The model with four slots, its engine started."""
    served = start_serving(
        model_dir,
        (1, 1, 1),
        slots=4,
        queue_length=16,
        max_encoder_length=None,
        max_new_tokens=ROOM,
        dialogue="",
        template=None,
        parse_special=False,
    )
    yield served
    served.engine.close(30)


@pytest.fixture(scope="session")
def server(served: Served) -> Iterator[Server]:
    """The model behind HTTP, without a token."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    pytest.importorskip("starlette", reason="starlette is not installed")
    with running({"model": served}, page=True) as server:
        yield server
