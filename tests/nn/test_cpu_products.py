"""Products and attention on a CPU have the values and gradients of JAX's own rules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.nn import platform
from openba_jax.nn.attention import AttentionMask, Scores, xla_attention
from openba_jax.nn.attention_kernels import cpu, registry
from openba_jax.nn.products import product

BATCH, QUERIES, KEYS, HEADS, KV = 6, 5, 7, 4, 8


def random(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("inputs", "kernel", "rank"),
    [((3, 5, 8), (8, 4, 2), 1), ((3, 5, 4, 2), (4, 2, 8), 2), ((8,), (8, 3), 1)],
)
def test_a_product_and_its_gradients_are_those_of_jax(
    inputs: tuple[int, ...], kernel: tuple[int, ...], rank: int
) -> None:
    x, w = random(*inputs), random(*kernel, seed=1)

    def ours(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(product(x, w, rank)))

    def plain(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(jnp.tensordot(x, w, rank)))

    found = jax.value_and_grad(ours, (0, 1))(x, w)
    wanted = jax.value_and_grad(plain, (0, 1))(x, w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


def test_the_gradient_of_a_kernel_needs_no_transposed_copy() -> None:
    x, w = random(16, 32, 64), random(64, 96, seed=1)

    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(product(x, w)))

    def plain(w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(x @ w))

    transposed = "f32[96,512]"  # The gradient of the outputs, rows last.
    assert transposed in jax.jit(jax.grad(plain)).lower(w).compile().as_text()
    assert transposed not in jax.jit(jax.grad(loss)).lower(w).compile().as_text()


MASKS = {
    "none": AttentionMask(),
    "causal": AttentionMask(causal=True),
    "padding": AttentionMask(keys=jnp.arange(KEYS) < jnp.array([7, 3, 5, 1, 0, 7])[:, None]),
    "segments": AttentionMask(
        query_segments=jnp.arange(QUERIES) // jnp.array([1, 2, 3, 4, 5, 6])[:, None],
        key_segments=jnp.arange(KEYS) // jnp.array([1, 2, 3, 4, 5, 6])[:, None],
    ),
    "window": AttentionMask(window=jnp.int32(2)),
    "shared": AttentionMask(allowed=jnp.ones((1, 1, QUERIES, KEYS), bool).at[..., 2].set(False)),
}


@pytest.mark.parametrize("rows", [1, 2, BATCH])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_on_a_cpu_is_plain_attention(
    monkeypatch: pytest.MonkeyPatch, mask: str, rows: int
) -> None:
    monkeypatch.setattr(cpu, "MAX_SCORES", rows * HEADS * QUERIES * KEYS)
    query, key = random(BATCH, QUERIES, HEADS, KV), random(BATCH, KEYS, 2, KV, seed=1)
    value, bias = random(BATCH, KEYS, 2, KV, seed=2), random(1, HEADS, QUERIES, KEYS, seed=3)

    def loss(attend, *arrays: jax.Array) -> jax.Array:
        scores = Scores(softcap=5.0, bias=arrays[3])
        return jnp.sum(jnp.sin(attend(*arrays[:3], MASKS[mask], scores)))

    arrays = (query, key, value, bias)
    found, wanted = (
        jax.value_and_grad(lambda *a, attend=attend: loss(attend, *a), (0, 1, 2, 3))(*arrays)
        for attend in (cpu.cpu_attention, xla_attention)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found, wanted)


def test_what_broadcasting_gives_to_all_rows_is_not_divided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "MAX_SCORES", HEADS * QUERIES * KEYS)
    query = random(QUERIES, QUERIES, HEADS, KV)  # As many rows as queries.
    key = random(QUERIES, KEYS, HEADS, KV, seed=1)
    mask = AttentionMask(allowed=random(QUERIES, KEYS, seed=2) > -1)
    scores = Scores(bias=random(QUERIES, KEYS, seed=3))
    found, wanted = (f(query, key, key, mask, scores) for f in (cpu.cpu_attention, xla_attention))
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


def test_the_backward_pass_keeps_no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(8, 128, 4, 16)

    def temporaries(on_cpu: bool) -> int:
        monkeypatch.setattr(registry, "on_one_cpu", lambda: on_cpu)

        def loss(x: jax.Array) -> jax.Array:
            def layer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
                return registry.attention("auto", x, x, x, AttentionMask(causal=True)), None

            return jnp.sum(jax.lax.scan(layer, x, length=8)[0])

        compiled = jax.jit(jax.grad(loss)).lower(x).compile()
        return int(compiled.memory_analysis().temp_size_in_bytes)

    assert temporaries(on_cpu=True) < temporaries(on_cpu=False) / 4


def test_several_devices_of_a_cpu_are_no_cpu() -> None:
    assert platform.on_one_cpu()
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((2,), ("data",))):
        assert not platform.on_one_cpu()
