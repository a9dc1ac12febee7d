"""Makes tests/inference/data/sampling.npz: what transformers leaves to draw from.

Run where torch and transformers are installed (5.24 made what is there):

    python scripts/fixtures_sampling.py tests/inference/data/sampling.npz
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

SETTINGS = [
    *[(0.5, 0, 1.0), (1.0, 5, 1.0), (1.0, 0, 0.7), (0.95, 0, 0.7), (0.2, 0, 0.9)],
    *[(1.3, 20, 0.8), (0.8, 1000, 0.05)],
]
"""Temperature, top_k, top_p; the fourth is that of OpenBA's demos."""


def main(path: str) -> None:
    """Writes logits `[rows, vocab]` and, for each setting, probabilities of the same shape."""
    logits = np.random.default_rng(0).normal(scale=2.0, size=(6, 64)).astype(np.float32)
    found = []
    for temperature, top_k, top_p in SETTINGS:
        warpers = [TemperatureLogitsWarper(temperature)]
        warpers += [TopKLogitsWarper(top_k)] if top_k else []
        warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
        left = LogitsProcessorList(warpers)(
            torch.zeros(6, 1, dtype=torch.long), torch.tensor(logits)
        )
        found.append(left.softmax(-1).numpy())
    np.savez_compressed(path, logits=logits, settings=np.array(SETTINGS), probabilities=found)


if __name__ == "__main__":
    main(*sys.argv[1:])
