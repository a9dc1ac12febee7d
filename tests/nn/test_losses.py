"""The chunked cross entropy equals the plain one, gradients included."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.nn import losses
from openba_jax.nn.losses import (
    Head,
    chunk_length,
    cross_entropy,
    join_length,
    split_length,
    sum_over_chunks,
    token_cross_entropy,
)


def chunked_cross_entropy(hidden, kernel, bias, targets, weights, max_chunk_logits):
    batch = {"decoder_target_tokens": targets, "decoder_loss_weights": weights}
    return token_cross_entropy(hidden, Head(kernel, bias), batch, max_chunk_logits)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
def test_chunks_change_nothing(chunk: int) -> None:
    keys = jax.random.split(jax.random.key(0), 5)
    hidden = jax.random.normal(keys[0], (2, 7, 8))
    kernel = jax.random.normal(keys[1], (8, 16))
    bias = jax.random.normal(keys[2], (16,))
    targets = jax.random.randint(keys[3], (2, 7), 0, 16)
    weights = jax.random.bernoulli(keys[4], 0.7, (2, 7)).astype(jnp.float32)

    def chunked(hidden: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        total, sums = chunked_cross_entropy(
            hidden, kernel, bias, targets, weights, max_chunk_logits=chunk * 2 * 16
        )
        return total, sums

    def plain(hidden: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return jnp.sum(cross_entropy(hidden @ kernel + bias, targets) * weights)

    (value, sums), gradients = jax.value_and_grad(chunked, (0, 1, 2), has_aux=True)(
        hidden, kernel, bias
    )
    expected, expected_gradients = jax.value_and_grad(plain, (0, 1, 2))(hidden, kernel, bias)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    right = jnp.argmax(hidden @ kernel + bias, -1) == targets
    assert sums["weight_sum"] == weights.sum()
    assert sums["correct_sum"] == jnp.sum(right * weights)


def test_gradients_are_those_of_what_is_done_with_the_loss() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    hidden, kernel = jax.random.normal(keys[0], (2, 6, 8)), jax.random.normal(keys[1], (8, 16))
    targets, weights = jnp.ones((2, 6), jnp.int32), jnp.ones((2, 6))

    def mean(hidden: jax.Array, kernel: jax.Array, chunk: int) -> jax.Array:
        total, sums = chunked_cross_entropy(
            hidden, kernel, None, targets, weights, max_chunk_logits=chunk * 2 * 16
        )
        return total**2 / sums["weight_sum"]

    # In bfloat16 the gradient of the kernel is still summed over chunks in float32.
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)):
        chunks, whole = (
            jax.grad(mean, (0, 1))(hidden.astype(dtype), kernel, chunk) for chunk in (2, 6)
        )
        for ours, theirs in zip(chunks, whole, strict=True):
            assert ours.dtype == theirs.dtype
            scale = np.abs(theirs.astype(jnp.float32)).max()
            np.testing.assert_allclose(ours / scale, theirs / scale, atol=tolerance)


def test_devices_sum_apart_what_their_rows_say(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    hidden, kernel = jax.random.normal(keys[0], (4, 6, 8)), jax.random.normal(keys[1], (8, 16))
    bias, targets = (
        jax.random.normal(keys[2], (16,)),
        jax.random.randint(keys[3], (4, 6), 0, 16),
    )
    batch = {
        "decoder_target_tokens": targets,
        "decoder_loss_weights": jnp.ones((4, 6)).at[1, 2].set(0),
        "decoder_loss_groups": jnp.eye(3)[jnp.array([0, 2, 1, 0])],
    }

    def total(hidden: jax.Array, kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, dict]:
        return token_cross_entropy(hidden, Head(kernel, bias), batch, max_chunk_logits=2 * 4 * 16)

    differentiated = jax.value_and_grad(total, (0, 1, 2), has_aux=True)
    expected = differentiated(hidden, kernel, bias)
    monkeypatch.setattr(losses, "_shards", lambda batch: 2)
    found = differentiated(hidden, kernel, bias)
    assert found[0][1]["group_loss_sums"].shape == (3,)
    np.testing.assert_allclose(found[0][1]["group_loss_sums"].sum(), found[0][0], rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_second_head_goes_along_chunk_by_chunk() -> None:
    # As distillation wants it: the loss compares two models, and neither's logits are whole.
    keys = jax.random.split(jax.random.key(0), 4)
    hidden, other = (jax.random.normal(key, (2, 6, 8)) for key in keys[:2])
    kernel, teacher = (jax.random.normal(key, (8, 16)) for key in keys[2:])

    def divergence(logits, rows, constants):
        (states,) = rows
        wanted = jax.nn.softmax(Head(constants, None).logits(states))
        return -jnp.sum(wanted * jax.nn.log_softmax(logits))[None]

    def total(hidden: jax.Array, kernel: jax.Array, chunk: int) -> jax.Array:
        return sum_over_chunks(
            divergence, hidden, Head(kernel, None), (other,), teacher, chunk * 2 * 16
        )[0]

    (value, gradients), (expected, expected_gradients) = (
        jax.value_and_grad(total, (0, 1))(hidden, kernel, chunk) for chunk in (2, 6)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_scaled_hidden_states_learn_in_chunks() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    hidden, kernel = jax.random.normal(keys[0], (2, 6, 8)), jax.random.normal(keys[1], (8, 16))
    batch = {
        "decoder_target_tokens": jnp.ones((2, 6), jnp.int32),
        "decoder_loss_weights": jnp.ones((2, 6)),
    }

    def total(hidden: jax.Array, chunk: int) -> jax.Array:
        return token_cross_entropy(hidden, Head(kernel, None, 0.5), batch, chunk * 2 * 16)[0]

    np.testing.assert_allclose(jax.grad(total)(hidden, 2), jax.grad(total)(hidden, 6), atol=1e-5)


def test_bounded_logits_learn_in_chunks() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    hidden, kernel = jax.random.normal(keys[0], (2, 6, 8)), jax.random.normal(keys[1], (8, 16))
    targets = jax.random.randint(keys[2], (2, 6), 0, 16)
    batch = {"decoder_target_tokens": targets, "decoder_loss_weights": jnp.ones((2, 6))}

    def chunked(hidden: jax.Array, kernel: jax.Array, chunk: int) -> jax.Array:
        head = Head(kernel, None, softcap=1.5)
        return token_cross_entropy(hidden, head, batch, chunk * 2 * 16)[0]

    def plain(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(cross_entropy(1.5 * jnp.tanh(hidden @ kernel / 1.5), targets))

    expected, expected_gradients = jax.value_and_grad(plain, (0, 1))(hidden, kernel)
    for chunk in (2, 6):
        value, gradients = jax.value_and_grad(chunked, (0, 1))(hidden, kernel, chunk)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        for ours, theirs in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert abs(expected - token_cross_entropy(hidden, Head(kernel, None), batch)[0]) > 1


def test_gradients_need_no_logits_twice() -> None:
    def flops(chunk: int) -> float:
        def total(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
            zeros = jnp.zeros((4, 32), jnp.int32)
            arguments = (hidden, kernel, None, zeros, jnp.ones((4, 32)))
            return chunked_cross_entropy(*arguments, max_chunk_logits=chunk * 4 * 2048)[0]

        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 32, 256), (256, 2048))]
        analysis = jax.jit(jax.grad(total, (0, 1))).lower(*shapes).compile().cost_analysis()
        return analysis["flops"]

    # Of the loop over two chunks the compiler counts one.
    assert 2 * flops(16) < 1.1 * flops(32)


def test_chunks_of_the_length_are_joined_again() -> None:
    x = jax.random.normal(jax.random.key(0), (3, 7, 2))
    chunks = split_length(x, 3)
    assert chunks.shape == (3, 3, 3, 2)
    np.testing.assert_array_equal(chunks[1], x[:, 3:6])
    np.testing.assert_array_equal(join_length(chunks, 7), x)


def test_chunks_are_as_long_as_the_devices_can_hold() -> None:
    assert chunk_length(4, 100, max_chunk_logits=2000) == 5
    assert chunk_length(4, 1000, max_chunk_logits=2000) == 1
    mesh = jax.sharding.AbstractMesh((2, 4), ("data", "model"))
    with jax.sharding.use_abstract_mesh(mesh):
        assert chunk_length(4, 100, max_chunk_logits=2000) == 40


def test_no_logits_of_the_whole_batch_are_held() -> None:
    batch, length, vocab = 4, 64, 8192

    def total(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
        zeros = jnp.zeros((batch, length), jnp.int32)
        return chunked_cross_entropy(
            hidden,
            kernel,
            None,
            zeros,
            jnp.ones((batch, length)),
            max_chunk_logits=batch * 4 * vocab,
        )[0]

    shapes = (
        jax.ShapeDtypeStruct((batch, length, 8), jnp.float32),
        jax.ShapeDtypeStruct((8, vocab), jnp.float32),
    )
    compiled = jax.jit(jax.grad(total, (0, 1))).lower(*shapes).compile()
    whole = batch * length * vocab * 4
    assert compiled.memory_analysis().temp_size_in_bytes < whole / 2


def test_golden_megatron_loss(golden_dir) -> None:
    golden = np.load(golden_dir("megatron_loss") / "loss.npz")
    labels = golden["labels"]
    inside = labels >= 0
    ours = cross_entropy(jnp.asarray(golden["logits"]), jnp.asarray(np.where(inside, labels, 0)))
    np.testing.assert_allclose(
        np.asarray(ours)[inside], golden["per_token_loss"][inside], atol=1e-4, rtol=1e-4
    )
