"""The best that fits: meshes, rematerialisation and batches, the most promising compiled first.

What is compiled takes minutes, so candidates are first judged without: by the state that each
device would hold, by what the forward pass keeps, and by the time that they need at least.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import get_args

import jax.numpy as jnp

from openba_jax.errors import UserError
from openba_jax.fit.chips import Slice
from openba_jax.fit.compilers import Target
from openba_jax.fit.fitting import Fit, fit, ideal_received
from openba_jax.fit.steps import Workload, bytes_on_device, kept_for_backward, placed_params
from openba_jax.models.config import RematPolicy
from openba_jax.models.counting import parameter_count, train_flops_per_example
from openba_jax.parallel.sharding import make_mesh
from openba_jax.training import train_step

LARGEST_MODEL_AXIS = 8
"""Every layer waits for its exchanges over `model`: more chips than stand close together do not
share one."""

_RECOMPUTED = {"none": 0.0, "minimal": 0.0, "full": 1.0}
"""Forward passes that the backward pass repeats; what `minimal` repeats are no matrix products."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A setting that may be the best.

    Attributes:
      work: with its batch, accumulation and rematerialisation.
      mesh: sizes of data, fsdp and model.
      bytes: that a device holds, as far as can be told without compiling.
      seconds: that a row takes at least, as far as can be told.
    """

    work: Workload
    mesh: tuple[int, int, int]
    bytes: float
    seconds: float

    @property
    def rows(self) -> int:
        """Rows that a device reads at once."""
        data, fsdp, _ = self.mesh
        return self.work.batch // (self.work.accumulation * data * fsdp)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
      compiled: in the order in which they were tried.
      candidates: number of all settings that divide.
      too_large: of these, settings that were ruled out without compiling.
      left: of these, settings that were left when `compilations` were done.
    """

    compiled: Sequence[Fit]
    candidates: int
    too_large: int
    left: int

    @property
    def best(self) -> Fit | None:
        """The fastest that fits, a row at a time; None where none does."""
        fitting = [each for each in self.compiled if each.memory.fits and each.roofline]
        return min(fitting, key=seconds_of_row, default=None)


def seconds_of_row(found: Fit) -> float:
    """Seconds of a step, no exchange hidden, for each row of its batch."""
    assert found.roofline is not None
    return found.roofline.exposed / found.batch


def search(
    work: Workload,
    target: Target,
    *,
    batches: Sequence[int],
    remats: Sequence[str] = get_args(RematPolicy),
    meshes: Sequence[tuple[int, int, int]] = (),
    compilations: int = 8,
    report: Callable[[Fit], None] = lambda _: None,
) -> Found:
    """Tries settings of a training step until none that is left can be better.

    Args:
      work: what to train; batch, accumulation and rematerialisation are replaced.
      target: what to compile for.
      batches: rows of a step. Each is tried whole and in micro-batches.
      remats: rematerialisation policies.
      meshes: sizes of data, fsdp and model; () takes all that the devices allow.
      compilations: settings that are compiled at most.
      report: is told of each that was compiled.

    Raises:
      UserError: no setting divides the batch, or none fits without compiling anything.
    """
    found = candidates(work, target, batches, remats, meshes or all_meshes(work, target.slice))
    limit = target.slice.chip.memory
    if not found:
        raise UserError(
            f"no mesh of {target.slice.count} devices divides a batch of "
            f"{', '.join(map(str, batches))}; take a multiple of their number."
        )
    possible = [each for each in found if each.bytes <= limit]
    if not possible:
        least = min(found, key=lambda each: each.bytes)
        raise UserError(
            f"no setting fits: state, gradients and what the backward pass reads take at least "
            f"{least.bytes / 2**30:.1f} GiB on each {target.slice.chip.name}, "
            f"{(least.bytes - limit) / 2**30:.1f} GiB more than it has; take more chips."
        )
    compiled: list[Fit] = []
    refused: list[Candidate] = []
    left = sorted(possible, key=lambda each: each.seconds)
    best = float("inf")
    skipped = 0
    while left and len(compiled) < compilations and left[0].seconds < best:
        candidate = left.pop(0)
        if any(_takes_more(candidate, other) for other in refused):
            skipped += 1
            continue
        made = fit(candidate.work, "train", candidate.mesh, target)
        compiled.append(made)
        report(made)
        if made.memory.fits and made.roofline:
            best = min(best, seconds_of_row(made))
        else:
            refused.append(candidate)
    promising = [each for each in left if each.seconds < best]
    too_large = len(found) - len(possible) + skipped
    return Found(compiled, len(found), too_large, len(promising))


