"""What a fit says: tables for the terminal, figures for JSON."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from openba_jax.fit.compilers import INSTALL
from openba_jax.fit.fitting import Fit
from openba_jax.fit.search import Found, seconds_of_row
from openba_jax.fit.steps import Workload
from openba_jax.models.counting import parameter_count

STAND_IN = (
    f"This is no figure of the chip: its compiler is absent ({INSTALL} brings it), and XLA's for "
    "the CPU compiled the step. Bytes of parameters and optimizer state, and FLOPs, are exact. "
    "Temporaries are those of another compiler, which computes bfloat16 in float32 and orders the "
    "program for speed, not memory: expect the chip's to be smaller. Exchanges are those before "
    "the chip's own passes join them and turn sums into scatters. Memory traffic, and with it the "
    "time, is too high."
)
LIMITS = (
    "The roofline is a bound, no measurement: every product at the chip's peak, every byte at full "
    "bandwidth, nothing waits."
)

_WIDTH = 100


def heading(work: Workload, step: str) -> str:
    """What is compiled, in a line."""
    model = work.model
    lengths = "/".join(map(str, work.lengths))
    return (
        f"{model.config.family}, {parameter_count(model):,} parameters, {model.config.dtype}; "
        f"{step}: {work.batch} rows of {lengths}"
    )


def details(found: Fit) -> str:
    """All figures of one compiled step, as lines."""
    chip = found.chips.chip
    data, fsdp, model = found.mesh
    memory = found.memory
    lines = [
        f"{found.chips.count} x {chip.name} ({found.chips.topology}), mesh data {data} x fsdp "
        f"{fsdp} x model {model}, remat {found.remat}, accumulation {found.accumulation}",
        f"compiled by {found.compiler} in {found.compile_seconds:.0f} s",
        "",
        "GiB on a device",
        *_columns(
            [
                ("parameters", _gib(memory.parameters)),
                ("optimizer state", _gib(memory.optimizer)),
                ("batch, padding of layouts", _gib(memory.other_arguments)),
                ("outputs besides the state", _gib(memory.outputs)),
                ("temporaries", _gib(memory.temporaries)),
                ("program", _gib(memory.code)),
                ("total", _gib(memory.total)),
                (f"{chip.name} has", _gib(memory.limit)),
            ]
        ),
        verdict(found),
    ]
    if found.costs is not None and found.roofline is not None:
        lines += ["", *_collectives(found), "", *_times(found)]
    if found.stand_in:
        lines += ["", *textwrap.wrap(STAND_IN, _WIDTH)]
    return "\n".join(lines) + "\n"


def verdict(found: Fit) -> str:
    """Whether it fits, and by how much."""
    memory, name = found.memory, found.chips.chip.name
    spare = _gib(abs(memory.limit - memory.total))
    if memory.fits:
        return f"fits: {spare} GiB of each {name} are left"
    return f"does not fit: {spare} GiB more than a {name} has"


def _collectives(found: Fit) -> list[str]:
    assert found.costs is not None
    rows = [("exchanges of a step", "times", "GiB received by a device")]
    for kind, (times, received) in found.costs.by_kind().items():
        rows.append((kind, f"{times:,}", _gib(received)))
    rows.append(("all", "", _gib(found.costs.received)))
    lines = _columns(rows)
    if found.ideal_received:
        share = found.costs.received / found.ideal_received
        moves = "parameters x 3" if found.step in ("train", "score") else "parameters"
        lines.append(
            f"{share:.2f} x the ideal schedule of FSDP ({moves} for each micro-batch, in the "
            f"compute type: {_gib(found.ideal_received)} GiB)"
        )
    return lines


def _times(found: Fit) -> list[str]:
    assert found.costs is not None
    assert found.roofline is not None
    chips, roofline = found.chips, found.roofline
    flops = found.costs.flops * chips.count
    hidden, exposed = roofline.hidden, roofline.exposed
    rate = found.batch / hidden, found.batch / exposed
    lines = [
        f"model {found.model_flops / 1e12:,.1f} TFLOP a step; the compiled products "
        f"{flops / 1e12:,.1f}, {flops / found.model_flops:.2f} times as many",
        f"roofline: computing {_seconds(roofline.computing)}, exchanging "
        f"{_seconds(roofline.communicating)}",
        f"a step takes at least {_seconds(hidden)} where exchanges hide behind computation, "
        f"{_seconds(exposed)} where none does:",
        f"  MFU {found.mfu(hidden):.0%} or {found.mfu(exposed):.0%}, {rate[0]:,.1f} or "
        f"{rate[1]:,.1f} rows/s",
        f"at {chips.chip.flops / 1e12:g} TFLOP/s in bfloat16, {chips.chip.bandwidth / 1e9:g} GB/s "
        f"of memory, {chips.bandwidth(range(chips.count)) / 1e9:g} GB/s between all chips",
        *textwrap.wrap(LIMITS, _WIDTH),
    ]
    if kernels := found.costs.kernels:
        named = ", ".join(f"{name} ({times})" for name, times in sorted(kernels.items()))
        lines.append(f"custom calls, with how often they run: {named}")
    return lines


_HEADER = ("mesh", "batch", "in", "remat", "GiB", "fits", "s/step", "MFU", "rows/s", "compiled in")


def row(found: Fit) -> tuple[str, ...]:
    """One line of a table of several, no exchange hidden."""
    times: tuple[str, ...] = ("-", "-", "-")
    if found.roofline is not None:
        seconds = found.roofline.exposed
        times = (
            f"{seconds:.3g}",
            f"{found.mfu(seconds):.0%}",
            f"{found.batch / seconds:,.1f}",
        )
    return (
        "x".join(map(str, found.mesh)),
        str(found.batch),
        str(found.accumulation),
        found.remat,
        _gib(found.memory.total),
        "yes" if found.memory.fits else "no",
        *times,
        f"{found.compile_seconds:.0f} s",
    )


def searched(found: Found) -> str:
    """The table of a search, and its best in full."""
    lines = _columns([_HEADER, *map(row, found.compiled)])
    lines += [
        "",
        "mesh: data x fsdp x model; in: micro-batches; times as if no exchange hid behind "
        "computation.",
        f"{len(found.compiled)} of {found.candidates} settings were compiled; {found.too_large} "
        f"need too much memory by what can be told without; {found.left} promise to be faster than "
        "the best and were left: --compilations allows more."
        if found.left
        else f"{len(found.compiled)} of {found.candidates} settings were compiled; "
        f"{found.too_large} need too much memory by what can be told without, and the rest promise "
        "nothing faster.",
        "",
    ]
    best = found.best
    if best is None:
        least = min(found.compiled, key=lambda each: each.memory.total)
        return "\n".join([*lines, f"none fits; the smallest {verdict(least)}.", ""])
    return "\n".join([*lines, "the best that fits", "", details(best)])


def as_json(found: Fit) -> dict[str, Any]:
    """All figures of one compiled step: bytes, seconds, FLOPs."""
    chip = found.chips.chip
    entry: dict[str, Any] = {
        "step": found.step,
        "chip": chip.name,
        "topology": found.chips.topology,
        "mesh": dict(zip(("data", "fsdp", "model"), found.mesh, strict=True)),
        "batch": found.batch,
        "accumulation": found.accumulation,
        "remat": found.remat,
        "compiler": found.compiler,
        "stand_in": found.stand_in,
        "compile_seconds": round(found.compile_seconds, 1),
        "memory": {
            **dataclasses.asdict(found.memory),
            "total": found.memory.total,
            "fits": found.memory.fits,
        },
        "model_flops": found.model_flops,
        "assumed": {
            "flops": chip.flops,
            "bandwidth": chip.bandwidth,
            "between_chips": found.chips.bandwidth(range(found.chips.count)),
        },
    }
    if found.costs is not None and found.roofline is not None:
        entry |= {
            "compiled_flops": found.costs.flops * found.chips.count,
            "memory_traffic": found.costs.bytes,
            "collectives": {
                kind: {"times": times, "received": received}
                for kind, (times, received) in found.costs.by_kind().items()
            },
            "received": found.costs.received,
            "ideal_received": found.ideal_received,
            "custom_calls": found.costs.kernels,
            "seconds": {
                "computing": found.roofline.computing,
                "communicating": found.roofline.communicating,
                "hidden": found.roofline.hidden,
                "exposed": found.roofline.exposed,
                "exposed_per_row": seconds_of_row(found),
            },
            "mfu": {
                "hidden": found.mfu(found.roofline.hidden),
                "exposed": found.mfu(found.roofline.exposed),
            },
        }
    return entry


def document(work: Workload, fits: Sequence[Fit], more: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON document of a run of `openba-fit`."""
    return {
        "model": work.model.config.to_dict(),
        "parameters": parameter_count(work.model),
        "lengths": {"inputs": work.lengths[0], "targets": work.lengths[1]},
        "new_tokens": work.new_tokens,
        **more,
        "fits": [as_json(each) for each in fits],
    }


def _gib(size: float) -> str:
    gib = size / 2**30
    return f"{gib:.2f}" if gib >= 0.1 or not gib else f"{gib:.2g}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                cells[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)),
            ]
        )
        for cells in rows
    ]
