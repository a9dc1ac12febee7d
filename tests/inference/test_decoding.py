"""Cached decoding equals uncached decoding; sampling keeps to its rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.errors import UserError
from openba_jax.inference.decoding import Sampling, choose_tokens, generate, warp_logits
from openba_jax.models.base import DecodingState, Model
from openba_jax.models.openba.network import OpenBA
from openba_jax.models.registry import model_of, named_config


def _model(scan_layers: bool = True) -> tuple[Model, dict[str, Any]]:
    model = model_of(named_config("tiny", initializer_std=0.3, scan_layers=scan_layers))
    return model, model.init(jax.random.key(0))


def _inputs() -> jax.Array:
    tokens = jax.random.randint(jax.random.key(1), (3, 7), 3, 500)
    return tokens.at[1, 5:].set(0).at[2, :2].set(0)  # padding on the right and on the left


@pytest.mark.parametrize("scan_layers", [True, False])
def test_greedy_equals_teacher_forcing(scan_layers: bool) -> None:
    model, params = _model(scan_layers)
    inputs = _inputs()
    answer = generate(model, params, inputs, jax.random.key(0), max_new_tokens=9, stop_ids=())
    shifted = jnp.pad(answer[:, :-1], ((0, 0), (1, 0)))
    logits = model.module.apply({"params": params}, inputs, shifted, enable_dropout=False)
    np.testing.assert_array_equal(answer, logits.argmax(-1))


def test_prompts_of_several_lengths_are_filled_in_at_once() -> None:
    model, params = _model()
    module, inputs = model.module, _inputs()
    decoder = jax.random.randint(jax.random.key(2), (3, 6), 3, 500).at[:, 0].set(0)
    lengths = jnp.array([4, 2, 3])
    cache, fixed = model.start_decoding(params, inputs, 6)
    _, filled = module.apply(
        {"params": params, "cache": cache, "encoded": fixed},
        model.encode(params, inputs),
        inputs,
        decoder[:, :4],
        enable_dropout=False,
        decode=True,
        prefill=True,
        prefill_lengths=lengths,
        mutable=["cache"],
        method=OpenBA.decode,
    )
    state = DecodingState(filled["cache"], fixed)
    next_tokens = jnp.take_along_axis(decoder, lengths[:, None], axis=1)
    logits, _ = model.decode_step(params, state, inputs, next_tokens)
    whole = module.apply({"params": params}, inputs, decoder, enable_dropout=False)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(logits[row, 0], whole[row, length], atol=1e-4)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_beams_share_the_projections_of_their_example(scan_layers: bool) -> None:
    model, params = _model(scan_layers)
    inputs = _inputs()  # With padding: masks are shared, too.
    tokens = jax.random.randint(jax.random.key(3), (6, 1), 3, 500)

    def step(inputs: jax.Array, repeats: int) -> jax.Array:
        cache, fixed = model.start_decoding(params, inputs, 4)
        axis = 1 if scan_layers else 0
        cache = jax.tree.map(lambda x: jnp.repeat(x, repeats, axis) if x.ndim > 2 else x, cache)
        return model.decode_step(params, DecodingState(cache, fixed), inputs, tokens)[0]

    np.testing.assert_allclose(step(inputs, 2), step(jnp.repeat(inputs, 2, axis=0), 1), atol=1e-5)


def test_rows_stop_on_their_own() -> None:
    model, params = _model()
    free = np.asarray(
        generate(model, params, _inputs(), jax.random.key(0), max_new_tokens=8, stop_ids=())
    )
    stop = int(free[0, 2])
    stopped = np.asarray(
        generate(model, params, _inputs(), jax.random.key(0), max_new_tokens=8, stop_ids=(stop,))
    )
    first = list(free[0]).index(stop)
    np.testing.assert_array_equal(stopped[0, : first + 1], free[0, : first + 1])
    assert not stopped[0, first + 1 :].any()


def test_sampling_repeats_with_its_key() -> None:
    model, params = _model()

    def draw(seed: int) -> np.ndarray:
        return np.asarray(
            generate(
                model,
                params,
                _inputs(),
                jax.random.key(seed),
                max_new_tokens=8,
                sampling=Sampling(temperature=1.0),
            )
        )

    np.testing.assert_array_equal(draw(1), draw(1))
    assert np.any(draw(1) != draw(2))


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(temperature=1.0, top_k=2), {0, 1}),
        (Sampling(temperature=1.0, top_p=0.6), {0, 1}),
        (Sampling(temperature=1.0, top_p=0.1), {0}),
        (Sampling(temperature=1.0), {0, 1, 2, 3}),
        (Sampling(), {0}),
    ],
)
def test_choice_keeps_to_its_set(sampling: Sampling, allowed: set[int]) -> None:
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    drawn = choose_tokens(jnp.tile(logits, (400, 1)), sampling, jax.random.key(0))
    assert set(np.asarray(drawn).tolist()) == allowed


def test_what_is_drawn_from_is_that_of_transformers() -> None:
    """Which tokens a seed draws differs with the generator; their probabilities do not."""
    io = np.load(Path(__file__).parent / "data" / "sampling.npz")
    for (temperature, top_k, top_p), expected in zip(
        io["settings"], io["probabilities"], strict=True
    ):
        sampling = Sampling(float(temperature), int(top_k), float(top_p))
        found = jax.nn.softmax(warp_logits(jnp.asarray(io["logits"]), sampling), axis=-1)
        np.testing.assert_array_equal(found > 0, expected > 0)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_temperature_sharpens() -> None:
    logits = jnp.tile(jnp.log(jnp.array([0.6, 0.4])), (4000, 1))
    drawn = choose_tokens(logits, Sampling(temperature=0.5), jax.random.key(0))
    assert float(jnp.mean(drawn == 0)) == pytest.approx(0.36 / 0.52, abs=0.03)


@pytest.mark.parametrize(
    "bad",
    [
        *({"temperature": value} for value in (-1.0, 1e-38, float("nan"), float("inf"))),
        {"top_k": -1},
        *({"top_p": value} for value in (0.0, 1.5, float("nan"))),
    ],
)
def test_ranges_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        Sampling(**bad)
