"""Any network whose parameters name their axes in `params_axes` is cut."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("t5x.models", reason="T5X is not importable; see docs/t5x.md")

from flax.linen import partitioning as flax_partitioning
from t5x.examples.t5 import network as stock_network

from openba_jax.errors import UserError
from openba_jax.t5x.pruning import take_with_params_axes


class Toy(nn.Module):
    """An embedding and residual layers of units."""

    embed: int = 6
    units: int = 8
    layers: int = 3

    @nn.compact
    def __call__(self, tokens):
        def param(name, shape, axes):
            normal = nn.initializers.normal(0.5)
            return flax_partitioning.param_with_axes(name, normal, shape, axes=axes)

        x = param("embedding", (10, self.embed), ("vocab", "embed"))[tokens]
        for number in range(self.layers):
            x = x + Layer(self.units, name=f"layers_{number}")(x)
        return x


class Layer(nn.Module):
    units: int

    @nn.compact
    def __call__(self, x):
        def param(name, shape, axes):
            normal = nn.initializers.normal(0.5)
            return flax_partitioning.param_with_axes(name, normal, shape, axes=axes)

        embed = x.shape[-1]
        hidden = nn.relu(x @ param("up", (embed, self.units), ("embed", "mlp")))
        return hidden @ param("down", (self.units, embed), ("mlp", "embed"))


def test_a_toy_network():
    tokens = jnp.arange(10)
    variables = Toy().init(jax.random.key(0), tokens)
    units = [[0, 3], [1, 2], [5, 7]]
    cut = take_with_params_axes(variables, {"layers": [0, 2], "mlp": units})
    zeroed = jax.tree.map(jnp.copy, variables["params"])
    zeroed["layers_1"]["down"] *= 0
    for number in (0, 2):
        dropped = [unit for unit in range(8) if unit not in units[number]]
        down = zeroed[f"layers_{number}"]["down"]
        zeroed[f"layers_{number}"]["down"] = down.at[jnp.array(dropped)].set(0)
    expected = Toy().apply({"params": zeroed}, tokens)
    found = Toy(units=2, layers=2).apply({"params": cut["params"]}, tokens)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    fresh = Toy(units=2, layers=2).init(jax.random.key(0), tokens)
    assert jax.tree.map(jnp.shape, cut["params"]) == jax.tree.map(jnp.shape, fresh["params"])
    assert cut["params_axes"] == fresh["params_axes"]


def test_the_stock_network_of_t5():
    sizes = {
        "vocab_size": 32, "emb_dim": 12, "num_heads": 4, "num_encoder_layers": 2,
        "num_decoder_layers": 3, "head_dim": 6, "mlp_dim": 10, "logits_via_embedding": True,
    }  # fmt: skip
    tokens = jnp.asarray([[4, 7, 9, 1]])

    def network(**changes):
        config = stock_network.T5Config(**{**sizes, **changes})
        return stock_network.Transformer(config)

    def logits(network, params):
        return network.apply({"params": params}, tokens, tokens, tokens, enable_dropout=False)

    variables = network().init(jax.random.key(0), tokens, tokens, tokens, enable_dropout=False)
    heads = {"encoder/heads": [0, 1, 3], "decoder/heads": [1, 2, 3]}
    keep = {"mlp": [0, 2, 5], "decoder/layers": [0, 2], **heads}
    cut = take_with_params_axes(variables, keep, joined={"joined_kv": ("heads", 6)})
    small = network(num_heads=3, mlp_dim=3, num_decoder_layers=2)
    found = logits(small, cut["params"])
    fresh = small.init(jax.random.key(1), tokens, tokens, tokens, enable_dropout=False)
    assert cut["params_axes"] == fresh["params_axes"]
    # The large network without what was cut.
    params = jax.tree.map(jnp.copy, variables["params"])
    for stack, dropped in (("encoder", 2), ("decoder", 0)):
        for name, layer in params[stack].items():
            if not name.startswith("layers_"):
                continue
            gone = 0.0 if (stack, name) == ("decoder", "layers_1") else 1.0
            for part in ("attention", "self_attention", "encoder_decoder_attention"):
                if part in layer:
                    out = layer[part]["out"]["kernel"] * gone
                    rows = slice(6 * dropped, 6 * dropped + 6)
                    layer[part]["out"]["kernel"] = out.at[rows].set(0)
            kept = jnp.zeros((10, 1)).at[jnp.array([0, 2, 5])].set(gone)
            layer["mlp"]["wo"]["kernel"] *= kept
    np.testing.assert_allclose(found, logits(network(), params), atol=1e-5)


def test_mistakes_are_named():
    variables = Toy().init(jax.random.key(0), jnp.arange(3))
    with pytest.raises(UserError, match="no params_axes"):
        take_with_params_axes({"params": variables["params"]}, {})
    with pytest.raises(UserError, match="no axis that heads"):
        take_with_params_axes(variables, {"heads": [0]})
    with pytest.raises(UserError, match="mlp names 8"):
        take_with_params_axes(variables, {"mlp": [8]})
