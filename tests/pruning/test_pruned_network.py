"""A sliced small model computes what the large one does with the rest masked."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plan_strategies import MODEL, random_params

from openba_jax.models.openba import network
from openba_jax.nn.layers import LayerNorm
from openba_jax.pruning.plan import Plan, pruned_model
from openba_jax.pruning.transform import mask, take

AXES = MODEL.logical_axes()
PARAMS = random_params(MODEL)
EMBED = (0, 2, 3, 5, 7)
LAYERS = {"encoder/layers": (0, 2), "decoder/layers": (1, 3)}
HEADS_AND_UNITS = {
    "encoder/heads": ((0, 1), (1, 3), (0, 2)),
    "decoder/heads": ((2, 3), (0, 1), (0, 3), (1, 2)),
    "encoder/mlp": (0, 4),
    "decoder/mlp": ((0, 1), (2, 3), (4, 5), (0, 5)),
}
KEEPS = {
    "layers": LAYERS,
    "heads and units": HEADS_AND_UNITS,
    "everything": {**LAYERS, **HEADS_AND_UNITS, "embed": EMBED},
}
ENCODER_TOKENS = jnp.asarray([[3, 4, 5, 9, 2, 1], [7, 8, 11, 1, 0, 0]])
DECODER_TOKENS = jnp.asarray([[0, 5, 9, 10], [0, 2, 3, 3]])


def logits(model, params, encoder=ENCODER_TOKENS, decoder=DECODER_TOKENS) -> np.ndarray:
    # A function of its own, so that nothing traced before is used again.
    def apply(params):
        return model.module.apply({"params": params}, encoder, decoder, enable_dropout=False)

    return np.asarray(jax.jit(apply)(params))


@pytest.fixture(scope="module")
def unpruned() -> np.ndarray:
    return logits(MODEL, PARAMS)


class KeptLayerNorm(LayerNorm):
    """Layer norm whose statistics are those of the kept channels; the others are zero."""

    @nn.compact
    def __call__(self, inputs):
        scale = self.param("scale", nn.initializers.ones, inputs.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, inputs.shape[-1:])
        kept = jnp.zeros(inputs.shape[-1], bool).at[jnp.asarray(EMBED)].set(True)
        x = inputs - jnp.mean(inputs, axis=-1, keepdims=True, where=kept)
        variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True, where=kept)
        return x / jnp.sqrt(variance + self.epsilon) * scale + bias


@pytest.mark.parametrize("name", KEEPS)
def test_sliced_equals_masked(
    name: str, unpruned: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = KEEPS[name]
    pruned = pruned_model(Plan(MODEL.config.to_dict(), "", keep))
    small = logits(pruned, take(PARAMS, AXES, keep))
    if "embed" in keep:
        monkeypatch.setattr(network, "LayerNorm", KeptLayerNorm)
    masked = logits(MODEL, mask(PARAMS, AXES, keep))
    np.testing.assert_allclose(small, masked, atol=1e-5, rtol=1e-5)
    assert np.abs(small - unpruned).max() > 0.01


def test_kept_tokens_have_the_same_logits_after_the_vocabulary_is_cut(unpruned: np.ndarray) -> None:
    rows = (0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 11, 11)
    plan = Plan(MODEL.config.to_dict(), "", {"vocab": rows})
    new_id = jnp.asarray(
        [rows.index(i) if i in rows else -1 for i in range(MODEL.config.vocab_size)]
    )
    small_params = take(PARAMS, AXES, plan.keep)
    small = logits(pruned_model(plan), small_params, new_id[ENCODER_TOKENS], new_id[DECODER_TOKENS])
    large = unpruned[..., list(rows)]
    np.testing.assert_allclose(small, large, atol=1e-5)
    np.testing.assert_array_equal(np.argmax(small, -1), np.argmax(large, -1))
