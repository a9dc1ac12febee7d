"""Kernels of attention on four devices against one; a program of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.models.registry import model_of, named_config
from openba_jax.nn.attention import AttentionMask, Scores, xla_attention
from openba_jax.nn.attention_kernels import cudnn, registry, splash
from openba_jax.nn.attention_kernels.base import Kernel, UnsupportedError, on_each_device
from openba_jax.parallel.sharding import jit_on_mesh, make_mesh, param_shardings, use_mesh

MESH = make_mesh((1, 2, 2))
SPLASH = functools.partial(splash.splash_attention, interpret=True)
CUDNN = functools.partial(cudnn.cudnn_attention, implementation="xla")


def a_model():
    """Gradients through scanned layers that are computed again."""
    registry.KERNELS["here"] = Kernel(functools.partial(on_each_device, CUDNN))
    size = named_config("tiny", initializer_std=0.3, remat_policy="minimal")
    model, other = (model_of(size.replace(attention=name)) for name in ("xla", "here"))
    params = jax.jit(model.init)(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (4, 6), 3, 500)
    segments = jnp.asarray([[1, 1, 2, 2, 0, 0], [1, 1, 1, 2, 2, 2]] * 2)
    batch = {"encoder_input_tokens": tokens, "decoder_input_tokens": tokens}
    batch |= {"encoder_segment_ids": segments, "decoder_segment_ids": segments}

    def loss(params, model):
        return jnp.mean(jnp.sin(model.hidden(params, batch)) * (segments > 0)[..., None])

    shardings = param_shardings(model.logical_axes(), model.abstract_params(), MESH)
    laid = jax.device_put(params, shardings)
    expected = jax.jit(jax.grad(loss), static_argnums=1)(params, model)
    compute = jit_on_mesh(jax.grad(loss), MESH, static_argnums=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), compute(laid, other), expected
    )
    text = str(compute.lower(laid, other).as_text())
    assert "manual_computation" in text or "shard_map" in text


def splash_alone():
    """The kernel of each device is made for its heads."""
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.normal(size=(2, 6, 4, 16)), jnp.float32) for _ in range(3)]
    expected = xla_attention(*inputs, AttentionMask(causal=True))
    with use_mesh(MESH):
        found = on_each_device(SPLASH, *inputs, AttentionMask(causal=True), Scores())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def a_bias():
    """The gradient of a bias that all rows share is the sum of those of the devices."""
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.normal(size=(2, 6, 4, 16)), jnp.float32) for _ in range(3)]
    bias = jnp.asarray(rng.normal(size=(1, 4, 6, 6)), jnp.float32)
    mask = AttentionMask(keys=jnp.arange(6) < jnp.asarray([[4], [6]]), real_first=True)

    def loss(attend, bias):
        return jnp.sum(jnp.sin(attend(*inputs, mask, Scores(bias=bias))))

    with use_mesh(MESH):
        divided = functools.partial(on_each_device, CUDNN)
        found = jax.jit(jax.grad(loss, 1), static_argnums=0)(divided, bias)
    expected = jax.grad(loss, 1)(xla_attention, bias)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def refusals():
    """What cannot be divided is refused."""
    one = jnp.ones((2, 6, 1, 16))
    arguments = one, one, one, AttentionMask(), Scores()
    with use_mesh(MESH), pytest.raises(UnsupportedError, match="cannot divide 1 heads"):
        on_each_device(SPLASH, *arguments)
    with pytest.raises(UnsupportedError, match="the mesh"):
        on_each_device(SPLASH, *arguments)


if __name__ == "__main__":
    assert jax.device_count() == 4
    a_model()
    splash_alone()
    a_bias()
    refusals()
