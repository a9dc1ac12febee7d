"""Divergences are their formulas; in chunks they are the same, and only the student learns."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openba_jax.distillation.divergences import DIVERGENCES
from openba_jax.distillation.loss import distilled_sums
from openba_jax.nn.losses import Head, token_cross_entropy

BATCH, LENGTH, VOCAB = 3, 7, 40


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(-1)


def reference(name: str, student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    p, q = softmax(teacher), softmax(student)
    if name == "js":
        return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2
    return kl(p, q) if name == "forward_kl" else kl(q, p)


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "hidden": jnp.asarray(rng.normal(size=(BATCH, LENGTH, 6)), jnp.float32),
        "kernel": jnp.asarray(rng.normal(size=(6, VOCAB)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=VOCAB), jnp.float32),
        "teacher_hidden": jnp.asarray(rng.normal(size=(BATCH, LENGTH, 9)), jnp.float32),
        "teacher_kernel": jnp.asarray(rng.normal(size=(9, VOCAB)), jnp.float32),
        "batch": {
            "decoder_target_tokens": jnp.asarray(rng.integers(0, VOCAB, (BATCH, LENGTH))),
            "decoder_loss_weights": jnp.asarray(rng.integers(0, 2, (BATCH, LENGTH)), jnp.float32),
        },
    }


def sums(arrays: dict[str, Any], name: str = "forward_kl", **options: Any) -> Any:
    temperature, weight = options.pop("temperature", 1.0), options.pop("weight", 1.0)
    return distilled_sums(
        arrays["hidden"],
        Head(arrays["kernel"], arrays["bias"], 0.5),
        arrays["batch"],
        arrays["teacher_hidden"],
        Head(arrays["teacher_kernel"], None, 0.7, 5.0),
        DIVERGENCES[name],
        temperature,
        jnp.float32(weight),
        **options,
    )


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_sums_are_those_of_the_formulas(arrays: Any, name: str, temperature: float) -> None:
    student = np.asarray(arrays["hidden"] * 0.5 @ arrays["kernel"] + arrays["bias"], np.float64)
    raw = np.asarray(arrays["teacher_hidden"] * 0.7 @ arrays["teacher_kernel"], np.float64)
    teacher = 5 * np.tanh(raw / 5)
    weights = np.asarray(arrays["batch"]["decoder_loss_weights"], np.float64)
    diverges = (reference(name, student / temperature, teacher / temperature) * weights).sum()
    entropy, counts = token_cross_entropy(
        arrays["hidden"], Head(arrays["kernel"], arrays["bias"], 0.5), arrays["batch"]
    )
    minimised, found = sums(arrays, name, temperature=temperature, weight=0.3)
    np.testing.assert_allclose(found["divergence_sum"], diverges, rtol=1e-5)
    np.testing.assert_allclose(found["loss_sum"], entropy, rtol=1e-5)
    expected = 0.7 * float(entropy) + 0.3 * temperature**2 * diverges
    np.testing.assert_allclose(minimised, expected, rtol=1e-5)
    assert found["weight_sum"] == counts["weight_sum"]
    assert found["correct_sum"] == counts["correct_sum"]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_chunks_change_neither_values_nor_gradients(arrays: Any, name: str) -> None:
    learnt = ("hidden", "kernel", "bias")

    def minimised(parts: dict[str, Any], bound: int) -> Any:
        return sums({**arrays, **parts}, name, temperature=1.5, weight=0.4, max_chunk_logits=bound)

    gradient = jax.value_and_grad(minimised, has_aux=True)
    parts = {key: arrays[key] for key in learnt}
    whole = gradient(parts, 2**27)
    # Two positions at once, of both: the last chunk is padded.
    chunked = jax.jit(lambda parts: gradient(parts, 2 * BATCH * VOCAB * 2))(parts)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), whole, chunked
    )


@pytest.mark.parametrize("bound", [2**27, 2 * BATCH * VOCAB])
def test_the_teacher_gets_no_gradient(arrays: Any, bound: int) -> None:
    def minimised(taught: dict[str, Any]) -> Any:
        return sums({**arrays, **taught}, max_chunk_logits=bound)[0]

    taught = {key: arrays[key] for key in ("teacher_hidden", "teacher_kernel")}
    for gradient in jax.tree.leaves(jax.grad(minimised)(taught)):
        assert not gradient.any()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_student_that_is_its_teacher_diverges_by_nothing(arrays: Any, name: str) -> None:
    head = Head(arrays["kernel"], arrays["bias"])

    def minimised(hidden: jax.Array) -> Any:
        return distilled_sums(
            hidden,
            head,
            arrays["batch"],
            arrays["hidden"],
            head,
            DIVERGENCES[name],
            2.0,
            jnp.float32(1.0),
        )

    (value, counts), gradient = jax.value_and_grad(minimised, has_aux=True)(arrays["hidden"])
    assert abs(float(value)) < 1e-5
    assert abs(float(counts["divergence_sum"])) < 1e-5
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_what_a_teacher_rules_out_is_finite(name: str) -> None:
    student, teacher = jnp.zeros((1, 4)), jnp.array([[200.0, 0.0, -100.0, -1e4]])
    value, gradient = jax.value_and_grad(lambda x: DIVERGENCES[name](x, teacher)[0])(student)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
