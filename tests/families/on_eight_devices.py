"""Cuts and trains the model of a configuration, on eight devices and on one."""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
import optax
from families.contract import batch_of, halves, random_params, random_samples

from openba_jax.models.registry import model_from_dict
from openba_jax.parallel import sharding
from openba_jax.pruning.plan import Plan, relative
from openba_jax.pruning.stages import Stage, apply_stage
from openba_jax.pruning.transform import take
from openba_jax.training import train_step
from openba_jax.training.optimizer import Optimizer

TOLERANCE = 1e-5


def main() -> None:
    model = model_from_dict(json.load(sys.stdin))
    params, axes = random_params(model), model.logical_axes()
    assert jax.device_count() == 8
    meshes = {
        "one": sharding.make_mesh((1, 1, 1), jax.devices()[:1]),
        "eight": sharding.make_mesh((2, 2, 2)),
    }
    shardings = {
        name: sharding.param_shardings(axes, params, mesh) for name, mesh in meshes.items()
    }
    divided = [not each.is_fully_replicated for each in jax.tree.leaves(shardings["eight"])]
    assert sum(divided) > len(divided) // 2

    root = Plan.identity(model, "root")
    plan = apply_stage(Stage("cut", sizes=halves(model), seed=1), root)
    keep = relative(plan, root)
    spread = jax.device_put(params, shardings["eight"])
    cut = jax.jit(lambda tree: take(tree, axes, keep))(spread)
    for found, expected in zip(
        jax.tree.leaves(cut), jax.tree.leaves(take(params, axes, keep)), strict=True
    ):
        assert np.asarray(found).tobytes() == expected.tobytes()

    # Linear in the gradients: Adam's first step would turn rounding errors into signs.
    descent = Optimizer(optax.sgd(0.1), lambda step: 0.1)
    batch = batch_of(model, random_samples(model, rows=8))
    after = {}
    for name, mesh in meshes.items():
        state = train_step.init_state(
            model, descent, mesh, params=jax.device_put(params, shardings[name])
        )
        state, metrics = train_step.make_train_step(model, descent, mesh)(state, batch)
        after[name] = jax.device_get((state.params, metrics))
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=TOLERANCE, rtol=TOLERANCE),
        after["eight"],
        after["one"],
    )
    sys.stdout.write("cut and trained alike\n")


if __name__ == "__main__":
    main()
