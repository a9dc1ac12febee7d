"""Measures what each performance lever does to a training step: time, memory, time to compile.

python scripts/benchmarks/levers.py

One lever is moved at a time, from the defaults. Memory is what the compiler reserves for
temporaries, beside parameters and optimizer state.
"""

from __future__ import annotations

import functools
import sys
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from openba_jax.models.base import Model
from openba_jax.models.registry import model_of, named_config
from openba_jax.parallel import sharding
from openba_jax.training import optimizer, train_step

_MODEL = flags.DEFINE_string("model", "small", "Named size.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Rows of a batch.", lower_bound=1)
_ENCODER = flags.DEFINE_integer("encoder_length", 256, "Encoder positions.", lower_bound=1)
_DECODER = flags.DEFINE_integer("decoder_length", 160, "Decoder positions.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 5, "Steps to time; the fastest counts.", lower_bound=1)


def measure(model: Model, accumulation: int) -> tuple[float, float, float]:
    """Seconds a step, MiB of temporaries, seconds to compile."""
    mesh = sharding.make_mesh((-1, 1, 1))
    adamw = optimizer.adamw(functools.partial(jnp.full_like, fill_value=1e-3, dtype=jnp.float32))
    state = train_step.init_state(model, adamw, mesh)
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
    batch = jax.device_put(batch, sharding.batch_sharding(mesh))
    step = train_step.make_train_step(model, adamw, mesh, accumulation=accumulation)
    began = time.perf_counter()
    compiled = step.lower(state, batch).compile()
    compile_seconds = time.perf_counter() - began
    seconds = []
    for _ in range(_STEPS.value):
        began = time.perf_counter()
        state, metrics = compiled(state, step.seed, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - began)
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return min(seconds), memory, compile_seconds


def main(argv: list[str]) -> None:
    del argv
    base = model_of(named_config(_MODEL.value))
    levers = {
        "defaults": (base, 1),
        "scan_layers = False": (base.replace(scan_layers=False), 1),
        "remat_policy = 'minimal'": (base.replace(remat_policy="minimal"), 1),
        "remat_policy = 'full'": (base.replace(remat_policy="full"), 1),
        "ACCUMULATION = 4": (base, 4),
        "dtype = 'bfloat16'": (base.replace(dtype="bfloat16"), 1),
    }
    sys.stdout.write(
        f"{jax.devices()[0].device_kind}, {_MODEL.value}, {_BATCH_SIZE.value} x "
        f"{_ENCODER.value}/{_DECODER.value}\n"
        "| lever | s a step | MiB of temporaries | s to compile |\n|---|---:|---:|---:|\n"
    )
    for name, (model, accumulation) in levers.items():
        seconds, memory, compiling = measure(model, accumulation)
        sys.stdout.write(f"| `{name}` | {seconds:.2f} | {memory:.0f} | {compiling:.1f} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    app.run(main)
