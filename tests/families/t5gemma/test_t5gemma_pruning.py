"""Pruning: masked is sliced along every axis, types of layers stay with their layers."""

import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.checkpoints.checkpoint import load_tree
from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.registry import open_checkpoint
from openba_jax.models.registry import model_of
from openba_jax.models.t5gemma import network
from openba_jax.models.t5gemma.config import GLOBAL, LOCAL, T5GemmaConfig
from openba_jax.nn.layers import RMSNorm
from openba_jax.pruning.apply import PrunedCheckpoint, prune_checkpoint
from openba_jax.pruning.criteria.base import Subject
from openba_jax.pruning.criteria.registry import score
from openba_jax.pruning.plan import Plan, pruned_model, relative
from openba_jax.pruning.stages import Stage, apply_stage
from openba_jax.pruning.transform import mask, take

CONFIG = T5GemmaConfig(
    vocab_size=16,
    encoder_embed_dim=12,
    encoder_num_heads=4,
    encoder_num_kv_heads=2,
    encoder_head_dim=4,
    encoder_mlp_dim=6,
    encoder_layers=4,
    encoder_sliding_window=2,
    decoder_embed_dim=8,
    decoder_num_heads=6,
    decoder_num_kv_heads=3,
    decoder_head_dim=2,
    decoder_mlp_dim=5,
    decoder_layers=3,
    decoder_sliding_window=2,
    attention_softcap=2.0,
    final_softcap=5.0,
    tie_embeddings=False,
    attention_bias=True,
)
MODEL = model_of(CONFIG)
AXES = MODEL.logical_axes()
ENCODER_EMBED, DECODER_EMBED = (0, 1, 2, 3, 5, 6, 7, 11), (1, 2, 3, 5, 6, 7)
KEPT = {12: ENCODER_EMBED, 8: DECODER_EMBED}
ENCODER_TOKENS = jnp.asarray([[3, 4, 5, 9, 2, 1, 7, 11], [7, 8, 11, 1, 0, 0, 0, 0]])
DECODER_TOKENS = jnp.asarray([[0, 5, 9, 10, 3, 4], [2, 2, 3, 3, 8, 9]])
KEEPS = {
    "layers": {"encoder/layers": (0, 2, 3), "decoder/layers": (1, 2)},
    "encoder embed": {"encoder/embed": ENCODER_EMBED},
    "decoder embed": {"decoder/embed": DECODER_EMBED},
    "groups": {
        "encoder/kv_heads": ((0,), (1,), (1,), (0,)),
        "decoder/kv_heads": ((0, 2), (1, 2), (0, 1)),
    },
    "heads": {"encoder/heads": (1, 2), "decoder/heads": ((0, 2, 4), (1, 3, 5), (1, 2, 5))},
    "mlp": {"encoder/mlp": (0, 4, 5), "decoder/mlp": ((0, 1), (2, 3), (1, 4))},
}
KEEPS["everything"] = {
    key: kept for name, keep in KEEPS.items() if name != "groups" for key, kept in keep.items()
}


def random_params(model):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape.shape, scale=0.4).astype(shape.dtype),
        model.abstract_params(),
    )


PARAMS = random_params(MODEL)


def logits(model, params, encoder=ENCODER_TOKENS, decoder=DECODER_TOKENS):
    # A function of its own, so that nothing traced before is used again.
    def apply(params):
        return model.module.apply({"params": params}, encoder, decoder, enable_dropout=False)

    return np.asarray(jax.jit(apply)(params))


@pytest.fixture(scope="module")
def unpruned():
    return logits(MODEL, PARAMS)


def kept_norm(keep):
    """An RMS norm whose mean is that of the kept channels; the others are zero."""

    class KeptRMSNorm(RMSNorm):
        @nn.compact
        def __call__(self, inputs):
            width = inputs.shape[-1]
            scale = self.param("scale", nn.initializers.zeros, (width,))
            key = {12: "encoder/embed", 8: "decoder/embed"}[width]
            kept = jnp.zeros(width, bool).at[jnp.asarray(keep.get(key, range(width)))].set(True)
            mean = jnp.mean(jnp.square(inputs), axis=-1, keepdims=True, where=kept)
            return inputs / jnp.sqrt(mean + self.epsilon) * (scale + self.offset)

    return KeptRMSNorm


