from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_run import toy_model

from openba_jax.errors import UserError
from openba_jax.training.optimizer import adamw, decay_mask, warmup_constant, warmup_cosine


def original(step: int, peak: float, minimum: float, warmup: int, decay: int) -> float:
    """The original's schedule, as docs/original.md#training gives it."""
    if warmup > 0 and step <= warmup:
        return peak * step / warmup
    if step > decay:
        return minimum
    ratio = (step - warmup) / (decay - warmup)
    return minimum + (peak - minimum) * (1 + math.cos(math.pi * ratio)) / 2


@pytest.mark.parametrize("numbers", [(2e-5, 1e-5, 1000, 22_500), (4e-5, 1e-5, 0, 25_000)])
def test_cosine_is_the_originals(numbers: tuple[float, float, int, int]) -> None:
    schedule = warmup_cosine(*numbers)
    for step in (0, 1, 500, 999, 1000, 1001, 12_000, 22_499, 22_500, 25_000, 10**6):
        assert float(schedule(step)) == pytest.approx(original(step, *numbers), rel=1e-5, abs=1e-12)


def test_constant_stays_after_the_warm_up() -> None:
    schedule = warmup_constant(7e-6, 500)
    rates = [float(schedule(step)) for step in (0, 250, 500, 10**6)]
    assert rates == pytest.approx([0, 3.5e-6, 7e-6, 7e-6], rel=1e-6)
    assert float(warmup_constant(7e-6)(0)) == pytest.approx(7e-6, rel=1e-6)


def test_decay_must_end_after_the_warm_up() -> None:
    with pytest.raises(UserError, match="decay_steps is 10 and warmup_steps 10"):
        warmup_cosine(1.0, 0.1, 10, 10)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_only_kernels_and_the_embedding_decay(scan_layers: bool) -> None:
    params = toy_model(scan_layers=scan_layers, mlp_bias=True).abstract_params()
    for path, decays in jax.tree.leaves_with_path(decay_mask(params)):
        name = path[-1].key
        assert decays == (name in ("kernel", "embedding")), jax.tree_util.keystr(path)
        assert decays or name in ("bias", "scale")


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_two_steps_by_hand(scale: float) -> None:
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
    gradients = [{k: scale * rng.normal(size=v.shape) for k, v in params.items()} for _ in range(2)]
    rates, b1, b2, eps, decay, max_norm = [1e-2, 3e-2], 0.9, 0.95, 1e-8, 0.1, 1.0

    transformation = adamw(lambda step: jnp.asarray(rates)[step], b1, b2, eps, decay, max_norm)[0]
    actual = jax.tree.map(jnp.asarray, params)
    state = transformation.init(actual)
    m, v = ({k: np.zeros_like(p) for k, p in params.items()} for _ in range(2))
    for t, gradient in enumerate(gradients, 1):
        updates, state = transformation.update(jax.tree.map(jnp.asarray, gradient), state, actual)
        actual = optax.apply_updates(actual, updates)
        norm = math.sqrt(sum((g**2).sum() for g in gradient.values()))
        assert (norm > max_norm) == (scale == 10.0)
        for k, g in gradient.items():
            g = g * min(1.0, max_norm / norm)
            m[k] = b1 * m[k] + (1 - b1) * g
            v[k] = b2 * v[k] + (1 - b2) * g**2
            direction = m[k] / (1 - b1**t) / (np.sqrt(v[k] / (1 - b2**t)) + eps)
            decayed = decay * params[k] if k == "kernel" else 0.0
            params[k] = params[k] - rates[t - 1] * (direction + decayed)
    for k in params:
        np.testing.assert_allclose(actual[k], params[k], rtol=1e-5, atol=1e-6)
