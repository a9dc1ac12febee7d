"""The network: layouts and meshes that must agree, windows, the cache, T5X's contract, counts."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.inspect import sizes
from openba_jax.models.counting import parameter_count
from openba_jax.models.registry import model_of, named_config
from openba_jax.models.t5gemma.config import GLOBAL, LOCAL
from openba_jax.nn.attention import AttentionMask
from openba_jax.nn.attention_kernels.base import Kernel
from openba_jax.nn.attention_kernels.registry import KERNELS

CONFIG = named_config("tiny_t5gemma_unbalanced")
CONFIGS = {
    "published": CONFIG,
    "other": CONFIG.replace(
        tie_embeddings=False,
        attention_bias=True,
        attention_softcap=0.0,
        final_softcap=0.0,
        decoder_layer_types=(GLOBAL, LOCAL, LOCAL),
    ),
}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def params_of(config):
    """Random parameters; norms and biases, too."""
    rng = np.random.default_rng(0)
    shapes = model_of(config).abstract_params()
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape, scale=0.2), s.dtype), shapes)


def tokens(seed, batch, length):
    return jax.random.randint(jax.random.key(seed), (batch, length), 3, CONFIG.vocab_size)


def logits(config, params, *arguments):
    def apply(params):
        module = model_of(config).module
        return module.apply({"params": params}, *arguments, enable_dropout=False)

    return np.asarray(jax.jit(apply)(params))


def unrolled(params, config):
    params = dict(params)
    for stack, depth in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        parts = dict(params[stack])
        layers = parts.pop("layers")
        for i in range(depth):
            parts[f"layers_{i}"] = jax.tree.map(lambda x, i=i: x[i], layers)
        params[stack] = parts
    return params


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("t5gemma_s", 312_517_632),
        ("t5gemma_b", 591_490_560),
        ("t5gemma_ml", 2_200_345_344),
        ("t5gemma_xl", 3_766_980_608),
        ("t5gemma_9b_2b", 12_292_375_296),
        ("t5gemma_9b_9b", 20_333_401_088),
    ],
)
def test_published_counts(name, count):
    assert parameter_count(model_of(named_config(name))) == count


def test_sizes_are_printed_stack_by_stack():
    (row,) = sizes.rows(["t5gemma_9b_2b"], 570, 380)
    assert row[2:7] == ["42+26", "3,584+2,304", "16/8x256+8/4x256", "14,336+9,216", "256,000"]


def test_scanned_and_unrolled_agree(config):
    params = params_of(config)
    batch = tokens(1, 2, 30), tokens(2, 2, 25)
    expected = logits(config, params, *batch)
    other = config.replace(scan_layers=False, remat_policy="full")
    np.testing.assert_allclose(logits(other, unrolled(params, config), *batch), expected, atol=2e-5)


def test_every_parameter_learns(config):
    model = model_of(config)
    batch = {"encoder_input_tokens": tokens(1, 2, 4), "decoder_input_tokens": tokens(2, 2, 4)}

    def loss(params):
        return jnp.sum(jnp.sin(model.head(params).logits(model.hidden(params, batch))))

    for path, gradient in jax.tree_util.tree_leaves_with_path(
        jax.jit(jax.grad(loss))(params_of(config))
    ):
        # A bias on keys shifts all scores of a query alike: nothing rotates in cross-attention, and
        # no bound bends the scores of this configuration.
        names = [part.key for part in path]
        if "cross_attention" in names and names[-2:] == ["key", "bias"]:
            continue
        assert np.any(gradient), path


def reach(mask, length):
    """How far each query sees to the left and to the right, in the middle of a long row."""
    seen = np.flatnonzero(np.asarray(mask.dense(length, length))[0, 0, length // 2])
    return length // 2 - seen.min(), seen.max() - length // 2


def test_windows_are_those_of_transformers(monkeypatch):
    """`kv > q - window` in the decoder; `abs(q - kv) <= window` in the encoder."""
    masks = []

    def kernel(query, key, value, mask, scores):
        masks.append(mask)
        return query

    monkeypatch.setitem(KERNELS, "spy", Kernel(kernel))
    windows = {"encoder_sliding_window": 5, "decoder_sliding_window": 7}
    config = CONFIG.replace(scan_layers=False, attention="spy", **windows)
    module = model_of(config).module
    batch = tokens(1, 1, 40), tokens(2, 1, 40)
    module.init(jax.random.key(0), *batch, enable_dropout=False)
    encoder, decoder = masks[:4], [mask for mask in masks[4:] if mask.causal]
    encoder = [AttentionMask(window=mask.window) for mask in encoder]
    assert [reach(mask, 40) for mask in encoder] == [(5, 5), (20, 19)] * 2
    assert [reach(mask, 40) for mask in decoder] == [(6, 0), (20, 0), (6, 0)]
    # Cross-attention is global.
    assert all(mask.window is None for mask in masks[4:] if not mask.causal)


def test_prompts_of_several_lengths_are_read_at_once():
    config, model, params = CONFIG, model_of(CONFIG), params_of(CONFIG)
    inputs, prompts = tokens(1, 2, 6), tokens(2, 2, 14)
    expected = logits(config, params, inputs, prompts)
    encoded = jax.jit(model.encode)(params, inputs)

    @functools.partial(jax.jit, static_argnames=("max_decode_length", "prefill"))
    def decode(variables, tokens, **arguments):
        return model.module.apply(
            {"params": params, **variables}, encoded, inputs, tokens,
            enable_dropout=False, decode=True, mutable=["cache"], method="decode", **arguments,
        )  # fmt: skip

    _, made = decode({}, prompts[:, :1], max_decode_length=14)
    _, read = decode(made, prompts, prefill=True, prefill_lengths=jnp.array([11, 13]))
    found, _ = decode(read, jnp.stack([prompts[0, 11:12], prompts[1, 13:14]]))
    np.testing.assert_allclose(found[0, 0], expected[0, 11], atol=2e-5)
    np.testing.assert_allclose(found[1, 0], expected[1, 13], atol=2e-5)


def test_t5x_contract_of_cache_and_initialisation(config):
    model = model_of(config)
    ones = jnp.ones((2, 6), jnp.float32)  # T5X initialises with float32 tokens.

    def make(rng):
        variables = model.module.init(rng, ones, ones, ones, decode=False)
        return model.module.apply(
            variables, ones, ones, ones, decode=True, mutable=["cache"], enable_dropout=False
        )[1]

    made = jax.eval_shape(make, jax.random.key(0))
    assert set(made["cache"]) == {"decoder"}
    cache = made["cache"]["decoder"]["layers"]["self_attention"]
    assert cache["cache_index"].shape == (3,)
    assert cache["cached_key"].shape == (3, 2, 2, 6, 10)
    fixed = model.split_cache(made["cache"]).fixed
    assert list(fixed["decoder"]["layers"]) == ["cross_attention"]


def test_dropout_needs_a_key_and_repeats_with_it():
    model = model_of(CONFIG.replace(dropout_rate=0.2, attention_dropout_rate=0.2))
    params = params_of(CONFIG)
    batch = {"encoder_input_tokens": tokens(1, 2, 4), "decoder_input_tokens": tokens(2, 2, 4)}
    hidden = jax.jit(model.hidden)
    once, again, other = (hidden(params, batch, jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert np.any(once != other)
    assert np.any(once != hidden(params, batch))


def test_embeddings_are_scaled_by_a_rounded_root():
    config = CONFIG.replace(scan_layers=False, dtype="bfloat16", encoder_embed_dim=54)
    params, ids = params_of(config), jnp.array([[5, 9, 11]])
    entered = []

    def watch(call, arguments, options, context):
        if context.module.name == "layers_0" and not entered:
            entered.append(arguments[0])
        return call(*arguments, **options)

    with nn.intercept_methods(watch):
        model_of(config).module.apply(
            {"params": params}, ids, method="encode", enable_dropout=False
        )
    rows = params["encoder"]["token_embedder"]["embedding"][ids].astype(jnp.bfloat16)
    root = jnp.asarray(54**0.5, jnp.bfloat16)
    assert float(root) != 54**0.5
    np.testing.assert_array_equal(entered[0], rows * root)


@pytest.mark.parametrize("lengths", [(96, 48), (96, 96)])
def test_flops_agree_with_the_compiler(lengths):
    # Windows that nothing exceeds: the compiler counts what a mask hides.
    wide = {f"{stack}_sliding_window": 4096 for stack in ("encoder", "decoder")}
    widths = {"encoder_embed_dim": 192, "decoder_embed_dim": 128, "encoder_head_dim": 32}
    widths |= {"decoder_head_dim": 32, "encoder_mlp_dim": 384, "decoder_mlp_dim": 256}
    model = model_of(CONFIG.replace(scan_layers=False, vocab_size=2048, **wide, **widths))
    shapes = (jax.ShapeDtypeStruct((1, n), jnp.int32) for n in lengths)
    compiled = (
        jax.jit(lambda p, e, d: model.module.apply({"params": p}, e, d, enable_dropout=False))
        .lower(model.abstract_params(), *shapes)
        .compile()
    )
    counted, found = model.forward_flops(*lengths), compiled.cost_analysis()["flops"]
    # The compiler counts whole causal scores, softmax, norms and rotations, too.
    assert counted == pytest.approx(found, rel=0.1)
    assert counted < found


def test_local_layers_cost_what_they_see():
    local, everywhere = (
        model_of(CONFIG.replace(encoder_layer_types=(kind,) * 4, decoder_layer_types=(kind,) * 3))
        for kind in (LOCAL, GLOBAL)
    )
    length, reach = 50, 8
    distance = np.abs(np.arange(length)[:, None] - np.arange(length))
    hidden = (distance > reach).sum()
    before = np.tril(distance >= reach).sum()
    saved = everywhere.forward_flops(length, length) - local.forward_flops(length, length)
    assert saved == 4 * (4 * 48 * hidden + 3 * 40 * before)
    # A step within the window costs the same, and one beyond it no more than the window.
    assert local.decode_flops(9, 7) == everywhere.decode_flops(9, 7)
    assert local.decode_flops(9, 20) == local.decode_flops(9, 7)
    per_key = 4 * 40 * 3
    assert everywhere.decode_flops(9, 21) - everywhere.decode_flops(9, 20) == per_key
    assert local.decode_flops(10, 20) - local.decode_flops(9, 20) == per_key
    e, a, k = 32, 40, 20
    bare = 2 * (3 * (4 * e * a + 2 * e * k + 3 * e * 64) + 512 * e)
    assert everywhere.decode_flops(0, -1) == bare


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("encoder_num_heads", 4), ("decoder_head_dim", 5), ("encoder_layers", 0)),
        *(
            ("decoder_layer_types", ("global",) * 3),
            ("decoder_layer_types", (LOCAL,)),
            ("final_softcap", -1.0),
            ("start_id", 512),
        ),
        *(("eos_ids", (7,)), ("encoder_sliding_window", 0), ("rms_norm_epsilon", 0.0)),
    ],
)
def test_impossible_values_are_named(field, value):
    with pytest.raises(UserError, match=field):
        CONFIG.replace(**{field: value})


def test_types_of_layers_are_spelt_out():
    assert CONFIG.decoder_layer_types == (LOCAL, GLOBAL, LOCAL)
    deeper = CONFIG.replace(decoder_layers=4, decoder_layer_types=[])
    assert deeper.decoder_layer_types == (LOCAL, GLOBAL, LOCAL, GLOBAL)


def test_sharded_is_unsharded():
    program = Path(__file__).parent / "t5gemma_on_mesh.py"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    run = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
