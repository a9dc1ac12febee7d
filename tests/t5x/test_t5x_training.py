"""Training in the real T5X against the native runner."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("t5x.models", reason="T5X is not importable; see docs/t5x.md")

import t5x_toy
from flax import core
from t5x import train_state as t5x_train_state
from t5x import trainer as t5x_trainer

from openba_jax.distillation.settings import Distillation, linear_weight
from openba_jax.errors import UserError
from openba_jax.models.registry import model_of
from openba_jax.training.train_step import summed_gradients


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return t5x_toy.first_models(tmp_path_factory.mktemp("first"))


def flat(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def assert_close(found, expected, tolerance):
    found, expected = flat(found), flat(expected)
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], atol=tolerance, err_msg=name)


def test_fifty_steps_are_those_of_the_native_runner(first, tmp_path):
    ours = t5x_toy.train_natively(tmp_path / "native", 50, first[0])
    theirs = t5x_toy.train_in_t5x(tmp_path / "t5x", 50, first[1])
    assert len(ours) == len(theirs) == 50
    assert ours[-1] < ours[0] - 0.3
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_runs_go_on_in_the_other_runner(first, tmp_path):
    straight = t5x_toy.train_natively(tmp_path / "straight", 6, first[0])
    t5x_toy.train_natively(tmp_path / "native", 3, first[0])
    t5x_toy.train_in_t5x(tmp_path / "t5x", 3, first[1])
    t5x_toy.move(tmp_path / "native", tmp_path / "native_on", "t5x")
    t5x_toy.move(tmp_path / "t5x", tmp_path / "t5x_on", "native")
    in_t5x = t5x_toy.train_in_t5x(tmp_path / "native_on", 6)
    natively = t5x_toy.train_natively(tmp_path / "t5x_on", 6)
    np.testing.assert_allclose(in_t5x, straight[3:], atol=1e-5)
    np.testing.assert_allclose(natively, straight[3:], atol=1e-5)
    expected = t5x_toy.read(tmp_path / "straight")
    for name in ("native_on", "t5x_on"):
        found = t5x_toy.read(tmp_path / name)
        assert found["step"] == 6
        assert_close(found["params"], expected["params"], 1e-5)
        assert_close(found["opt_state"][1], expected["opt_state"][1], 1e-5)
        assert int(found["opt_state"][3]["count"]) == 6


def test_a_killed_run_goes_on_exactly(first, tmp_path):
    straight = t5x_toy.train_in_t5x(tmp_path / "straight", 5, first[1])
    t5x_toy.train_in_t5x(tmp_path / "twice", 2, first[1])
    assert t5x_toy.train_in_t5x(tmp_path / "twice", 5, first[1]) == straight[2:]


def test_accumulation_weighs_tokens_alike_where_t5x_does_not():
    model, batch = t5x_toy.model(), t5x_toy.Batches().batch(0)
    # Micro-batches of T5X are the two halves.
    batch["decoder_loss_weights"][:4, 1:] = 0
    variables = model.get_initial_variables(jax.random.key(0), {})
    state = t5x_train_state.FlaxOptimTrainState.create(model.optimizer_def, variables)
    whole = jax.grad(lambda p: model.loss_fn(p, batch, None)[0])(state.params)
    sums, counts = summed_gradients(model.model, state.params, batch, None, 2)
    ours = jax.tree.map(lambda g: g / counts["weight_sum"], sums)
    assert_close(core.unfreeze(ours), core.unfreeze(whole), 1e-5)
    # T5X adds up the means of the micro-batches.
    arrays = {name: jnp.asarray(array) for name, array in batch.items()}
    rng = jax.random.PRNGKey(0)
    theirs, _, _ = t5x_trainer.accumulate_grads_microbatched(t5x_toy.model(), state, arrays, rng, 2)
    assert optax.tree.norm(theirs) > 1.5 * optax.tree.norm(whole)


def test_accumulated_steps_are_the_same(first, tmp_path):
    plain = t5x_toy.train_in_t5x(tmp_path / "plain", 4, first[1])
    accumulated = t5x_toy.train_in_t5x(tmp_path / "accumulated", 4, first[1], num_microbatches=4)
    np.testing.assert_allclose(accumulated, plain, atol=1e-5)


def test_partitions_do_not_change_losses(tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, Path(t5x_toy.__file__), tmp_path],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [run["devices"] for run in runs] == [8, 8, 8]
    for run in runs[1:]:
        np.testing.assert_allclose(run["losses"], runs[0]["losses"], atol=1e-4)


def test_two_processes_are_one(first, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    arguments = [sys.executable, t5x_toy.__file__, str(tmp_path / "two"), str(first[1]), address]
    processes = [
        subprocess.Popen(
            [*arguments, str(index)],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs[0][1][-3000:]
    one = t5x_toy.train_in_t5x(tmp_path / "one", 4, first[1])
    # T5X tells one process alone what it measured.
    (losses,) = filter(None, (json.loads(out.splitlines()[-1]) for out, _ in outputs))
    np.testing.assert_allclose(losses, one, atol=1e-5)


def test_a_teacher_teaches_as_in_the_native_runner(first, tmp_path):
    ancestor = model_of(t5x_toy.config(mlp_dim=32))
    taught, _ = t5x_toy.first_models(tmp_path / "teacher", ancestor)
    settings = Distillation(str(taught), "js", temperature=2.0, weight=linear_weight(1.0, 0.0, 8))
    ours = t5x_toy.train_natively(tmp_path / "native", 4, first[0], distillation=settings)
    # The teacher may lie there in T5X's own format.
    moved = dataclasses.replace(settings, teacher=str(tmp_path / "teacher" / "first_t5x"))
    theirs = t5x_toy.train_in_t5x(
        tmp_path / "t5x", 4, first[1], num_microbatches=2, distillation=moved
    )
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    plain = t5x_toy.train_natively(tmp_path / "plain", 4, first[0])
    assert np.abs(np.subtract(plain, ours)).max() > 1e-3
    with pytest.raises(UserError, match="the model has no pruning plan, so that nothing says"):
        t5x_toy.train_in_t5x(
            tmp_path / "refused",
            4,
            first[1],
            distillation=dataclasses.replace(settings, hidden_weight=1.0),
        )
