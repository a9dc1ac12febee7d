"""Models in memory, to be written and read back."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from openba_jax.checkpoints.mapping import Parameters
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


class MemorySource:
    """A `streaming.Source` of random values, every one exact in float16 and bfloat16."""

    def __init__(self, config, dtypes=None, seed=0):
        random = np.random.default_rng(seed)
        self.config, self.parameters = config, Parameters(config)
        self.tokenizer: Path | None = None
        self.plan: str | None = None
        self.step = 3
        default = {"": np.dtype(config.param_dtype)}
        self.arrays = {}
        for leaf in self.parameters.leaves():
            values = random.integers(-64, 64, self.parameters.shape(leaf.path)) / 64
            match = {**default, **(dtypes or {})}
            dtype = next(match[key] for key in reversed(match) if key in leaf.path)
            self.arrays[leaf] = values.astype(dtype)

    def dtype(self, leaf):
        return self.arrays[leaf].dtype

    def place(self, leaf):
        return f"memory: tensor {leaf.path}"

    def read(self, leaf, rows=None):
        array = self.arrays[leaf]
        if rows is None:
            return array
        place = [slice(None)] * array.ndim
        place[self.parameters.axes[leaf.path].index("vocab")] = rows
        return array[tuple(place)]


def assert_same(first, second, vocab=None):
    """Both sources hold the same bits."""
    assert first.parameters.axes == second.parameters.axes
    for leaf in first.parameters.leaves():
        a, b = first.read(leaf), second.read(leaf)
        if vocab is not None and "vocab" in first.parameters.axes[leaf.path]:
            axis = first.parameters.axes[leaf.path].index("vocab")
            a, b = (np.take(x, range(vocab), axis) for x in (a, b))
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
def make_source():
    return MemorySource


@pytest.fixture
def tiny():
    return TINY


@pytest.fixture
def same():
    return assert_same
