"""Hidden states are compared where plans say that they are of one layer and channel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
from toy_run import toy_optimizer

from openba_jax.distillation import hidden
from openba_jax.distillation.settings import Distillation
from openba_jax.distillation.teacher import DistilledLoss, Teacher
from openba_jax.models.base import Model
from openba_jax.models.registry import model_of, named_config
from openba_jax.parallel import sharding
from openba_jax.pruning.plan import Plan, pruned_model, relative
from openba_jax.pruning.transform import take
from openba_jax.training import train_step

EMBED = [0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 12, 13]


def cut_of(teacher: Model, params: Any, keep: dict[str, Any]) -> tuple[Model, Any, Any]:
    parent = Plan.identity(teacher, "teacher")
    plan = parent.narrow(keep)
    kept = relative(plan, parent)
    return pruned_model(plan), take(params, teacher.logical_axes(), kept), kept


def batch_of(model: Model) -> dict[str, jax.Array]:
    rng = np.random.default_rng(3)
    tokens = jnp.asarray(rng.integers(3, 90, (3, 6)), jnp.int32)
    weights = jnp.asarray(rng.integers(0, 2, (3, 6)), jnp.float32).at[:, 0].set(1)
    batch = {
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": tokens,
        "decoder_loss_weights": weights,
    }
    if model.layout == "encoder_decoder":
        return {**batch, "encoder_input_tokens": tokens.at[0, 3:].set(0)}
    return {**batch, "decoder_segment_ids": jnp.ones((3, 6), jnp.int32)}


@pytest.mark.parametrize(
    ("name", "scanned"), [("tiny", True), ("tiny_llama", False), ("tiny_t5gemma", True)]
)
def test_the_error_is_that_of_the_kept_layers_and_channels(name: str, scanned: bool) -> None:
    teacher = model_of(named_config(name, scan_layers=scanned))
    params = jax.jit(teacher.init)(jax.random.key(0))
    last = teacher.stacks[-1]
    depth = teacher.axes.depth(last)
    kept_layers = [0, depth - 1] if depth > 2 else [0]
    widths = [key for key in teacher.axes.keys if key.rpartition("/")[2] == "embed"]
    keep: dict[str, Any] = {f"{last}/layers": kept_layers, **dict.fromkeys(widths, EMBED)}
    student, student_params, kept = cut_of(teacher, params, keep)
    batch = batch_of(teacher)

    def observed(matched: Any, model: Model, params: Any, is_teacher: bool) -> Any:
        probe = hidden.streams(matched, hidden.kept_channels(matched) if is_teacher else {})
        return jax.jit(lambda p: model.observe(p, batch, probe)[1])(params)

    matched = hidden.matches(kept, teacher, "all")
    mine = observed(matched, student, student_params, False)
    theirs = observed(matched, teacher, params, True)
    error = hidden.hidden_error(matched, mine, theirs, student, batch)
    whole = observed(matched, teacher, params, False)  # All channels.

    weights = np.asarray(batch["decoder_loss_weights"], np.float64)
    total, count = 0.0, 0
    for stack in teacher.stacks:
        streams = np.asarray(whole[f"{stack}/layers/stream"], np.float64)[..., EMBED]
        layers = kept_layers if stack == last else range(len(streams))
        # What the next layer that stays finds; the last one: what the head finds.
        until = [*(layer - 1 for layer in list(layers)[1:]), len(streams) - 1]
        of_positions = weights
        if stack != last:
            real = np.asarray(batch["encoder_input_tokens"]) > 0
            of_positions = real / real.sum(1, keepdims=True) * weights.sum(1, keepdims=True)
        for number, layer in enumerate(until):
            found = np.asarray(mine[f"{stack}/layers/stream"][number], np.float64)
            share = ((found - streams[layer]) ** 2).mean(-1) / (streams[layer] ** 2).mean(-1)
            total, count = total + (share * of_positions).sum(), count + 1
    np.testing.assert_allclose(error, total / count, rtol=1e-4)
    ends = hidden.matches(kept, teacher, "last")
    assert [len(match.of_student) for match in ends] == [1] * len(teacher.stacks)
    assert ends[-1].of_teacher == (depth - 1,)


def test_a_student_that_is_its_teacher_has_no_error() -> None:
    model = model_of(named_config("tiny"))
    params = jax.jit(model.init)(jax.random.key(0))
    batch = batch_of(model)
    matched = hidden.matches({}, model, "all")
    probe = hidden.streams(matched, hidden.kept_channels(matched))
    seen = jax.jit(lambda p: model.observe(p, batch, probe)[1])(params)
    assert hidden.hidden_error(matched, seen, seen, model, batch) == 0


def test_students_that_keep_other_channels_share_a_program() -> None:
    teacher = model_of(named_config("tiny"))
    student, mesh = teacher.replace(embed_dim=len(EMBED)), sharding.make_mesh()
    state = train_step.init_state(student, toy_optimizer(), mesh)
    taught, batch = jax.jit(teacher.init)(jax.random.key(0)), batch_of(teacher)
    errors, texts = [], []
    for channels in (EMBED, [channel + 1 for channel in EMBED]):
        matched = hidden.matches({"embed": channels}, teacher, "all")
        lesson = Teacher(Path(), teacher, None, matched)
        loss = DistilledLoss(Distillation("", hidden_weight=1.0), lesson)
        step = train_step.make_train_step(student, toy_optimizer(), mesh, loss=loss)
        arguments = (batch, *lesson.constants(taught, mesh))
        texts.append(step.lower(state, *arguments).as_text())
        sums = loss(student, state.params, batch, None, 0, arguments[1:])[1]
        errors.append(float(sums["hidden_error_sum"]))
    assert texts[0] == texts[1]
    assert errors[0] != errors[1]
