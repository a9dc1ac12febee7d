from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import ToyBatches, toy_model

from openba_jax.errors import UserError
from openba_jax.models.registry import model_of, named_config
from openba_jax.parallel import sharding
from openba_jax.training import feeding, optimizer, train_step

MODEL = toy_model(dropout_rate=0.0)
OPTIMIZER = optimizer.adamw(optimizer.warmup_constant(2e-2))


@pytest.fixture(scope="module")
def mesh() -> Any:
    return sharding.make_mesh()


@pytest.fixture(scope="module")
def batch() -> dict[str, jax.Array]:
    arrays = ToyBatches().batch(0)
    # Micro-batches of very different weights, one of them without any.
    weights = arrays["decoder_loss_weights"].copy()
    weights[1::4] = 0
    weights[2::4, 1:] = 0
    return jax.tree.map(jnp.asarray, {**arrays, "decoder_loss_weights": weights})


def test_accumulation_changes_neither_gradients_nor_sums(batch: Any) -> None:
    params = jax.jit(MODEL.init)(jax.random.key(0))
    whole, parts = (
        jax.jit(lambda p, b, n=n: train_step.summed_gradients(MODEL, p, b, None, n))(params, batch)
        for n in (1, 4)
    )
    assert whole[1]["weight_sum"] == parts[1]["weight_sum"] == batch["decoder_loss_weights"].sum()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole, parts)
    # The mean of micro-batch means would be something else.
    weights = batch["decoder_loss_weights"].reshape(2, 4, -1).sum((0, 2))
    assert weights.min() == 0
    assert weights.max() > 2 * np.median(weights)


def test_overfits_a_batch_and_counts_steps(mesh: Any) -> None:
    batch = jax.tree.map(jnp.asarray, ToyBatches().batch(0))
    state = train_step.init_state(MODEL, OPTIMIZER, mesh)
    step = train_step.make_train_step(MODEL, OPTIMIZER, mesh, accumulation=2)
    losses = []
    for _ in range(120):
        state, sums = step(state, batch)
        losses.append(float(sums["loss_sum"] / sums["weight_sum"]))
    assert losses[0] == pytest.approx(np.log(32), abs=0.2)
    assert losses[-1] < 0.2
    assert int(state.step) == 120
    assert sums["learning_rate"] == np.float32(2e-2)
    # A batch with nothing to learn from leaves finite numbers behind.
    nothing = {**batch, "decoder_loss_weights": jnp.zeros_like(batch["decoder_loss_weights"])}
    state, sums = step(state, nothing)
    assert sums["grad_norm"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_moments_lie_as_their_parameters_do(mesh: Any) -> None:
    abstract = train_step.abstract_state(MODEL, OPTIMIZER, mesh)
    adam = next(part for part in abstract.opt_state if hasattr(part, "mu"))
    assert train_step.shardings_of(adam.mu) == train_step.shardings_of(abstract.params)
    assert train_step.shardings_of(adam.nu) == train_step.shardings_of(abstract.params)
    assert adam.count.sharding == sharding.replicated(mesh)


def test_seeds_share_a_program_and_draw_other_dropout(mesh: Any, batch: Any) -> None:
    model = MODEL.replace(dropout_rate=0.5)
    losses = []
    for seed in (1, 2, 1):
        step = train_step.make_train_step(model, OPTIMIZER, mesh, seed=seed)
        state = train_step.init_state(model, OPTIMIZER, mesh)
        text = step.lower(state, batch).as_text()
        losses.append((float(step(state, batch)[1]["loss_sum"]), text))
    assert losses[0] == losses[2]
    assert losses[0][0] != losses[1][0]
    assert losses[0][1] == losses[1][1]


def test_state_keeps_its_types_in_low_precision(mesh: Any) -> None:
    model = MODEL.replace(dtype="bfloat16", param_dtype="bfloat16")
    abstract = train_step.abstract_state(model, OPTIMIZER, mesh)
    batch = ToyBatches().batch(0)
    step: Any = train_step.make_train_step(model, OPTIMIZER, mesh, accumulation=2)
    after, _ = jax.eval_shape(step.compiled.__wrapped__, abstract, step.seed, batch)
    for leaf, before in zip(jax.tree.leaves(after), jax.tree.leaves(abstract), strict=True):
        assert (leaf.dtype, leaf.shape) == (before.dtype, before.shape)


@pytest.mark.parametrize(("size", "accumulation"), [(8, 3), (8, 16), (8, 0)])
def test_batches_that_do_not_divide_are_refused(mesh: Any, size: int, accumulation: int) -> None:
    with pytest.raises(UserError, match="is not a multiple of accumulation"):
        train_step.check_batch_size(size, accumulation, mesh)


@pytest.mark.parametrize("name", ["tiny", "tiny_llama"])
def test_rows_longer_than_the_model_was_made_for(name: str, caplog: Any) -> None:
    model = model_of(named_config(name).with_lengths(8, 6))
    feeding.warn_of_lengths(ToyBatches(encoder_length=8), model)
    assert not caplog.text
    feeding.warn_of_lengths(ToyBatches(encoder_length=9), model)
    assert "Inputs of 9 and targets of 6 tokens are longer than the model was" in caplog.text
