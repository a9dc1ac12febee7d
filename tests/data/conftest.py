"""A small vocabulary and stores made with it."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_text import words

from openba_jax.data.store.token_store import store_dtype
from openba_jax.data.store.writer import TokenStoreWriter
from openba_jax.data.vocabularies.base import Vocabulary
from openba_jax.data.vocabulary_training import train_vocabulary


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory) -> Vocabulary:
    """300 pieces, of which 259 are control and byte pieces."""
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    return train_vocabulary([words(seed, 100) for seed in range(20)], 300, path)


@pytest.fixture(scope="session")
def stores(tmp_path_factory, vocabulary):
    """Two stores: 50 groups and 7 instructions, and 23 groups; every group has ids of its own."""
    folder = tmp_path_factory.mktemp("stores")
    rng = np.random.default_rng(0)
    prefixes = []
    for name, groups, pairs in (("first", 50, 7), ("second", 23, 0)):
        prefixes.append(folder / name)
        with TokenStoreWriter(prefixes[-1], store_dtype(vocabulary.token_count)) as writer:
            writer.add_groups(rng.integers(3, vocabulary.piece_count, (groups, 40)))
            for length in range(pairs):
                ids = rng.integers(3, vocabulary.piece_count, 20)
                tokens = np.array([*ids[: 5 + length], *ids[12:], 1])
                sizes = np.array([5 + length, len(ids[12:]) + 1])
                writer.add_pairs("instructions", tokens, sizes)
    return prefixes
