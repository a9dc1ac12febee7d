"""Small models of all families, parameters that are not their first, and text to look at them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from openba_jax.models.axes import VOCAB, Leaf, flatten
from openba_jax.models.base import Model
from openba_jax.models.registry import model_of, named_config
from openba_jax.parallel.sharding import make_mesh
from openba_jax.pruning.calibration import Calibration
from openba_jax.pruning.criteria.base import Subject

LENGTH = 7
ROWS = 8


def tiny(name: str) -> Model:
    model = model_of(named_config(name))
    return model.replace(**dict.fromkeys(set(model.config.to_dict()) & {"dropout_rate"}, 0.0))


def weights(model: Model, seed: int = 0) -> Any:
    """Parameters of a model that is not at its start: norms and biases differ from their first."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(np.array, model.init(jax.random.key(seed)))
    return jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(x.dtype), params)


def batch_of(model: Model, seed: int, padding: int = 0) -> dict[str, np.ndarray]:
    """Rows of different lengths, and so many columns of padding besides."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 90, (ROWS, LENGTH)).astype(np.int32)
    real = np.arange(LENGTH) < rng.integers(3, LENGTH + 1, (ROWS, 1))
    inputs = np.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
    batch = {
        "decoder_input_tokens": np.where(real, inputs, 0),
        "decoder_target_tokens": np.where(real, tokens, 0),
        "decoder_loss_weights": real.astype(np.float32),
    }
    if model.layout == "encoder_decoder":
        batch["encoder_input_tokens"] = np.where(real, tokens[::-1], 0)
    else:
        batch["decoder_segment_ids"] = real.astype(np.int32)
    return {name: np.pad(x, ((0, 0), (0, padding))) for name, x in batch.items()}


def subject_of(model: Model, params: Any, padding: int = 0, shape: Any = (1, 1, -1)) -> Subject:
    flat = flatten(params)

    def read(leaf: Leaf) -> np.ndarray:
        return flat[leaf.path] if leaf.layer is None else flat[leaf.path][leaf.layer]

    devices = jax.devices() if shape != (1, 1, 1) else jax.devices()[:1]
    batches = [batch_of(model, seed, padding) for seed in (1, 2)]
    return Subject(model, read, Calibration(batches, ROWS, make_mesh(shape, devices)))


def cuttable(model: Model) -> list[str]:
    return [key for key in model.axes.keys if key != VOCAB]
