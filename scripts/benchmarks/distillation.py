"""Measures what a teacher adds to a training step, against the teacher's forward pass.

python scripts/benchmarks/distillation.py

A teacher and a student of half its layers and width, with random parameters. The three programs
take turns, so that a busy machine slows all of them; the medians count. The forward pass of the
teacher includes its logits and their softmax, in chunks, as an evaluation of its loss has them.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from openba_jax.distillation.divergences import DIVERGENCES
from openba_jax.distillation.hidden import matches
from openba_jax.distillation.settings import Distillation
from openba_jax.distillation.teacher import DistilledLoss, Teacher
from openba_jax.evaluation.loss import make_eval_step
from openba_jax.models.base import Model
from openba_jax.models.registry import model_of, named_config
from openba_jax.parallel import sharding
from openba_jax.training import optimizer, train_step

_EMBED = flags.DEFINE_integer("embed", 256, "Channels of the teacher.", lower_bound=16)
_LAYERS = flags.DEFINE_integer("layers", 4, "Layers of each of its stacks.", lower_bound=2)
_VOCABULARY = flags.DEFINE_integer("vocabulary", 8192, "Rows of both.", lower_bound=128)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Rows of a batch.", lower_bound=1)
_ENCODER = flags.DEFINE_integer("encoder_length", 128, "Encoder positions.", lower_bound=1)
_DECODER = flags.DEFINE_integer("decoder_length", 96, "Decoder positions.", lower_bound=1)
_ACCUMULATION = flags.DEFINE_integer("accumulation", 1, "Micro-batches.", lower_bound=1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of computation.")
_TEACHER_DTYPE = flags.DEFINE_enum(
    "teacher_dtype", "bfloat16", ["float32", "bfloat16"], "Type of the teacher's parameters."
)
_CPU_TIME = flags.DEFINE_bool(
    "cpu_time", False, "Time of this process on all cores, for a machine that others use, too."
)
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Steps of each program.", lower_bound=1)


def models() -> tuple[Model, Model]:
    """Teacher and student."""
    embed, layers = _EMBED.value, _LAYERS.value

    def sized(embed: int, layers: int) -> Model:
        return model_of(
            named_config(
                "tiny",
                vocab_size=_VOCABULARY.value,
                embed_dim=embed,
                num_heads=embed // 32 or 1,
                head_dim=32,
                mlp_dim=embed * 5 // 2,
                encoder_layers=layers,
                decoder_layers=layers,
                dtype=_DTYPE.value,
            )
        )

    return sized(embed, layers), sized(embed // 2, layers // 2)


def main(argv: list[str]) -> None:
    """Prints one line for each divergence, and one with hidden states."""
    del argv
    mesh = sharding.make_mesh()
    whole, student = models()
    whole = whole.replace(param_dtype=_TEACHER_DTYPE.value)
    adamw = optimizer.adamw(optimizer.warmup_constant(1e-3))
    batch = random_batch(student, mesh)
    evaluate = make_eval_step(whole, mesh)
    shardings = train_step.shardings_of(train_step.abstract_state(whole, adamw, mesh).params)
    taught = sharding.jit_on_mesh(whole.init, mesh, out_shardings=shardings)(jax.random.key(1))

    def stepping(loss: train_step.StepLoss, constants: tuple[Any, ...]) -> Callable[[], Any]:
        step = train_step.make_train_step(
            student, adamw, mesh, accumulation=_ACCUMULATION.value, loss=loss
        )
        state = train_step.init_state(student, adamw, mesh)

        def run() -> Any:
            nonlocal state
            state, metrics = step(state, batch, *constants)
            return metrics

        return run

    teacher = Teacher(Path(), whole, None)
    keep = {f"{stack}/layers": range(0, _LAYERS.value, 2) for stack in whole.stacks}
    keep["embed"] = range(0, _EMBED.value, 2)
    programs: dict[str, Callable[[], Any]] = {
        "student": stepping(train_step.CROSS_ENTROPY, ()),
        "teacher": lambda: evaluate(taught, batch),
    }
    for name in DIVERGENCES:
        settings = Distillation("", name, temperature=2.0)
        programs[name] = stepping(DistilledLoss(settings, teacher), teacher.constants(taught, mesh))
    compared = Teacher(Path(), whole, None, matches(keep, whole, "all"))
    settings = Distillation("", hidden_weight=1.0, temperature=2.0)
    programs["forward_kl, hidden states"] = stepping(
        DistilledLoss(settings, compared), compared.constants(taught, mesh)
    )
    seconds = medians(programs)
    both = seconds["student"] + seconds["teacher"]
    counts = [model.axes.count() / 1e6 for model in (whole, student)]
    sys.stdout.write(
        f"{jax.devices()[0].device_kind}: teacher {counts[0]:.1f}M, student {counts[1]:.1f}M, "
        f"{_VOCABULARY.value} rows, {_BATCH_SIZE.value} x {_ENCODER.value}/{_DECODER.value}, "
        f"{_DTYPE.value}, teacher's parameters {_TEACHER_DTYPE.value}\n"
        "| program | ms | of student + teacher |\n|---|---:|---:|\n"
        f"| student's step | {1e3 * seconds.pop('student'):.1f} | |\n"
        f"| teacher's forward pass | {1e3 * seconds.pop('teacher'):.1f} | |\n"
    )
    for name, median in seconds.items():
        sys.stdout.write(f"| step with {name} | {1e3 * median:.1f} | {median / both:.3f} |\n")


def medians(programs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds of each program, all taking turns; the first two rounds compile and warm up."""
    clock = time.process_time if _CPU_TIME.value else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(_ROUNDS.value + 2):
        for name, run in programs.items():
            began = clock()
            jax.block_until_ready(run())
            if number > 1:
                seconds[name].append(clock() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def random_batch(model: Model, mesh: Any) -> dict[str, jax.Array]:
    """Tokens without padding."""
    keys = jax.random.split(jax.random.key(0), 2)
    encoder, decoder = (
        jax.random.randint(key, (_BATCH_SIZE.value, length), 1, model.config.vocab_size, jnp.int32)
        for key, length in zip(keys, (_ENCODER.value, _DECODER.value), strict=True)
    )
    batch = {
        "encoder_input_tokens": encoder,
        "decoder_input_tokens": decoder,
        "decoder_target_tokens": decoder,
        "decoder_loss_weights": jnp.ones(decoder.shape, jnp.float32),
    }
    return jax.device_put(batch, sharding.batch_sharding(mesh))


if __name__ == "__main__":
    app.run(main)
