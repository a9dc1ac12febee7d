"""Parity with `T5Model.prune()` of the original, on its own parameters."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.model import OpenBAModel
from openba_jax.pruning.plan import Plan, pruned_model, relative
from openba_jax.pruning.stages import Stage, apply_stage
from openba_jax.pruning.transform import take

CONFIG = OpenBAConfig(
    vocab_size=128,
    embed_dim=32,
    num_heads=6,
    head_dim=8,
    mlp_dim=48,
    encoder_layers=3,
    decoder_layers=4,
)
MODEL = OpenBAModel(CONFIG)
NORMS = {
    "input_layernorm": "pre_self_attention_layer_norm",
    "encoder/post_attention_layernorm": "pre_mlp_layer_norm",
    "decoder/post_attention_layernorm": "pre_cross_attention_layer_norm",
    "post_inter_attention_layernorm": "pre_mlp_layer_norm",
}
MLP = {"w1": "wi_0", "w3": "wi_1", "w2": "wo"}


def from_megatron(tensors: dict[str, np.ndarray], config: OpenBAConfig) -> dict:
    """The package's tree from Megatron's names and head-interleaved layout."""
    kv = config.head_dim
    flat = {
        "token_embedder/embedding": tensors["language_model.embedding.word_embeddings.weight"],
        "logits_dense/bias": tensors["lm_head.bias"],
    }
    depths = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
    for stack, depth in depths.items():
        top = f"language_model.{stack}"
        for mine, other in (("scale", "weight"), ("bias", "bias")):
            flat[f"{stack}/final_layer_norm/{mine}"] = tensors[f"{top}.final_layernorm.{other}"]

        def layers(name: str, top: str = top, depth: int = depth) -> np.ndarray:
            return np.stack([tensors[f"{top}.layers.{i}.{name}"] for i in range(depth)])

        def projections(
            theirs: str, ours: list[str], block: str, stack: str = stack, layers=layers
        ) -> None:
            weight, bias = layers(f"{theirs}.weight"), layers(f"{theirs}.bias")
            number, _, embed = weight.shape
            weight = weight.reshape(number, -1, len(ours), kv, embed).transpose(2, 0, 4, 1, 3)
            bias = bias.reshape(number, -1, len(ours), kv).transpose(2, 0, 1, 3)
            for name, kernel, offset in zip(ours, weight, bias, strict=True):
                flat[f"{stack}/layers/{block}/{name}/kernel"] = kernel
                flat[f"{stack}/layers/{block}/{name}/bias"] = offset

        projections("self_attention.query_key_value", ["query", "key", "value"], "self_attention")
        blocks = {"self_attention": "self_attention"}
        if stack == "decoder":
            projections("inter_attention.query", ["query"], "cross_attention")
            projections("inter_attention.key_value", ["key", "value"], "cross_attention")
            blocks["inter_attention"] = "cross_attention"
        for theirs, ours in blocks.items():
            out = layers(f"{theirs}.dense.weight").transpose(0, 2, 1)
            flat[f"{stack}/layers/{ours}/out/kernel"] = out.reshape(depth, -1, kv, out.shape[-1])
            flat[f"{stack}/layers/{ours}/out/bias"] = layers(f"{theirs}.dense.bias")
        for theirs, ours in MLP.items():
            kernel = layers(f"mlp.{theirs}.weight").transpose(0, 2, 1)
            flat[f"{stack}/layers/mlp/{ours}/kernel"] = kernel
        for theirs, ours in NORMS.items():
            scope, _, name = theirs.rpartition("/")
            if scope not in ("", stack) or f"{top}.layers.0.{name}.weight" not in tensors:
                continue
            flat[f"{stack}/layers/{ours}/scale"] = layers(f"{name}.weight")
            flat[f"{stack}/layers/{ours}/bias"] = layers(f"{name}.bias")
    return traverse_util.unflatten_dict(flat, sep="/")


@pytest.fixture(scope="module")
def golden(golden_dir) -> Path:
    return golden_dir("prune")


@pytest.fixture(scope="module")
def weights(golden_dir) -> Path:
    return golden_dir("prune", "tp1_before.npz", "tp1_after.npz", "io.npz")


def dropped(facts: dict) -> list[list[int]]:
    return [[int(i) for i in facts[key].split(",")] for key in ("drop_enc", "drop_dec")]


@pytest.fixture(scope="module")
def plan(golden: Path) -> Plan:
    facts = json.loads((golden / "info.json").read_text())["config"]
    masks = np.load(golden / "zs.npz")
    heads = [np.flatnonzero(row).tolist() for row in masks["head_masks"]]
    mlp = [np.flatnonzero(row).tolist() for row in masks["intermediate_masks"]]
    depth = facts["enc"]
    width = Plan.identity(MODEL, "golden").narrow(
        {
            "embed": masks["hidden_index"],
            "encoder/heads": heads[:depth],
            "decoder/heads": heads[depth:],
            "encoder/mlp": mlp[:depth],
            "decoder/mlp": mlp[depth:],
        }
    )
    return width.drop_layers(dict(zip(("encoder", "decoder"), dropped(facts), strict=True)))


def test_parameters_are_exactly_those_of_the_original(weights: Path, plan: Plan) -> None:
    before = from_megatron(dict(np.load(weights / "tp1_before.npz")), CONFIG)
    after = from_megatron(dict(np.load(weights / "tp1_after.npz")), pruned_model(plan).config)
    small = take(before, MODEL.logical_axes(), relative(plan, Plan.identity(MODEL, "golden")))
    small, after = (traverse_util.flatten_dict(tree, sep="/") for tree in (small, after))
    assert small.keys() == after.keys()
    for path in after:
        np.testing.assert_array_equal(small[path], after[path], err_msg=path)


def test_the_seed_draws_the_masks_of_the_original(golden: Path, plan: Plan) -> None:
    facts = json.loads((golden / "info.json").read_text())["config"]
    encoder, decoder = dropped(facts)
    stage = Stage(
        "golden",
        drop_encoder=encoder,
        drop_decoder=decoder,
        embed=facts["hidden_remain"],
        heads=facts["heads_remain"],
        mlp=facts["ffn_remain"],
        seed=facts["seed"],
    )
    assert apply_stage(stage, Plan.identity(MODEL, "golden")).keep == plan.keep


def test_the_small_model_computes_what_the_original_does(weights: Path, plan: Plan) -> None:
    batch = np.load(weights / "io.npz")
    pruned = pruned_model(plan)
    before = from_megatron(dict(np.load(weights / "tp1_before.npz")), CONFIG)
    small = take(before, MODEL.logical_axes(), relative(plan, Plan.identity(MODEL, "golden")))
    for name, model, params in (("before", MODEL, before), ("after", pruned, small)):
        apply = jax.jit(functools.partial(model.module.apply, enable_dropout=False))
        encoder_tokens = batch["input_ids"] * batch["attention_mask"]
        logits = apply({"params": params}, encoder_tokens, batch["decoder_input_ids"])
        real = batch["decoder_attention_mask"] == 1
        expected = batch[f"logits_{name}"]
        np.testing.assert_allclose(np.asarray(logits)[real], expected[real], atol=1e-4, rtol=1e-4)