def all_meshes(work: Workload, chips: Slice) -> list[tuple[int, int, int]]:
    """Meshes (data, fsdp, model) of all chips, whose model axis divides the heads."""
    sizes = work.model.axes.sizes
    heads = [size for key, size in sizes.items() if key.rpartition("/")[2] in ("heads", "kv_heads")]
    shapes = []
    for model in range(1, min(LARGEST_MODEL_AXIS, chips.count) + 1):
        if chips.count % model or any(size % model for size in heads):
            continue
        rest = chips.count // model
        shapes += [(rest // fsdp, fsdp, model) for fsdp in range(1, rest + 1) if rest % fsdp == 0]
    return shapes


def candidates(
    work: Workload,
    target: Target,
    batches: Sequence[int],
    remats: Sequence[str],
    meshes: Sequence[tuple[int, int, int]],
) -> list[Candidate]:
    """All settings whose batch divides over their mesh, with what can be told of each."""
    found = []
    for remat in remats:
        policy = dataclasses.replace(work, model=work.model.replace(remat_policy=remat))
        kept = kept_for_backward(policy.model, policy.lengths)
        for mesh, batch in itertools.product(meshes, batches):
            data, fsdp, _ = mesh
            if batch % (data * fsdp):
                continue
            state = _state_bytes(policy, mesh, target)
            accumulation = 1
            while batch % (accumulation * data * fsdp) == 0:
                made = dataclasses.replace(policy, batch=batch, accumulation=accumulation)
                activations = kept * batch / (accumulation * target.slice.count)
                seconds = _least_seconds(made, mesh, target.slice)
                found.append(Candidate(made, mesh, state + activations, seconds))
                accumulation *= 2
    return found


def _state_bytes(work: Workload, mesh_shape: tuple[int, int, int], target: Target) -> float:
    """Parameters, optimizer state and float32 gradients on a device."""
    mesh = make_mesh(mesh_shape, target.devices)
    state = train_step.abstract_state(work.model, work.optimizer, mesh)
    params = placed_params(work.model, mesh)
    width = 4 / jnp.dtype(work.model.config.param_dtype).itemsize
    return bytes_on_device(state) + width * bytes_on_device(params)


def _least_seconds(work: Workload, mesh: tuple[int, int, int], chips: Slice) -> float:
    """Seconds of a row: products at peak, and exchanges of the ideal schedule, one after the other.

    The schedule gathers parameters and scatters gradients over `fsdp`, sums gradients over `data`
    once a step, and activations over `model` four times a layer.
    """
    data, fsdp, model = mesh
    config = work.model.config
    repeated = 1 + _RECOMPUTED[config.remat_policy] / 3
    flops = work.batch * train_flops_per_example(work.model, *work.lengths) * repeated
    size = parameter_count(work.model) / model
    received = ideal_received(work, "train", fsdp, model)
    received += 2 * (data - 1) / data * 4 * size / fsdp
    axes = work.model.axes
    width = axes.sizes.get("embed", axes.sizes.get("decoder/embed", 0))
    stacks = work.model.stacks
    lengths = work.lengths if len(stacks) == 2 else (sum(work.lengths),)
    tokens = sum(axes.depth(name) * length for name, length in zip(stacks, lengths, strict=True))
    of_row = 4 * 2 * (model - 1) / model * width * tokens * jnp.dtype(config.dtype).itemsize
    received += of_row * work.batch / (data * fsdp)
    everybody = range(chips.count)
    exchanges = received / chips.bandwidth(everybody) if chips.count > 1 else 0.0
    return (flops / (chips.count * chips.chip.flops) + exchanges) / work.batch


def _takes_more(candidate: Candidate, other: Candidate) -> bool:
    """Whether a candidate needs at least the memory of another one on the same mesh."""
    order = list(get_args(RematPolicy))  # From the one that keeps most to the one that keeps least.
    keeps, others = (
        order.index(each.work.model.config.remat_policy) for each in (candidate, other)
    )
    return candidate.mesh == other.mesh and candidate.rows >= other.rows and keeps <= others
