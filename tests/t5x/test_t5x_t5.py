"""The family t5 in the bridge to T5X."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("t5x.models", reason="T5X is not importable; see docs/t5x.md")

import t5x_toy
from flax import core
from t5x import decoding as t5x_decoding
from t5x.examples.t5 import network as stock_network

from openba_jax.inference.decoding import generate
from openba_jax.models.registry import named_config
from openba_jax.nn.losses import token_cross_entropy

CONFIG = named_config("tiny_t5_1_1", vocab_size=64, encoder_layers=1, decoder_layers=2)


@pytest.mark.parametrize("name", ["tiny_t5", "tiny_t5_1_1"])
def test_axes_are_those_of_the_stock_network(name):
    config = named_config(name, scan_layers=False)
    model = t5x_toy.model(config=config)
    found = core.unfreeze(model.get_initial_variables(jax.random.key(0), {}))
    stock = stock_network.Transformer(
        stock_network.T5Config(
            vocab_size=config.vocab_size,
            emb_dim=config.embed_dim,
            num_heads=config.num_heads,
            num_encoder_layers=config.encoder_layers,
            num_decoder_layers=config.decoder_layers,
            head_dim=config.head_dim,
            mlp_dim=config.mlp_dim,
            mlp_activations=("gelu", "linear") if config.gated_mlp else ("relu",),
            logits_via_embedding=config.tie_embeddings,
        )
    )
    tokens = jnp.ones((1, 4), jnp.int32)
    expected = core.unfreeze(
        stock.init(jax.random.key(0), tokens, tokens, tokens, enable_dropout=False)
    )
    shapes = jax.tree.map(jnp.shape, found["params"])
    assert shapes == jax.tree.map(jnp.shape, expected["params"])
    assert found["params_axes"] == expected["params_axes"]


def test_loss_and_answers_are_those_of_the_native_runner():
    model = t5x_toy.model(config=CONFIG)
    params = core.unfreeze(model.get_initial_variables(jax.random.key(0), {}))["params"]
    batch = t5x_toy.Batches().batch(0)
    loss, _ = jax.jit(lambda p: model.loss_fn(p, batch, None))(params)
    total, counts = token_cross_entropy(
        model.model.hidden(params, batch), model.model.head(params), batch
    )
    assert loss == pytest.approx(float(total / counts["weight_sum"]), rel=1e-5)
    expected = generate(
        model.model, params, batch["encoder_input_tokens"], jax.random.key(0), max_new_tokens=6
    )
    np.testing.assert_array_equal(jax.jit(model.predict_batch)(params, batch), expected)
    # T5X's own search keeps the cache with the keys and values of both attentions.
    searching = t5x_toy.model(config=CONFIG, decode_fn=t5x_decoding.beam_search, num_decodes=1)
    found = jax.jit(searching.predict_batch)(params, batch)
    ended = np.cumsum(np.asarray(expected) == 1, axis=1) - (np.asarray(expected) == 1)
    same = np.where(ended == 0, np.asarray(found) == np.asarray(expected), True)
    assert same.all()
