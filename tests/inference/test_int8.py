"""Weights and caches in eight bits."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.inference.decoding import GREEDY, generate
from openba_jax.inference.int8 import parts_of, summed_axes, with_int8
from openba_jax.inference.loading import PlacedModel, unrolled
from openba_jax.inference.slots import SlotDecoder
from openba_jax.models.axes import flatten
from openba_jax.models.base import DecodingState
from openba_jax.models.registry import families, family, model_of, named_config
from openba_jax.nn.int8 import Int8, quantize
from openba_jax.nn.losses import token_cross_entropy
from openba_jax.parallel.sharding import make_mesh, param_shardings


def test_rounding_is_to_the_nearest_of_255_levels():
    x = jnp.asarray([[0.5, -2.0, 0.017], [0.0, 0.0, 0.0]])
    rounded = quantize(x, (1,))
    np.testing.assert_array_equal(rounded.values, [[32, -127, 1], [0, 0, 0]])
    assert rounded.scale.shape == (2, 1)
    np.testing.assert_allclose(rounded.astype(jnp.float32), x, atol=2.0 / 127 / 2)
    np.testing.assert_array_equal(rounded.T.astype(jnp.float32), rounded.astype(jnp.float32).T)


def placed(config):
    model, mesh = model_of(config), make_mesh()
    shardings = param_shardings(model.logical_axes(), model.abstract_params(), mesh)
    params = jax.jit(model.init, out_shardings=shardings)(jax.random.key(0))
    return PlacedModel(model, params, None, mesh)


def batch_of(model):
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 500, (2, 9)), jnp.int32)
    inputs = tokens.at[1, 6:].set(model.padding)
    return inputs, tokens


@functools.partial(jax.jit, static_argnums=0)
def forced(model, params, inputs, tokens):
    """Float32 logits `[batch, length, vocab]`, token by token with the cache."""
    cache, fixed = model.start_decoding(params, inputs, tokens.shape[1])

    def step(cache, token):
        state = DecodingState(cache, fixed)
        logits, cache = model.decode_step(params, state, inputs, token[:, None])
        return cache, logits[:, 0]

    return jnp.moveaxis(jax.lax.scan(step, cache, tokens.T)[1], 0, 1)


def error(expected, found):
    """Of logits, as a share of their spread."""
    return float(jnp.sqrt(jnp.mean(jnp.square(found - expected))) / jnp.std(expected))


@pytest.mark.parametrize("name", [family.name for family in families()])
def test_logits_of_every_family_stay_close(name):
    config = family(name).largest
    if name != "t5":  # Whose scale of initial values is another one.
        config = config.replace(initializer_std=0.2)
    whole = placed(config)
    inputs, tokens = batch_of(whole.model)
    expected = forced(whole.model, whole.params, inputs, tokens)
    kernels = {p for p in flatten(whole.params) if p.endswith(("/kernel", "/embedding"))}
    small = with_int8(whole, ["weights", "cache"])
    found = forced(small.model, small.params, inputs, tokens)
    assert 0 < error(expected, found) < 0.08
    rounded = {p for p, x in flatten(small.params).items() if isinstance(x, Int8)}
    assert rounded == kernels
    assert all(x.is_deleted() for p, x in flatten(whole.params).items() if p in kernels)


SHALLOW = {"encoder_layers": 1, "decoder_layers": 1, "initializer_std": 0.2}


def test_products_of_integers_are_scaled():
    """What is computed is the product with the rounded weights, and no other rounding."""
    whole = unrolled(placed(named_config("tiny", **SHALLOW)))
    inputs, tokens = batch_of(whole.model)
    small = with_int8(whole, ["weights"])
    params = jax.tree.map(
        lambda x: x.astype(jnp.float32), small.params, is_leaf=lambda x: isinstance(x, Int8)
    )
    expected = forced(small.model, params, inputs, tokens)
    found = forced(small.model, small.params, inputs, tokens)
    assert error(expected, found) < 1e-5
    batch = {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": tokens,
        "decoder_loss_weights": jnp.ones(tokens.shape),
    }
    losses = [
        token_cross_entropy(
            small.model.hidden(p, batch), small.model.head(p), batch, max_chunk_logits=4 * 512
        )[0]
        for p in (params, small.params)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_cache_of_integers_takes_a_quarter_and_serves_slots():
    whole = unrolled(placed(named_config("tiny", head_dim=32, **SHALLOW)))
    small = with_int8(whole, "cache")
    inputs, _ = batch_of(whole.model)
    sizes = []
    for model in (whole.model, small.model):
        state = jax.eval_shape(
            lambda p, x, m=model: m.start_decoding(p, x, 50), whole.params, inputs
        )
        sizes.append(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)))
    assert sizes[1] < 0.3 * sizes[0]
    alone = generate(small.model, small.params, inputs, jax.random.key(0), max_new_tokens=4)
    decoder = SlotDecoder(small.model, small.params, 2, 9, 4)
    for slot, row in enumerate(inputs.tolist()):
        decoder.join(slot, [token for token in row if token], GREEDY)
    in_slots = np.stack([decoder.step() for _ in range(4)], axis=1)
    np.testing.assert_array_equal(in_slots, alone)


def test_other_parts_are_refused():
    with pytest.raises(UserError, match="INT8 has 'activations'; it may have 'weights' and"):
        parts_of("activations")


@pytest.mark.parametrize(
    ("path", "names", "summed"),
    [
        ("encoder/layers/a/query/kernel", ("layers", "embed", "heads", "kv"), (1,)),
        ("encoder/layers/a/out/kernel", ("layers", "heads", "kv", "embed"), (1, 2)),
        ("decoder/layers_0/c/key/kernel", ("encoder/embed", "kv_heads", "kv"), (0,)),
        ("token_embedder/embedding", ("vocab", "embed"), (1,)),
        ("encoder/relpos/rel_embedding", ("heads", "relpos_buckets"), ()),
    ],
)
def test_scales_belong_to_what_is_summed(path, names, summed):
    assert summed_axes(path, names) == summed
