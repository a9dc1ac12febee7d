"""The network: layouts that must agree, masks, packing, the T5X contract, the cache."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.models.openba.config import OpenBAConfig
from openba_jax.models.openba.network import OpenBA
from openba_jax.models.registry import load_config, model_of, named_config
from openba_jax.nn.losses import token_cross_entropy

CONFIG = named_config("tiny", initializer_std=0.3)


def _params(config: OpenBAConfig) -> dict[str, Any]:
    return model_of(config).init(jax.random.key(0))


def loss(config: OpenBAConfig, params: Any, batch: Any, rng: Any = None) -> Any:
    model = model_of(config)
    return token_cross_entropy(model.hidden(params, batch, rng), model.head(params), batch)


def _unroll(params: dict[str, Any], config: OpenBAConfig) -> dict[str, Any]:
    """The same parameters, one subtree per layer."""
    params = dict(params)
    for stack, depth in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        parts = dict(params[stack])
        layers = parts.pop("layers")
        for i in range(depth):
            parts[f"layers_{i}"] = jax.tree.map(lambda x, i=i: x[i], layers)
        params[stack] = parts
    return params


def _tokens(seed: int, batch: int, length: int) -> jax.Array:
    return jax.random.randint(jax.random.key(seed), (batch, length), 3, CONFIG.vocab_size)


def _logits(config: OpenBAConfig, params: dict[str, Any], *tokens: Any, **kwargs: Any) -> jax.Array:
    return OpenBA(config).apply({"params": params}, *tokens, enable_dropout=False, **kwargs)


def test_every_axis_of_every_parameter_has_a_name() -> None:
    axes = model_of(CONFIG).logical_axes()
    shapes = model_of(CONFIG).abstract_params()
    sizes = {
        "vocab": CONFIG.vocab_size,
        "embed": CONFIG.embed_dim,
        "heads": CONFIG.num_heads,
        "kv": CONFIG.head_dim,
        "mlp": CONFIG.mlp_dim,
    }

    def check(path: Any, shape: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> None:
        depth = CONFIG.encoder_layers if path[0].key == "encoder" else CONFIG.decoder_layers
        assert shape.shape == tuple({**sizes, "layers": depth}[name] for name in names)

    jax.tree_util.tree_map_with_path(check, shapes, axes)


def test_initial_scales() -> None:
    config = named_config("small")
    params = _params(config)
    std = config.initializer_std
    layers = params["decoder"]["layers"]
    assert np.std(params["token_embedder"]["embedding"]) == pytest.approx(std, rel=0.05)
    assert np.std(layers["cross_attention"]["key"]["kernel"]) == pytest.approx(std, rel=0.05)
    # Outputs shrink with the depth of the ENCODER, in both stacks.
    small = std / np.sqrt(2 * config.encoder_layers)
    assert np.std(layers["mlp"]["wo"]["kernel"]) == pytest.approx(small, rel=0.05)
    assert np.std(layers["self_attention"]["out"]["kernel"]) == pytest.approx(small, rel=0.05)
    assert not np.any(params["logits_dense"]["bias"])


@pytest.mark.parametrize("remat_policy", ["none", "minimal", "full"])
def test_scanned_unrolled_and_rematerialised_agree(remat_policy: str) -> None:
    params = _params(CONFIG)
    encoder, decoder = _tokens(1, 2, 7), _tokens(2, 2, 5)
    expected = _logits(CONFIG, params, encoder, decoder)
    batch = {
        "encoder_input_tokens": encoder,
        "decoder_input_tokens": decoder,
        "decoder_target_tokens": decoder,
        "decoder_loss_weights": jnp.ones(decoder.shape),
    }
    grad = jax.grad(lambda p, c: loss(c, p, batch)[0])
    config = CONFIG.replace(scan_layers=False, remat_policy=remat_policy)
    unrolled = _unroll(params, CONFIG)
    np.testing.assert_allclose(_logits(config, unrolled, encoder, decoder), expected, atol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4),
        grad(unrolled, config),
        _unroll(grad(params, CONFIG.replace(remat_policy=remat_policy)), CONFIG),
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_heads_of_every_kind_learn(tied: bool, bias: bool) -> None:
    config = CONFIG.replace(tie_embeddings=tied, logits_bias=bias, qkv_bias=bias, mlp_bias=bias)
    tokens = _tokens(1, 2, 4)
    batch = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": tokens,
        "decoder_loss_weights": jnp.ones(tokens.shape),
    }
    gradients = jax.grad(lambda p: loss(config, p, batch)[0])(_params(config))
    assert ("logits_dense" in gradients) == (bias or not tied)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        # A bias on keys shifts all scores of a query alike: no gradient where nothing rotates.
        if "cross_attention" in str(path) and "'key'" in str(path) and "bias" in str(path):
            continue
        assert np.any(gradient), path


def test_padding_changes_nothing() -> None:
    params = _params(CONFIG)
    encoder, decoder = _tokens(1, 2, 6), _tokens(2, 2, 5)
    expected = _logits(CONFIG, params, encoder, decoder)
    padded = _logits(
        CONFIG, params, jnp.pad(encoder, ((0, 0), (0, 3))), jnp.pad(decoder, ((0, 0), (0, 2)))
    )
    # Sums over more columns are grouped otherwise: rounding, which differs by machine.
    np.testing.assert_allclose(padded[:, :5], expected, atol=1e-4)


def test_padding_on_the_left_changes_nothing() -> None:
    # Rotary positions are relative: real tokens may start anywhere.
    params = _params(CONFIG)
    encoder, decoder = _tokens(1, 2, 6), _tokens(2, 2, 5)
    expected = _logits(CONFIG, params, encoder, decoder)
    padded = _logits(CONFIG, params, jnp.pad(encoder, ((0, 0), (3, 0))), decoder)
    np.testing.assert_allclose(padded, expected, atol=1e-4)


def test_a_later_token_has_no_influence() -> None:
    params = _params(CONFIG)
    encoder, decoder = _tokens(1, 1, 6), _tokens(2, 1, 5)
    changed = decoder.at[0, 3].set(7)
    before, after = (_logits(CONFIG, params, encoder, d) for d in (decoder, changed))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.any(before[:, 3] != after[:, 3])


def test_packed_examples_do_not_see_each_other() -> None:
    params = _params(CONFIG)
    first, second = (_tokens(i, 1, 4) for i in (1, 2))
    first_out, second_out = (_tokens(i, 1, 3) for i in (3, 4))

    def join(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Tokens, segment ids and positions, with one position of padding."""
        tokens = jnp.pad(jnp.concatenate([a, b], 1), ((0, 0), (0, 1)))
        n, m = a.shape[1], b.shape[1]
        segments = jnp.array([[1] * n + [2] * m + [0]])
        return tokens, segments, jnp.array([[*range(n), *range(m), 0]])

    encoder, encoder_segments, encoder_positions = join(first, second)
    decoder, decoder_segments, decoder_positions = join(first_out, second_out)
    packed = _logits(
        CONFIG,
        params,
        encoder,
        decoder,
        None,
        encoder_segments,
        decoder_segments,
        encoder_positions,
        decoder_positions,
    )
    alone_1 = _logits(CONFIG, params, first, first_out)
    alone_2 = _logits(CONFIG, params, second, second_out)
    np.testing.assert_allclose(packed[:, :3], alone_1, atol=1e-5)
    np.testing.assert_allclose(packed[:, 3:6], alone_2, atol=1e-5)


