"""A sliced T5 computes what the large one does with the rest masked."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.models.registry import model_of, named_config
from openba_jax.models.t5 import network
from openba_jax.nn.layers import RMSNorm
from openba_jax.pruning.criteria.base import Subject
from openba_jax.pruning.criteria.registry import score
from openba_jax.pruning.plan import Plan, pruned_model, relative
from openba_jax.pruning.selection import drawn, targets_of
from openba_jax.pruning.transform import mask, take

SIZES = {"embed_dim": 8, "num_heads": 4, "head_dim": 6, "mlp_dim": 6, "vocab_size": 12}
SIZES |= {"encoder_layers": 3, "decoder_layers": 4}
CONFIGS = {
    "t5": named_config("tiny_t5", **SIZES, scale_tied_logits=False),
    "t5_1_1": named_config("tiny_t5_1_1", **SIZES),
    "own_biases": named_config("tiny_t5_1_1", **SIZES, shared_relpos=False),
}
EMBED = (0, 2, 3, 5, 7)
LAYERS = {"encoder/layers": (1, 2), "decoder/layers": (1, 3)}
UNITS = {"encoder/mlp": ((0, 4), (1, 2), (3, 5)), "decoder/mlp": (0, 4)}
HEADS = {"encoder/heads": (0, 1, 3), "decoder/heads": (1, 2, 3)}
KEEPS = {
    "layers": LAYERS,
    "units": UNITS,
    "heads": HEADS,
    "embed": {"embed": EMBED},
    "everything": {**LAYERS, **UNITS, **HEADS, "embed": EMBED},
}
ENCODER = jnp.asarray([[3, 4, 5, 9, 2, 1], [7, 8, 11, 1, 0, 0]])
DECODER = jnp.asarray([[0, 5, 9, 10], [0, 2, 3, 3]])


def params_of(model):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda s: rng.normal(size=s.shape, scale=0.3).astype(s.dtype), model.abstract_params()
    )


def logits(model, params, encoder=ENCODER, decoder=DECODER):
    def apply(params):  # A function of its own, so that nothing traced before is used again.
        return model.module.apply({"params": params}, encoder, decoder, enable_dropout=False)

    return np.asarray(jax.jit(apply)(params))


class KeptRMSNorm(RMSNorm):
    """A norm whose mean is over the kept channels; the others are zero."""

    @nn.compact
    def __call__(self, inputs):
        scale = self.param("scale", nn.initializers.ones, inputs.shape[-1:])
        kept = jnp.zeros(inputs.shape[-1], bool).at[jnp.asarray(EMBED)].set(True)
        squares = jnp.mean(jnp.square(inputs), axis=-1, keepdims=True, where=kept)
        return inputs / jnp.sqrt(squares + self.epsilon) * scale


@pytest.mark.parametrize("name", KEEPS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_sliced_equals_masked(kind, name, monkeypatch):
    model = model_of(CONFIGS[kind])
    params, plan = params_of(model), Plan(model.config.to_dict(), "", KEEPS[name])
    keep = relative(plan, Plan.identity(model, ""))
    small = logits(pruned_model(plan), take(params, model.logical_axes(), keep))
    before = logits(model, params)
    if "embed" in keep:
        monkeypatch.setattr(network, "RMSNorm", KeptRMSNorm)
    masked = logits(model, mask(params, model.logical_axes(), keep))
    np.testing.assert_allclose(small, masked, atol=1e-5, rtol=1e-5)
    assert np.abs(small - before).max() > 0.01


def test_scaled_logits_are_scaled_by_the_width_that_is_left():
    plain = model_of(CONFIGS["t5"])
    scaled = plain.replace(scale_tied_logits=True)
    plan = Plan(scaled.config.to_dict(), "", {"embed": EMBED})
    params = take(params_of(plain), plain.logical_axes(), plan.keep)
    unscaled = pruned_model(plan).replace(scale_tied_logits=False)
    np.testing.assert_allclose(
        logits(pruned_model(plan), params), logits(unscaled, params) / np.sqrt(5), atol=1e-6
    )


@pytest.mark.parametrize("kind", CONFIGS)
def test_kept_tokens_have_the_same_logits(kind):
    model = model_of(CONFIGS[kind])
    rows = (0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 11)
    plan, params = Plan(model.config.to_dict(), "", {"vocab": rows}), params_of(model)
    new_id = jnp.asarray([rows.index(i) if i in rows else -1 for i in range(12)])
    small = take(params, model.logical_axes(), plan.keep)
    found = logits(pruned_model(plan), small, new_id[ENCODER], new_id[DECODER])
    np.testing.assert_allclose(found, logits(model, params)[..., list(rows)], atol=1e-5)


def test_layers_that_share_a_bias_keep_the_same_heads():
    shared, own = (model_of(CONFIGS[kind]) for kind in ("t5", "own_biases"))
    assert shared.axes.layers_key("encoder/heads") is None
    assert own.axes.layers_key("encoder/heads") == "encoder/layers"
    assert "encoder/joined_kv" not in shared.axes.keys
    each = {"encoder/heads": ((0, 1), (1, 2), (2, 3)), "decoder/heads": (0, 1)}
    Plan(own.config.to_dict(), "", each)
    with pytest.raises(UserError, match="encoder/heads"):
        Plan(shared.config.to_dict(), "", each)
    with pytest.raises(UserError, match="must be equal"):
        Plan(shared.config.to_dict(), "", {"encoder/heads": (0, 1)})


@pytest.mark.parametrize("kind", ["t5", "own_biases"])
def test_heads_are_scored_by_their_channels_too(kind):
    model = model_of(CONFIGS[kind])
    params = params_of(model)
    strong = params["decoder"]["layers"]["self_attention"]["value"]["kernel"]
    strong[:, :, 6:12] = 100  # Head 1, in all layers.

    def read(leaf):
        array = params
        for name in leaf.path.split("/"):
            array = array[name]
        return array if leaf.layer is None else array[leaf.layer]

    scores = score("magnitude", Subject(model, read), ["encoder/heads", "decoder/heads"])
    assert scores["decoder/heads"].shape == ((4,) if kind == "t5" else (4, 4))
    assert np.all(np.argmax(scores["decoder/heads"], axis=-1) == 1)
    everything = sum(
        np.sum(np.square(array.astype(np.float64)))
        for path, array in jax.tree_util.tree_leaves_with_path(params["decoder"])
        if ("attention" in str(path) and "kernel" in str(path)) or "relpos" in str(path)
    )
    assert scores["decoder/heads"].sum() == pytest.approx(everything)


def test_random_heads_fit():
    model = model_of(CONFIGS["t5"])
    selection = drawn(model.axes, targets_of(model.axes, {"heads": 2}), 1)
    plan = Plan(model.config.to_dict(), "", selection.keep)
    assert pruned_model(plan).config.num_heads == 2
    assert pruned_model(plan).axes.sizes["decoder/joined_kv"] == 12