@pytest.mark.parametrize("name", KEEPS)
def test_sliced_equals_masked(name, unpruned, monkeypatch):
    plan = Plan(CONFIG.to_dict(), "", KEEPS[name])
    keep = relative(plan, Plan.identity(MODEL, ""))
    pruned = pruned_model(plan)
    small = logits(pruned, take(PARAMS, AXES, keep))
    large = mask(PARAMS, AXES, keep)
    monkeypatch.setattr(network, "RMSNorm", kept_norm(keep))
    for stack, width in (("encoder", 12), ("decoder", 8)):
        # Like the norms, the scale of embeddings follows the width that is left.
        ratio = math.sqrt(len(keep.get(f"{stack}/embed", range(width))) / width)
        large[stack]["token_embedder"]["embedding"] *= np.float32(ratio)
    np.testing.assert_allclose(small, logits(MODEL, large), atol=2e-5, rtol=1e-5)
    assert np.abs(small - unpruned).max() > 0.01
    # Written down and read again it is the same plan, types of layers included.
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_every_axis_that_can_be_cut_is_tested():
    tested = {key for keep in KEEPS.values() for key in keep}
    assert tested == set(MODEL.axes.keys) - {"vocab"}


def test_kept_tokens_have_the_same_logits_after_the_vocabulary_is_cut(unpruned):
    rows = (0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 11)
    plan = Plan(CONFIG.replace(eos_ids=(1, 12)).to_dict(), "", {"vocab": rows})
    new_id = jnp.asarray([rows.index(i) if i in rows else -1 for i in range(16)])
    small = logits(
        pruned_model(plan),
        take(PARAMS, AXES, plan.keep),
        new_id[ENCODER_TOKENS],
        new_id[DECODER_TOKENS],
    )
    np.testing.assert_allclose(small, unpruned[..., list(rows)], atol=1e-5)
    assert pruned_model(plan).config.eos_ids == (1,)


def test_layers_keep_their_types():
    plan = Plan.identity(MODEL, "").drop_layers({"encoder": [1], "decoder": [0]})
    config = pruned_model(plan).config
    assert CONFIG.encoder_layer_types == (LOCAL, GLOBAL, LOCAL, GLOBAL)
    assert config.encoder_layer_types == (LOCAL, LOCAL, GLOBAL)
    assert config.decoder_layer_types == (GLOBAL, LOCAL)
    # Again, counted in the ancestor.
    config = pruned_model(plan.drop_layers({"encoder": [2]})).config
    assert config.encoder_layer_types == (LOCAL, GLOBAL)


@pytest.mark.parametrize("scanned", [True, False], ids=["scanned", "unrolled"])
def test_a_cut_checkpoint_holds_what_the_transform_takes(make_source, scanned):
    model = MODEL.replace(scan_layers=scanned)
    source, parent = make_source(model.config), Plan.identity(model, "root")
    sizes = {"encoder/embed": 8, "decoder/embed": 6, "encoder/kv_heads": 1, "decoder/kv_heads": 2}
    sizes |= {"encoder/heads": 2, "decoder/heads": 4, "mlp": 3}
    stage = Stage("cut", drop_encoder=(1,), drop_decoder=(2,), sizes=sizes, method="magnitude")

    def scorer(method, keys):
        return score(method, Subject(model, source.read), keys)

    child = apply_stage(stage, parent, scorer=scorer)
    cut = PrunedCheckpoint(source, child, parent)
    expected = take(load_tree(source), model.logical_axes(), relative(child, parent))
    jax.tree.map(np.testing.assert_array_equal, load_tree(cut), expected)
    assert cut.model.axes.sizes["encoder/embed"] == 8
    assert cut.model.axes.sizes["decoder/embed"] == 6


def test_a_folder_of_hugging_face_is_cut_and_written_back(make_source, tmp_path):
    source = make_source(CONFIG.replace(decoder_embed_dim=12, tie_embeddings=True))
    (tmp_path / "whole").mkdir()
    HuggingFace().write(source, tmp_path / "whole")
    stage = Stage("cut", drop_encoder=(1,), drop_decoder=(0,), mlp=4, method="magnitude")
    prune_checkpoint(tmp_path / "whole", tmp_path / "cut", stage)
    cut = open_checkpoint(tmp_path / "cut")
    assert cut.model.config.decoder_layer_types == (GLOBAL, LOCAL)
    (tmp_path / "back").mkdir()
    HuggingFace().write(cut, tmp_path / "back")
    fields = json.loads((tmp_path / "back" / "config.json").read_text())
    assert fields["encoder"]["layer_types"] == [LOCAL, LOCAL, GLOBAL]
    assert fields["decoder"]["layer_types"] == [GLOBAL, LOCAL]
    back = open_checkpoint(tmp_path / "back")
    jax.tree.map(np.testing.assert_array_equal, load_tree(back), load_tree(cut))
