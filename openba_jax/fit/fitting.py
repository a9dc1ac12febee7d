"""One step on one mesh: compiled, its memory, its costs, the time that a roofline gives it."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from openba_jax.errors import UserError
from openba_jax.fit import hlo
from openba_jax.fit.chips import Slice
from openba_jax.fit.compilers import Target
from openba_jax.fit.costs import Costs, costs
from openba_jax.fit.steps import STEPS, Lowered, Workload
from openba_jax.models.counting import parameter_count
from openba_jax.parallel.sharding import make_mesh

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_REFUSED = re.compile(r"HLO temporaries \(([\d.]+)([KMGT])\) exceeds available HBM")
_EXCEEDED = re.compile(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      parameters: without padding.
      optimizer: its state, likewise.
      other_arguments: the batch, and what layouts pad arguments with.
      outputs: that take no argument's place.
      temporaries: activations, gradients and all else that a step makes and drops.
      code: of the program.
      limit: that a program may take.
    """

    parameters: int
    optimizer: int
    other_arguments: int
    outputs: int
    temporaries: int
    code: int
    limit: int

    @property
    def total(self) -> int:
        """All of it."""
        return (
            self.parameters
            + self.optimizer
            + self.other_arguments
            + self.outputs
            + self.temporaries
            + self.code
        )

    @property
    def fits(self) -> bool:
        """Whether a device has as much."""
        return self.total <= self.limit


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step by the chip's peak rates.

    Attributes:
      computing: every instruction takes what its products or its memory traffic take at least.
      communicating: every exchange takes what its bytes take at least.
    """

    computing: float
    communicating: float

    @property
    def hidden(self) -> float:
        """Seconds where exchanges hide behind computation as far as they can."""
        return max(self.computing, self.communicating)

    @property
    def exposed(self) -> float:
        """Seconds where none does."""
        return self.computing + self.communicating


@dataclasses.dataclass(frozen=True)
class Fit:
    """What became of a step.

    Attributes:
      step: a name of `steps.STEPS`.
      mesh: sizes of data, fsdp and model.
      batch: rows of a step.
      accumulation: micro-batches.
      remat: the rematerialisation policy.
      chips: what it was compiled for.
      stand_in: whether CPU devices stood for the chips.
      compiler: whose code it is, in words.
      compile_seconds: lowering included.
      memory: of a device.
      model_flops: on all devices, without recomputation.
      costs: of a device; None where the compiler refused the program for want of memory.
      roofline: likewise.
      ideal_received: bytes that a device receives in the ideal schedule of FSDP.
    """

    step: str
    mesh: tuple[int, int, int]
    batch: int
    accumulation: int
    remat: str
    chips: Slice
    stand_in: bool
    compiler: str
    compile_seconds: float
    memory: Memory
    model_flops: float
    costs: Costs | None
    roofline: Roofline | None
    ideal_received: float

    def mfu(self, seconds: float) -> float:
        """Model FLOPs over what the chips could do in so many seconds."""
        return self.model_flops / (seconds * self.chips.count * self.chips.chip.flops)


def fit(work: Workload, step: str, mesh_shape: Sequence[int], target: Target) -> Fit:
    """Compiles a step for a mesh of the target's devices.

    Args:
      work: what it works on.
      step: a name of `STEPS`.
      mesh_shape: sizes of data, fsdp and model; one may be -1.
      target: what to compile for.

    Raises:
      UserError: the mesh does not match the devices, the batch the mesh, or the compiler fails.
    """
    if step not in STEPS:
        raise UserError(f"no step is called {step!r}; known are {', '.join(STEPS)}.")
    mesh = make_mesh(mesh_shape, target.devices)
    start = time.perf_counter()
    lowered = STEPS[step](work, mesh)
    chips, limit = target.slice, target.slice.chip.memory
    counted, roofline = None, None
    try:
        compiled = lowered.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        memory = _refused(str(error), lowered, limit)
        if memory is None:
            why = str(error).partition(", metadata=")[0].splitlines()[0]
            raise UserError(
                f"{target.compiler} fails on this program ({why}); take another batch, other "
                "lengths or another mesh."
            ) from error
    else:
        memory = _memory(compiled.memory_analysis(), lowered, limit)
        counted = costs(hlo.parse(compiled.as_text() or ""))
        roofline = by_roofline(counted, chips)
    data, fsdp, model = (mesh.shape[name] for name in ("data", "fsdp", "model"))
    return Fit(
        step=step,
        mesh=(data, fsdp, model),
        batch=work.batch,
        accumulation=work.accumulation if step == "train" else 1,
        remat=work.model.config.remat_policy,
        chips=chips,
        stand_in=target.stand_in,
        compiler=target.compiler,
        compile_seconds=time.perf_counter() - start,
        memory=memory,
        model_flops=lowered.model_flops,
        costs=counted,
        roofline=roofline,
        ideal_received=ideal_received(work, step, fsdp, model),
    )


def ideal_received(work: Workload, step: str, fsdp: int, model: int) -> float:
    """Bytes that a device receives where FSDP moves every parameter as seldom as it can.

    Parameters are gathered for the forward and for the backward pass, gradients are scattered
    once: three times for each micro-batch, in the compute type. So it is where scores come from
    gradients. Other steps gather them once.
    """
    if step == "decode":
        return 0.0
    moves = {"train": 3 * work.accumulation, "score": 3}.get(step, 1)
    size = parameter_count(work.model) * jnp.dtype(work.model.config.dtype).itemsize
    return moves * size / model * (fsdp - 1) / fsdp


def by_roofline(counted: Costs, chips: Slice) -> Roofline:
    """Seconds of a run at the peak rates of chips."""
    chip = chips.chip
    return Roofline(
        sum(
            each.times * max(each.flops / chip.flops, each.bytes / chip.bandwidth)
            for each in counted.work
        ),
        sum(
            each.times * each.received / chips.bandwidth(each.group)
            for each in counted.collectives
            if each.received
        ),
    )


def _memory(analysis: Any, lowered: Lowered, limit: int) -> Memory:
    state = lowered.parameters + lowered.optimizer
    return Memory(
        parameters=lowered.parameters,
        optimizer=lowered.optimizer,
        other_arguments=max(0, analysis.argument_size_in_bytes - state),
        outputs=max(0, analysis.output_size_in_bytes - analysis.alias_size_in_bytes),
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
        limit=limit,
    )


def _refused(message: str, lowered: Lowered, limit: int) -> Memory | None:
    """What a compiler says that a program would take; None where it complains of something else."""
    state = lowered.parameters + lowered.optimizer
    if found := _REFUSED.search(message):
        temporaries = int(float(found[1]) * _UNITS[found[2]])
    elif found := _EXCEEDED.search(message):
        temporaries = max(0, int(float(found[1]) * _UNITS[found[2]]) - state)
    else:
        return None
    return Memory(lowered.parameters, lowered.optimizer, 0, 0, temporaries, 0, limit)
