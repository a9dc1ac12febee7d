"""Probes: what is observed, for networks scanned, unrolled and rematerialised."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.models.base import Model
from openba_jax.models.registry import model_of, named_config
from openba_jax.nn import probes
from openba_jax.nn.layers import Projection

ENCODER_DECODER = model_of(named_config("tiny"))
DECODER = model_of(named_config("tiny_llama"))


def batch_of(model: Model, rows: int = 2, length: int = 6) -> dict[str, jax.Array]:
    tokens = jax.random.randint(jax.random.key(1), (rows, length), 3, 90)
    batch = {
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": tokens.at[1, 4:].set(0),
        "decoder_loss_weights": jnp.ones((rows, length)),
    }
    if model.layout == "encoder_decoder":
        return {**batch, "encoder_input_tokens": tokens.at[0, 5:].set(0)}
    return {**batch, "decoder_segment_ids": jnp.ones((rows, length), jnp.int32)}


def probe(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> dict[str, jax.Array]:
    if isinstance(module, Projection):
        return {"read": jnp.mean(jnp.abs(arguments[0]), axis=(0, 1))}
    if probes.is_layer(module):
        return {"entered": arguments[0], "left": result[0]}
    return {}


@pytest.mark.parametrize("model", [ENCODER_DECODER, DECODER], ids=["encoder_decoder", "decoder"])
@pytest.mark.parametrize("changes", [{"scan_layers": False}, {"remat_policy": "full"}])
def test_observations_do_not_depend_on_how_layers_run(model: Model, changes: Any) -> None:
    params = model.init(jax.random.key(0))
    batch = batch_of(model)
    hidden, seen = jax.jit(lambda p: model.observe(p, batch, probe))(params)
    np.testing.assert_allclose(hidden, model.hidden(params, batch), rtol=1e-5, atol=1e-5)
    other = model.replace(**changes)
    if not other.config.scan_layers:
        params = _unrolled(params)
    _, also = jax.jit(lambda p: other.observe(p, batch, probe))(params)
    assert seen.keys() == also.keys()
    for name, values in seen.items():
        np.testing.assert_allclose(values, also[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_layer_leaves_what_the_next_one_enters() -> None:
    batch = batch_of(ENCODER_DECODER)
    params = ENCODER_DECODER.init(jax.random.key(0))
    _, seen = ENCODER_DECODER.observe(params, batch, probe)
    entered, left = seen["decoder/layers/entered"], seen["decoder/layers/left"]
    assert len(entered) == ENCODER_DECODER.config.decoder_layers
    np.testing.assert_allclose(entered[1:], left[:-1])
    assert seen["decoder/layers/mlp/wo/read"].shape == (len(entered), 64)


def test_what_reads_the_encoder_output_is_known() -> None:
    memory = []

    def note(module: nn.Module, arguments: Any, result: Any) -> dict[str, jax.Array]:
        if isinstance(module, Projection) and probes.reads_memory(module):
            memory.append(probes.path_of(module))
        return {}

    model = ENCODER_DECODER.replace(scan_layers=False, decoder_layers=1, encoder_layers=1)
    model.observe(model.init(jax.random.key(0)), batch_of(model), note)
    assert memory == [f"decoder/layers/cross_attention/{name}" for name in ("key", "value")]


def test_real_tokens_are_those_that_are_counted() -> None:
    batch = batch_of(ENCODER_DECODER)
    real = ENCODER_DECODER.real_tokens(batch)
    assert {stack: int(r.sum()) for stack, r in real.items()} == {"encoder": 11, "decoder": 10}
    assert int(ENCODER_DECODER.count_tokens(batch)) == 21


def test_a_module_that_is_called_twice_is_no_single_observation() -> None:
    def embeddings(module: nn.Module, arguments: Any, result: Any) -> dict[str, jax.Array]:
        return {"row": result} if module.name == "token_embedder" else {}

    params = ENCODER_DECODER.init(jax.random.key(0))
    with pytest.raises(ValueError, match="token_embedder/row was observed 2 times"):
        ENCODER_DECODER.observe(params, batch_of(ENCODER_DECODER), embeddings)


def _unrolled(params: Any) -> Any:
    """Layers apart: `layers_<n>` for `layers`."""
    apart: dict[str, Any] = {}
    for name, values in params.items():
        if name == "layers":
            count = len(jax.tree.leaves(values)[0])
            for number in range(count):
                apart[f"layers_{number}"] = jax.tree.map(lambda x, n=number: x[n], values)
        else:
            apart[name] = _unrolled(values) if isinstance(values, dict) else values
    return apart
