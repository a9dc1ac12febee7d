"""What scoring costs, beside a forward and backward pass over the same batches.

    python scripts/benchmarks/criteria.py [--rounds=3]

Times, in turn and in one process, the gradient of the loss of each batch, and each criterion on the
same batches (compiled before), and prints medians and ratios. `taylor` scores all axes at once.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags

from openba_jax.models.axes import LAYERS, VOCAB, Leaf, axis_of, flatten
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.registry import model_of
from openba_jax.nn.losses import token_cross_entropy
from openba_jax.parallel.sharding import make_mesh
from openba_jax.pruning.calibration import Calibration
from openba_jax.pruning.criteria.base import Subject
from openba_jax.pruning.criteria.registry import score

_ROUNDS = flags.DEFINE_integer("rounds", 3, "Times that each is timed.")
_BATCHES = flags.DEFINE_integer("batches", 16, "Batches of the calibration set.")

ROWS, INPUTS, TARGETS = 8, 256, 128
CONFIG = OpenBAConfig(
    vocab_size=8192,
    embed_dim=256,
    num_heads=4,
    head_dim=64,
    mlp_dim=768,
    encoder_layers=4,
    decoder_layers=12,
    tie_embeddings=False,
)


def _batch(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    inputs, targets = (
        rng.integers(3, CONFIG.vocab_size, (ROWS, length)).astype(np.int32)
        for length in (INPUTS, TARGETS)
    )
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
    }


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    del argv
    # A criterion is compiled anew by each call; so it is read back from the second on.
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    model = model_of(CONFIG)
    params = jax.tree.map(np.asarray, jax.jit(model.init)(jax.random.key(0)))
    flat = flatten(params)

    def read(leaf: Leaf) -> np.ndarray:
        return flat[leaf.path] if leaf.layer is None else flat[leaf.path][leaf.layer]

    batches = [_batch(seed) for seed in range(_BATCHES.value)]
    subject = Subject(model, read, Calibration(batches, ROWS, make_mesh()))
    keys = [key for key in model.axes.keys if key != VOCAB]

    def loss(params: Any, batch: Any) -> jax.Array:
        total, sums = token_cross_entropy(model.hidden(params, batch), model.head(params), batch)
        return total / sums["weight_sum"]

    gradient = subject.on_mesh(jax.value_and_grad(loss))

    def passes() -> None:
        for batch in subject.calibration.placed():
            jax.block_until_ready(gradient(subject.params, batch))

    def scoring(method: str, layers: bool) -> Callable[[], Any]:
        wanted = [key for key in keys if (axis_of(key) == LAYERS) == layers]
        return lambda: score(method, subject, wanted)

    runs: dict[str, Callable[[], Any]] = {
        "forward and backward": passes,
        "taylor, all axes": lambda: score("taylor", subject, keys),
        "activation, width": scoring("activation", False),
        "block_influence, layers": scoring("block_influence", True),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(_ROUNDS.value + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number:  # The first compiles.
                times[name].append(time.perf_counter() - began)
    base = statistics.median(times["forward and backward"])
    print(
        f"{jax.devices()[0].device_kind}, {_BATCHES.value} batches of {ROWS} x {INPUTS}/{TARGETS}"
    )
    for name, each in times.items():
        middle = statistics.median(each)
        print(f"{name:24} {middle:7.2f} s  {middle / base:5.2f}")


if __name__ == "__main__":
    app.run(main)
