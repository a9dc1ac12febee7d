"""Layers apart: the answers are the same, and where they are not wanted nothing changes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.inference.beam_search import generate_beams
from openba_jax.inference.decoding import generate
from openba_jax.models import layers_apart
from openba_jax.models.base import Model
from openba_jax.models.layers_apart import apart, together
from openba_jax.models.registry import model_of, named_config
from openba_jax.parallel import sharding

FAMILIES = ("tiny", "tiny_t5_1_1", "tiny_llama", "tiny_t5gemma")


@pytest.fixture(autouse=True)
def _fresh_programs() -> Any:
    """What is compiled under one limit is not to serve another."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def _given(name: str) -> tuple[Model, Any, jax.Array]:
    model = model_of(named_config(name))
    params = jax.jit(model.init)(jax.random.key(0))
    return model, params, jax.random.randint(jax.random.key(1), (3, 7), 3, 200)


def _one_device() -> Any:
    return sharding.use_mesh(sharding.make_mesh((1, 1, 1), devices=jax.devices()[:1]))


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_those_of_the_scan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, params, inputs = _given(name)

    def answers() -> list[jax.Array]:
        jax.clear_caches()
        key = jax.random.key(2)
        greedy = generate(model, params, inputs, key, max_new_tokens=6, stop_ids=())
        beams = generate_beams(model, params, inputs, beams=2, max_new_tokens=6)
        return [greedy, beams.sequences]

    with _one_device():
        found = answers()
        monkeypatch.setattr(layers_apart, "DEEPEST", 0)
        for one, other in zip(found, answers(), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cache_is_put_together_as_it_was(name: str) -> None:
    model, params, inputs = _given(name)

    def both(params: Any) -> Any:
        state = model.start_decoding(params, inputs, 4)
        taken, _, (cache, _) = apart(model, params, state)
        assert not taken.config.scan_layers
        return state.cache, together(model, cache)

    with _one_device():
        cache, again = jax.jit(both)(params)
    jax.tree.map(np.testing.assert_array_equal, cache, again)


@pytest.mark.parametrize("why", ["deep", "devices", "apart"])
def test_what_stays_as_it_is(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(named_config("tiny", scan_layers=why != "apart"))
    if why == "deep":
        monkeypatch.setattr(layers_apart, "DEEPEST", model.config.decoder_layers - 1)
    devices = jax.devices()[: 2 if why == "devices" else 1]
    if why == "devices" and len(devices) < 2:
        pytest.skip("needs two devices")
    inputs = jnp.ones((2, 5), jnp.int32)
    params = model.init(jax.random.key(0))
    state = model.start_decoding(params, inputs, 4)
    shape = (len(devices), 1, 1)
    with sharding.use_mesh(sharding.make_mesh(shape, devices=devices)):
        found = apart(model, params, state)
        for one, other in zip(found, (model, params, state), strict=True):
            assert one is other
        assert together(model, state.cache) is state.cache