def test_a_row_without_any_token_is_finite() -> None:
    logits = _logits(CONFIG, _params(CONFIG), jnp.zeros((1, 4), jnp.int32), _tokens(1, 1, 3))
    assert np.all(np.isfinite(logits))


def test_dropout_needs_a_key_and_repeats_with_it() -> None:
    config = CONFIG.replace(dropout_rate=0.2, attention_dropout_rate=0.2)
    params = _params(config)
    tokens = _tokens(1, 2, 4)
    batch = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": tokens,
        "decoder_loss_weights": jnp.ones(tokens.shape),
    }
    once, again, other = (loss(config, params, batch, jax.random.key(i))[0] for i in (1, 1, 2))
    assert once == again
    assert once != other
    assert loss(config, params, batch)[0] != once


def test_bfloat16_stays_near_float32() -> None:
    params = _params(CONFIG.replace(initializer_std=0.1))
    encoder, decoder = _tokens(1, 2, 6), _tokens(2, 2, 5)
    exact = _logits(CONFIG, params, encoder, decoder)
    rounded = _logits(CONFIG.replace(dtype="bfloat16"), params, encoder, decoder)
    assert rounded.dtype == jnp.float32
    assert np.linalg.norm(rounded - exact) < 2e-2 * np.linalg.norm(exact)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_t5x_contract_of_cache_and_initialisation(scan_layers: bool) -> None:
    config = CONFIG.replace(scan_layers=scan_layers)
    model = OpenBA(config)
    tokens = jnp.ones((2, 6), jnp.float32)  # T5X initialises with float32 tokens
    variables = model.init(jax.random.key(0), tokens, tokens, tokens, decode=False)
    _, made = model.apply(variables, tokens, tokens, tokens, decode=True, mutable=["cache"],
                          enable_dropout=False)  # fmt: skip
    assert model.scan_layers == scan_layers
    assert set(made["cache"]) == {"decoder"}
    if scan_layers:
        cache = made["cache"]["decoder"]["layers"]["self_attention"]
        assert cache["cached_key"].shape == (3, 2, 4, 6, 8)
        assert cache["cache_index"].shape == (3,)
    else:
        cache = made["cache"]["decoder"]["layers_0"]["self_attention"]
        assert cache["cached_key"].shape == (2, 4, 6, 8)
        assert cache["cache_index"].shape == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("embed_dim", 0), ("encoder_layers", 0), ("head_dim", 7), ("remat_policy", "some")),
        *(("mlp_dim", 32.5), ("num_heads", True), ("tie_embeddings", 1), ("dtype", None)),
        *(("dropout_rate", 1.0), ("attention_dropout_rate", -0.1), ("rope_theta", "x")),
    ],
)
def test_impossible_sizes_are_named(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=field):
        CONFIG.replace(**{field: value})


def test_misspelt_fields_are_named() -> None:
    with pytest.raises(UserError, match="no field embed_dims; did you mean embed_dim"):
        named_config("tiny", embed_dims=3)


def test_config_json_round_trip(tmp_path: Any) -> None:
    import json

    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG.to_dict()))
    assert load_config(path) == CONFIG
    path.write_text(json.dumps({**CONFIG.to_dict(), "hidden": 3}))
    with pytest.raises(UserError, match="hidden"):
        load_config(path)
    with pytest.raises(UserError, match=r"config\.json"):
        load_config(tmp_path / "none" / "config.json")
