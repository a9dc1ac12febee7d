"""Models in memory, to be written and read back."""

import ml_dtypes
import numpy as np
import pytest
from memory_checkpoint import MemoryCheckpoint

from openba_jax.checkpoints.checkpoint import all_leaves
from openba_jax.models.openba.config import OpenBAConfig

TINY = OpenBAConfig(
    vocab_size=256,
    embed_dim=12,
    num_heads=4,
    head_dim=6,
    mlp_dim=256,
    encoder_layers=1,
    decoder_layers=2,
)


def assert_same(first, second, vocab=None):
    """Both checkpoints hold the same bits, those of the optimizer included."""
    assert first.model.axes.paths == second.model.axes.paths
    assert first.optimizer == second.optimizer
    for leaf in all_leaves(first):
        a, b = first.read(leaf), second.read(leaf)
        axes = first.model.axes.paths[leaf.path]
        if vocab is not None and "vocab" in axes:
            a, b = (np.take(x, range(vocab), axes.index("vocab")) for x in (a, b))
        assert a.dtype == b.dtype, leaf
        assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes(), leaf


VARIANTS = {
    "tied": TINY,
    "untied": TINY.replace(tie_embeddings=False, logits_bias=False),
    "scaled": TINY.replace(scale_tied_logits=True, qkv_bias=False),
    "all-biases": TINY.replace(mlp_bias=True, tie_embeddings=False),
}
DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@pytest.fixture(params=list(VARIANTS))
def variant(request):
    return VARIANTS[request.param]


@pytest.fixture(params=list(DTYPES))
def dtype(request):
    return DTYPES[request.param]


@pytest.fixture
def make_checkpoint():
    return MemoryCheckpoint


@pytest.fixture
def tiny():
    return TINY


@pytest.fixture
def same():
    return assert_same
