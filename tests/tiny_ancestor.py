"""Fixtures: a corpus, a tokenizer, and a model of random parameters that knows it."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from examples import facts
from openba_jax.checkpoints import training_state
from openba_jax.data.vocabularies.registry import open_vocabulary
from openba_jax.models.registry import model_of, named_config
from openba_jax.staged.corpora import Corpora
from openba_jax.staged.settings import Data


def data_of(folder: Path, **changes) -> Data:
    settings = {
        "corpus": [str(folder / "corpus.jsonl")],
        "instructions": [],
        "questions": "",
        "vocabulary_size": 900,
        "group_size": 28,
        "encoder_length": 48,
        "decoder_length": 24,
        "batch_size": 8,
        "held_out": 16,
        "eval_batches": 1,
    }
    return Data(**{**settings, **changes})


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("facts") / "facts"
    facts.write(folder, facts_per_relation=2, documents=400, instructions=100)
    return folder


@pytest.fixture(scope="session")
def tokenizer(corpus: Path) -> Path:
    """A tokenizer; a store of the corpus lies beside it."""
    corpora = Corpora(corpus.with_name("tokenized"), data_of(corpus), seed=0)
    vocabulary = corpora.train_tokenizer()
    corpora.batches(vocabulary, "ul2")
    return Path(vocabulary.path)


@pytest.fixture(scope="session")
def ancestor(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = open_vocabulary(tokenizer).size
    model = model_of(named_config("tiny", vocab_size=size, initializer_std=0.1))
    folder = tmp_path_factory.mktemp("ancestor") / "model"
    params = jax.jit(model.init)(jax.random.key(0))
    training_state.create(folder, model, params, tokenizer=tokenizer, step=7)
    return folder
