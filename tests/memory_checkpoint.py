"""A model in memory, to be written, cut and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openba_jax.checkpoints.checkpoint import all_leaves
from openba_jax.models.axes import VOCAB
from openba_jax.models.registry import model_of


class MemoryCheckpoint:
    """A `Checkpoint` of random values, every one exact in float16 and bfloat16."""

    def __init__(self, config, dtypes=None, seed=0, optimizer=None, data=None):
        random = np.random.default_rng(seed)
        self.model = model_of(config)
        self.tokenizer: Path | None = None
        self.plan: str | None = None
        self.step = 3
        self.optimizer, self.data, self.carried = optimizer, data or {}, {}
        default = {"": np.dtype(config.param_dtype)}
        self.arrays = {}
        for leaf in all_leaves(self):
            values = random.integers(-64, 64, self.model.axes.shape(leaf.path)) / 64
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
        place[self.model.axes.paths[leaf.path].index(VOCAB)] = rows
        return array[tuple(place)]
