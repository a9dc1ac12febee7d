"""Seconds to compile a training step of 4 and of 48 layers, for every family.

python scripts/benchmarks/compile_depth.py [--repeats=3] [--chip=v5p]

With a chip its own compiler, of the extra `aot`, compiles; otherwise that of this CPU.
"""

from __future__ import annotations

import statistics
import time

import jax
import numpy as np
from absl import app, flags

from openba_jax.data.layouts import LAYOUTS, Part
from openba_jax.fit.chips import find_slice
from openba_jax.fit.compilers import INSTALL, has_compiler, target
from openba_jax.fit.environment import prepare
from openba_jax.models.base import Model
from openba_jax.models.registry import model_of, named_config
from openba_jax.parallel.sharding import make_mesh
from openba_jax.training import train_step
from openba_jax.training.optimizer import adamw, warmup_constant

DEPTHS = (4, 48)
SIZES = ("tiny", "tiny_t5_1_1", "tiny_llama", "tiny_t5gemma")
_CHIP = flags.DEFINE_string("chip", "", "Chip to compile for; by default this CPU.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Compilations of each.", lower_bound=1)


def deepened(name: str, depth: int) -> Model:
    """A named size with stacks of so many layers."""
    model = model_of(named_config(name))
    sizes = {**model.axes.sizes, **{f"{stack}/layers": depth for stack in model.stacks}}
    kept = {
        field: (values * depth)[:depth]
        for field in model.config.per_layer
        if (values := getattr(model.config, field))
    }
    return model.resized(sizes, **kept)


def device() -> jax.Device:
    """What to compile for."""
    if not _CHIP.value:
        return jax.devices()[0]
    chips = find_slice(_CHIP.value, count=1)
    if not has_compiler(chips.chip.platform):
        raise SystemExit(f"the compiler of {_CHIP.value} is absent; {INSTALL} brings it.")
    return target(chips).devices[0]


def seconds(model: Model) -> float:
    """Seconds to lower and compile a training step."""
    mesh = make_mesh(devices=[device()])
    optimizer = adamw(warmup_constant(1e-3))
    samples = {"inputs": np.ones((2, 16), np.int32), "targets": np.ones((2, 16), np.int32)}
    batch = LAYOUTS[model.layout].plain([Part(np.arange(2), samples)], 2, (16, 16))
    state = train_step.abstract_state(model, optimizer, mesh)
    step = train_step.make_train_step(model, optimizer, mesh)
    jax.clear_caches()
    start = time.perf_counter()
    step.lower(state, batch).compile()  # type: ignore[attr-defined]
    return time.perf_counter() - start


def main(argv: list[str]) -> None:
    """Prints a table."""
    del argv
    if _CHIP.value:
        prepare()
    print("| size | 4 layers, s | 48 layers, s | ratio |")
    print("|---|---:|---:|---:|")
    for name in SIZES:
        found = [
            statistics.median(seconds(deepened(name, depth)) for _ in range(_REPEATS.value))
            for depth in DEPTHS
        ]
        print(f"| {name} | {found[0]:.2f} | {found[1]:.2f} | {found[1] / found[0]:.2f} |")


if __name__ == "__main__":
    app.run(main)
