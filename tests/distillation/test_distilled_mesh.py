"""A teacher lies on the mesh by the same rules, and eight devices learn what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

PROGRAM = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import jax, jax.numpy as jnp
from toy_cuts import SMALL_VOCABULARY
from toy_run import ToyBatches, toy_optimizer
from openba_jax.checkpoints import model_folder, training_state
from openba_jax.distillation import teacher as teaching
from openba_jax.distillation.descent import Party
from openba_jax.distillation.settings import Distillation
from openba_jax.parallel import sharding
from openba_jax.pruning.saved_plan import plan_of_folder
from openba_jax.training import train_step

ancestor, student = sys.argv[2:]
model = model_folder.load_model(student)
settings = Distillation(ancestor, hidden_weight=0.5, teacher_dtype="float32")
results = []
for shape, devices in (((2, 2, 2), 8), ((1, 1, 1), 1)):
    mesh = sharding.make_mesh(shape, jax.devices()[:devices])
    batch = ToyBatches(vocab=SMALL_VOCABULARY).batch(0)
    party = Party(model, plan_of_folder(student), None, "student")
    lesson = teaching.prepare(settings, party, mesh, batch)
    shardings = train_step.shardings_of(
        train_step.abstract_state(model, toy_optimizer(), mesh).params
    )
    params = training_state.restore_params(student, model, shardings)
    state = train_step.init_state(model, toy_optimizer(), mesh, params=params)
    step = train_step.make_train_step(model, toy_optimizer(), mesh, loss=lesson.loss)
    placed = sharding.global_batch(batch, sharding.batch_sharding(mesh), slice(0, 8), 8)
    for _ in range(2):
        state, sums = step(state, placed, *lesson.constants)
    kernel = lesson.constants[0]["decoder"]["layers"]["mlp"]["wo"]["kernel"]
    share = kernel.addressable_shards[0].data.size / kernel.size
    sums = {name: float(value) for name, value in sums.items()}
    results.append([sums, share, lesson.identity["teacher"]])
print(json.dumps(results))
"""


def test_eight_devices_learn_what_one_does(ancestor: Path, few_words: Path) -> None:
    places = [str(HERE), str(HERE.parent / "training"), str(HERE.parent.parent)]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(places), str(ancestor), str(few_words)],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (many, part, name), (one, whole, same) = json.loads(done.stdout.splitlines()[-1])
    assert (part, whole) == (0.25, 1.0)
    assert name == same  # The digest of a teacher does not depend on how it lies.
    for key, value in one.items():
        assert many[key] == pytest.approx(value, rel=1e-3), key
