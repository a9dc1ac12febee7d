"""The network: layouts and meshes that must agree, packing, the cache, T5X's contract, counts."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.inspect import sizes
from openba_jax.models.counting import parameter_count
from openba_jax.models.registry import model_of, named_config
from openba_jax.models.t5.relative_positions import DistanceBias, distance_buckets

OLD, NEW = named_config("tiny_t5"), named_config("tiny_t5_1_1")
OWN_BIASES = NEW.replace(shared_relpos=False, mlp_activation="silu")
CONFIGS = {"t5": OLD, "own_biases": OWN_BIASES}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def params_of(config):
    """Random parameters; norms and biases, too."""
    rng = np.random.default_rng(0)
    shapes = model_of(config).abstract_params()
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape, scale=0.3), s.dtype), shapes)


def tokens(seed, batch, length):
    return jax.random.randint(jax.random.key(seed), (batch, length), 3, OLD.vocab_size)


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


def batch_of(encoder, decoder):
    return {
        "encoder_input_tokens": encoder,
        "decoder_input_tokens": decoder,
        "decoder_target_tokens": decoder,
        "decoder_loss_weights": jnp.ones(decoder.shape),
    }


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("t5_small", 60_506_624),
        ("t5_base", 222_903_552),
        ("t5_large", 737_668_096),
        ("t5_1_1_base", 247_577_856),
        ("mt5_small", 300_176_768),
        ("mt5_xxl", 12_921_057_280),
    ],
)
def test_published_counts(name, count):
    assert parameter_count(model_of(named_config(name))) == count


def test_the_table_of_sizes_knows_heads_that_are_joined():
    (row,) = sizes.rows(["t5_3b"], 512, 128)
    assert row[1:5] == ["t5", "24+24", "1,024", "32x128"]


def test_scanned_and_unrolled_agree(config):
    params = params_of(config)
    encoder, decoder = tokens(1, 2, 7), tokens(2, 2, 5)
    expected = logits(config, params, encoder, decoder)
    other = config.replace(scan_layers=False, remat_policy="full")
    found = logits(other, unrolled(params, config), encoder, decoder)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_every_parameter_learns(config):
    model = model_of(config)
    batch = batch_of(tokens(1, 2, 4), tokens(2, 2, 4))

    def loss(params):
        hidden = model.hidden(params, batch, None)
        return jnp.sum(jnp.sin(model.head(params).logits(hidden)))

    for path, gradient in jax.tree_util.tree_leaves_with_path(
        jax.jit(jax.grad(loss))(params_of(config))
    ):
        assert np.any(gradient), path


def test_packed_examples_are_as_alone(config):
    params = params_of(config)
    first, second = tokens(1, 1, 4), tokens(2, 1, 5)
    first_out, second_out = tokens(3, 1, 3), tokens(4, 1, 2)

    def join(a, b):
        n, m = a.shape[1], b.shape[1]
        joined = jnp.pad(jnp.concatenate([a, b], 1), ((0, 0), (0, 1)))
        return joined, jnp.array([[1] * n + [2] * m + [0]]), jnp.array([[*range(n), *range(m), 0]])

    encoder, encoder_segments, encoder_positions = join(first, second)
    decoder, decoder_segments, decoder_positions = join(first_out, second_out)
    packed = logits(
        config, params, encoder, decoder, None,
        encoder_segments, decoder_segments, encoder_positions, decoder_positions,
    )  # fmt: skip
    np.testing.assert_allclose(packed[:, :3], logits(config, params, first, first_out), atol=2e-5)
    np.testing.assert_allclose(
        packed[:, 3:5], logits(config, params, second, second_out), atol=2e-5
    )


def test_padding_changes_nothing(config):
    params = params_of(config)
    encoder, decoder = tokens(1, 2, 6), tokens(2, 2, 5)
    expected = logits(config, params, encoder, decoder)
    for side in ((0, 3), (3, 0)):
        found = logits(config, params, jnp.pad(encoder, ((0, 0), side)), decoder)
        np.testing.assert_allclose(found, expected, atol=5e-5)


def test_cached_steps_are_those_without_a_cache(config):
    model, params = model_of(config), params_of(config)
    inputs, targets = tokens(1, 2, 6).at[1, 4:].set(0), tokens(2, 2, 5)
    expected = logits(model.config, params, inputs, targets)
    state = jax.jit(model.start_decoding, static_argnums=2)(params, inputs, 5)
    step = jax.jit(model.decode_step)
    for number in range(5):
        found, cache = step(params, state, inputs, targets[:, number : number + 1])
        state = state._replace(cache=cache)
        np.testing.assert_allclose(found[:, 0], expected[:, number], atol=2e-5)


@pytest.mark.parametrize("name", ["t5", "own_biases"])
def test_prompts_of_several_lengths_are_read_at_once(name):
    config = CONFIGS[name]
    model, params = model_of(config), params_of(config)
    inputs, prompts = tokens(1, 2, 6), tokens(2, 2, 4)
    expected = logits(config, params, inputs, prompts)
    encoded = jax.jit(model.encode)(params, inputs)

    @functools.partial(jax.jit, static_argnames=("max_decode_length", "prefill"))
    def decode(variables, tokens, **arguments):
        return model.module.apply(
            {"params": params, **variables}, encoded, inputs, tokens,
            enable_dropout=False, decode=True, mutable=["cache"], method="decode", **arguments,
        )  # fmt: skip

    _, made = decode({}, prompts[:, :1], max_decode_length=4)
    _, read = decode(made, prompts, prefill=True, prefill_lengths=jnp.array([2, 3]))
    found, _ = decode(read, jnp.stack([prompts[0, 2:3], prompts[1, 3:4]]))
    np.testing.assert_allclose(found[0, 0], expected[0, 2], atol=2e-5)
    np.testing.assert_allclose(found[1, 0], expected[1, 3], atol=2e-5)


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
    assert made["cache"]["decoder"]["layers"]["self_attention"]["cache_index"].shape == (3,)
    fixed = model.split_cache(made["cache"]).fixed
    assert list(fixed["decoder"]["layers"]) == ["encoder_decoder_attention"]


def test_dropout_needs_a_key_and_repeats_with_it():
    model = model_of(NEW.replace(dropout_rate=0.2, attention_dropout_rate=0.2))
    params, batch = params_of(NEW), batch_of(tokens(1, 2, 4), tokens(2, 2, 4))
    hidden = jax.jit(model.hidden)
    once, again, other = (hidden(params, batch, jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert np.any(once != other)
    assert np.any(once != hidden(params, batch))


def test_initial_scales():
    config = named_config("tiny_t5_1_1", embed_dim=128, mlp_dim=256)
    params = jax.jit(model_of(config).init)(jax.random.key(0))
    layers = params["decoder"]["layers"]
    attention = layers["self_attention"]
    for kernel, std in (
        (params["token_embedder"]["embedding"], 1),
        (attention["query"]["kernel"], (128 * 8) ** -0.5),
        (attention["key"]["kernel"], 128**-0.5),
        (attention["out"]["kernel"], 32**-0.5),
        (layers["mlp"]["wo"]["kernel"], 256**-0.5),
    ):
        assert np.std(kernel) == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize(("buckets", "bidirectional"), [((32, 128), True), ((12, 30), False)])
def test_the_square_of_biases_is_that_of_positions(buckets, bidirectional):
    count, max_distance = buckets
    table = jax.random.normal(jax.random.key(0), (3, count))
    bias = DistanceBias(table, max_distance, bidirectional)
    for length in (1, 150):
        places = jnp.arange(length)[None]
        np.testing.assert_allclose(bias.square(length)(places, places), bias(places, places))


def test_buckets():
    # Half are exact; the rest reach ever farther.
    known = distance_buckets(16, 128)
    assert known[:9].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert (known[15], known[16], known[127], known[128]) == (9, 10, 15, 15)
    assert np.all(np.diff(known) >= 0)


@pytest.mark.parametrize("name", ["tiny_t5", "tiny_t5_1_1"])
def test_flops_agree_with_the_compiler(name):
    config = named_config(
        name, scan_layers=False, embed_dim=128, head_dim=32, mlp_dim=256, vocab_size=2048
    )
    model = model_of(config)
    shapes = (jax.ShapeDtypeStruct((1, n), jnp.int32) for n in (128, 64))
    compiled = (
        jax.jit(lambda p, e, d: model.module.apply({"params": p}, e, d, enable_dropout=False))
        .lower(model.abstract_params(), *shapes)
        .compile()
    )
    counted, found = model.forward_flops(128, 64), compiled.cost_analysis()["flops"]
    # The compiler counts whole causal scores, softmax, norms and biases too.
    assert counted == pytest.approx(found, rel=0.1)
    assert counted < found


def test_flops_of_a_step_are_the_difference_of_two_lengths():
    model = model_of(NEW)
    a, e = 32, 32
    per_key = 4 * a * NEW.decoder_layers
    assert model.decode_flops(20, 6) - model.decode_flops(20, 5) == per_key
    assert model.decode_flops(21, 5) - model.decode_flops(20, 5) == per_key
    bare = model.decode_flops(0, -1)
    assert bare == 2 * (NEW.decoder_layers * (6 * e * a + 3 * e * 64) + NEW.vocab_size * e)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("mlp_activation", "tanh"), ("huggingface_type", "umt5"), ("relpos_buckets", 5)),
        *(("relpos_max_distance", 16), ("layer_norm_epsilon", 0.0), ("num_heads", 0)),
    ],
)
def test_impossible_values_are_named(field, value):
    with pytest.raises(UserError, match=field):
        NEW.replace(**{field: value})


def test_sharded_is_unsharded():
    program = Path(__file__).parent / "t5_on_mesh.py"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    run = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["tiny_t5_1_1"]
