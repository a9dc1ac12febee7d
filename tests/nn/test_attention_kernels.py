"""Kernels of attention compute what the compiler's own attention does."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from openba_jax.nn.attention import AttentionMask, Scores, xla_attention
from openba_jax.nn.attention_kernels import cudnn, registry, splash
from openba_jax.nn.attention_kernels.base import UnsupportedError

ROWS, LENGTH, HEADS, KV = 2, 10, 4, 16
SEGMENTS = jnp.asarray([[1] * 4 + [2] * 3 + [0] * 3, [1] * 2 + [2] * 8])
REAL = jnp.arange(LENGTH) < jnp.asarray([[7], [LENGTH]])
MASKS = {
    "none": AttentionMask(),
    "padded": AttentionMask(keys=REAL, real_first=True),
    "packed": AttentionMask(keys=SEGMENTS > 0, query_segments=SEGMENTS, key_segments=SEGMENTS),
    "causal": AttentionMask(causal=True),
    "packed causal": AttentionMask(causal=True, query_segments=SEGMENTS, key_segments=SEGMENTS),
}
KERNELS = {
    "splash": functools.partial(splash.splash_attention, interpret=True),
    "cudnn": functools.partial(cudnn.cudnn_attention, implementation="xla"),
}


def arrays(queries=LENGTH, keys=LENGTH, kv_heads=HEADS, rows=ROWS):
    rng = np.random.default_rng(0)
    shapes = (rows, queries, HEADS, KV), (rows, keys, kv_heads, KV), (rows, keys, kv_heads, KV)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def check(attend, inputs, mask, scores=None, atol=2e-5):
    """Compares the result and the gradients, as far as any real position depends on them."""
    scores = scores or Scores()
    seen = np.ones(inputs[0].shape[:2], bool)
    if (dense := mask.dense(inputs[0].shape[1], inputs[1].shape[1])) is not None:
        seen = np.broadcast_to(dense.any(-1)[:, 0], seen.shape)

    @functools.partial(jax.jit, static_argnums=0)
    def of(attend, inputs, bias):
        def total(inputs, bias):
            result = attend(*inputs, mask, dataclasses.replace(scores, bias=bias))
            result = jnp.where(seen[:, :, None, None], result, 0.0)
            return jnp.sum(jnp.sin(result)), result

        return jax.grad(total, (0, 1), has_aux=True)(inputs, bias)

    expected = of(xla_attention, inputs, scores.bias)
    got = of(attend, inputs, scores.bias)
    assert jax.tree.structure(expected) == jax.tree.structure(got)
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_computes_what_xla_does(kernel, mask):
    check(KERNELS[kernel], arrays(), MASKS[mask])


@pytest.mark.parametrize("kernel", KERNELS)
def test_query_heads_share_keys_and_cross_attention_has_two_lengths(kernel):
    check(KERNELS[kernel], arrays(queries=6, kv_heads=2), MASKS["padded"], Scores(scale=0.5))


def test_splash_bounds_scores_and_has_several_blocks(monkeypatch):
    monkeypatch.setattr(splash, "LONGEST_BLOCK", 128)
    scores = Scores(softcap=2.0)
    check(KERNELS["splash"], arrays(150, 150, rows=1), MASKS["causal"], scores, atol=1e-4)


def test_cudnn_has_the_gradient_of_a_bias():
    bias = jnp.asarray(np.random.default_rng(1).normal(size=(1, HEADS, LENGTH, LENGTH)))
    for mask in ("padded", "causal"):
        check(KERNELS["cudnn"], arrays(), MASKS[mask], Scores(bias=bias.astype(jnp.float32)))


def test_a_row_without_keys_is_finite():
    """Rows of padding fill up the last batch of a file."""
    empty = AttentionMask(keys=jnp.zeros((ROWS, LENGTH), bool), real_first=True)
    for attend in KERNELS.values():
        total = jax.jit(jax.grad(lambda x, a=attend: jnp.sum(a(*x, empty, Scores()) ** 2)))
        gradients = total(arrays())
        assert all(np.isfinite(g).all() for g in gradients)


BIAS = Scores(bias=jnp.zeros((1, HEADS, LENGTH, LENGTH)))


@pytest.mark.parametrize(
    ("kernel", "mask", "scores", "reason"),
    [
        ("splash", "none", BIAS, "no bias"),
        ("splash", "window", Scores(), "no window"),
        ("cudnn", "none", Scores(softcap=1.0), "no bound"),
        ("cudnn", "packed", BIAS, "no bias together"),
    ],
)
def test_what_a_kernel_cannot_do_it_refuses(kernel, mask, scores, reason):
    masks = {**MASKS, "window": AttentionMask(window=3)}
    with pytest.raises(UnsupportedError, match=reason):
        KERNELS[kernel](*arrays(), masks[mask], scores)


def test_cudnn_refuses_types_that_it_lacks():
    with pytest.raises(UnsupportedError, match="no type float32"):
        cudnn.cudnn_attention(*arrays(), AttentionMask(), Scores())


@pytest.fixture
def said(monkeypatch):
    messages = []
    registry._say_once.cache_clear()
    monkeypatch.setattr(logging, "warning", messages.append)
    yield messages
    registry._say_once.cache_clear()


def test_what_is_used_instead_is_said_once(said, monkeypatch):
    inputs, mask = arrays(), MASKS["packed"]
    expected = xla_attention(*inputs, mask)
    for _ in range(2):
        np.testing.assert_array_equal(registry.attention("splash", *inputs, mask), expected)
    assert said == ["attention is computed by 'xla', not by 'splash': it does not run on a cpu."]
    np.testing.assert_array_equal(registry.attention("auto", *inputs, mask), expected)
    assert len(said) == 1  # Nobody asked for anything else.
    monkeypatch.setattr(registry, "platform", lambda: "tpu")
    dropout = functools.partial(jnp.multiply, 2.0)
    got = registry.attention("auto", *inputs, mask, dropout)
    np.testing.assert_array_equal(got, xla_attention(*inputs, mask, dropout=dropout))
    assert "attention_dropout_rate" in said[1]


def test_each_device_has_its_rows_and_heads():
    program = Path(__file__).parent / "attention_on_mesh.py"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    run = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def exported(platform, dtype, mask):
    """The StableHLO of the gradients of attention, for a platform that need not be here."""

    def total(inputs):
        return jnp.sum(registry.attention("auto", *inputs, mask).astype(jnp.float32))

    inputs = [x.astype(dtype) for x in arrays()]
    traced = jax.jit(jax.grad(total)).trace(inputs)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_tpus_run_splash_by_default(monkeypatch, said):
    monkeypatch.setattr(registry, "platform", lambda: "tpu")
    text = exported("tpu", jnp.bfloat16, MASKS["packed"])
    assert text.count("tpu_custom_call") == 3  # Forward, and two of the gradients.
    assert not said


def test_gpus_run_cudnn_by_default(monkeypatch, said):
    from jax._src.cudnn import fused_attention_stablehlo as fused

    monkeypatch.setattr(registry, "platform", lambda: "gpu")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    text = exported("cuda", jnp.bfloat16, MASKS["padded"])
    assert text.count("__cudnn$fmhaSoftmax") == 2
    assert "PADDING" in text
    assert not said
    monkeypatch.undo()
    with pytest.raises(UnsupportedError, match="it says: cuDNN is not detected"):
        cudnn.cudnn_attention(*(x.astype(jnp.bfloat16) for x in arrays()), MASKS["none"], Scores())
