"""What a compiled program costs a device: FLOPs, bytes of memory traffic, bytes of collectives.

Everything is read from the compiled text, and what a loop holds counts as often as the loop runs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from openba_jax.fit import products
from openba_jax.fit.hlo import Array, Computation, Instruction, Module, arrays

COLLECTIVES = (
    *("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)

_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
    *("call", "after-all", "partition-id", "replica-id", "opt-barrier", "async-start"),
    *("async-update", "async-done", "copy-done", "custom-call-done"),
)
"""What moves no bytes itself."""

_BOOKKEEPING = re.compile(
    r"AllocateBuffer|Sharding|SPMD|AssumeGather|GatherScatterIndices|annotate|Unpin|Pin|"
    r"MoveToHost|MoveToDevice|ConcatBitcast|X64|AsyncCollective"
)
"""Custom calls that are no kernels."""


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
      kind: a name of `COLLECTIVES`.
      times: how often a run of the program comes to it.
      received: bytes that each device of the group receives, each time.
      group: devices that exchange, of the first group.
      types: the arrays that go in.
      channel: of an exchange that a TPU's compiler spreads over several fusions, what they have in
        common; '' of others.
    """

    kind: str
    times: int
    received: float
    group: tuple[int, ...]
    types: tuple[Array, ...]
    channel: str = ""


@dataclasses.dataclass(frozen=True)
class Work:
    """What a device does between two exchanges.

    Attributes:
      times: how often a run of the program comes to it.
      flops: of matrix products, each time.
      bytes: read from and written to the large memory, each time.
    """

    times: int
    flops: float
    bytes: float


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one run of a program, on one device.

    Attributes:
      work: instructions, fusions as one.
      collectives: exchanges.
      kernels: targets of custom calls, with how often a run comes to them.
    """

    work: Sequence[Work]
    collectives: Sequence[Collective]
    kernels: dict[str, int]

    @property
    def flops(self) -> float:
        """Of all matrix products."""
        return sum(each.times * each.flops for each in self.work)

    @property
    def bytes(self) -> float:
        """To and from the large memory."""
        return sum(each.times * each.bytes for each in self.work)

    @property
    def received(self) -> float:
        """Bytes that the device receives from others."""
        return sum(each.times * each.received for each in self.collectives)

    def by_kind(self) -> dict[str, tuple[int, float]]:
        """For each kind of collective how many there are, and bytes received in all of them."""
        found: dict[str, tuple[int, float]] = {}
        for each in self.collectives:
            times, received = found.get(each.kind, (0, 0.0))
            found[each.kind] = (times + each.times, received + each.times * each.received)
        return dict(sorted(found.items()))


def costs(module: Module) -> Costs:
    """Counts a compiled program."""
    work, collectives = [], []
    kernels: dict[str, int] = {}
    for computation, instruction, times in module.runs():
        exchanges = _exchanges(module, computation, instruction, times)
        collectives += exchanges
        if exchanges and instruction.opcode != "fusion":
            continue
        if instruction.opcode == "custom-call":
            target = instruction.attribute(r'custom_call_target="([^"]*)"')
            if _BOOKKEEPING.search(target):
                continue
            kernels[target] = kernels.get(target, 0) + times
        moved = _bytes(module, computation, instruction)
        flops = products.flops(module, computation, instruction)
        if moved or flops:
            work.append(Work(times, flops, moved))
    return Costs(work, _whole(collectives), kernels)


def _whole(collectives: Sequence[Collective]) -> list[Collective]:
    """Collectives of which the parts of one are one.

    Some parts may go on inside a loop, so that the part that is met least says how often it runs.
    """
    found = [each for each in collectives if not each.channel]
    spread: dict[str, Collective] = {}
    for each in collectives:
        if each.channel:
            known = spread.setdefault(each.channel, each)
            spread[each.channel] = min(known, each, key=lambda part: part.times)
    return found + list(spread.values())


def _exchanges(
    module: Module, computation: Computation, instruction: Instruction, times: int
) -> list[Collective]:
    """The collectives of an instruction; a TPU's compiler puts some inside fusions."""
    if instruction.opcode == "fusion":
        inner = module.computations[instruction.called[0]]
        return [
            found
            for each in inner.instructions.values()
            for found in _exchanges(module, inner, each, times)
        ]
    kind = instruction.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return []
    given = computation.operand_arrays(instruction)
    group = _group(instruction)
    if kind == "all-reduce" and _is_scattered(computation, instruction):
        kind = "reduce-scatter"
    size = sum(array.bytes for array in given)
    spread = '"async_collective_fusion_config"' in instruction.attributes
    channel = instruction.attribute(r"channel_id=(\d+)") if spread else ""
    received = size * _share(kind, len(group))
    return [Collective(kind, times, received, group, tuple(given), channel)]


def _share(kind: str, devices: int) -> float:
    """Bytes received by each of some devices for each byte that it gives in."""
    if kind in ("all-gather", "collective-permute", "collective-broadcast"):
        return float(devices - 1) if kind == "all-gather" else 1.0
    rest = (devices - 1) / devices
    return 2 * rest if kind == "all-reduce" else rest


def _is_scattered(computation: Computation, instruction: Instruction) -> bool:
    """Whether each device keeps its part alone of what is summed."""
    readers = computation.readers(instruction.name)
    return bool(readers) and all(each.opcode == "dynamic-slice" for each in readers)


def _group(instruction: Instruction) -> tuple[int, ...]:
    """The devices of the first group of a collective.

    XLA writes groups in three ways: `{{0,1},{2,3}}`, `[2,2]<=[4]T(0)`, and by axes of a mesh,
    `mesh['x'=2,'y'=2] {'x'}`.
    """
    text = instruction.attributes
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return tuple(map(int, found[1].split(",")))
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, source = ([int(n) for n in part.split(",")] for part in found.group(1, 2))
        devices = np.arange(np.prod(source)).reshape(source)
        if found[3]:
            devices = devices.transpose([int(n) for n in found[3].split(",")])
        return tuple(map(int, devices.reshape(shape)[0]))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        return _of_mesh(found[1], found[2])
    if found := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", text):
        return (int(found[1]), int(found[2]))
    return (0,)


def _of_mesh(axes: str, used: str) -> tuple[int, ...]:
    """Devices of the first group; an axis may be used in part, `'x':(1)2`."""
    sizes: list[int] = []
    apart: list[int] = []
    parts = {name: part for name, *part in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", used)}
    for name, size in re.findall(r"'(\w+)'=(\d+)", axes):
        if name not in parts:
            sizes.append(int(size))
        else:
            before, part = (
                int(n) if n else default
                for n, default in zip(parts[name], (1, int(size)), strict=True)
            )
            apart.append(len(sizes) + 1)
            sizes += [before, part, int(size) // (before * part)]
    devices = np.arange(np.prod(sizes, dtype=int)).reshape(sizes)
    others = [axis for axis in range(len(sizes)) if axis not in apart]
    members = [sizes[axis] for axis in apart]
    grouped = devices.transpose([*others, *apart]).reshape(-1, int(np.prod(members, dtype=int)))
    return tuple(map(int, grouped[0]))


def _bytes(module: Module, computation: Computation, instruction: Instruction) -> float:
    """To and from the large memory, by an instruction outside of fusions."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0.0
    if opcode == "fusion":
        return _fusion_bytes(module, computation, instruction)
    if opcode == "copy-start":
        there, here = arrays(instruction.type)[:2]
        return _far(there) + _far(here)
    if opcode in ("dynamic-slice", "gather", "slice"):
        return 2.0 * sum(map(_far, instruction.results))
    if opcode == "dynamic-update-slice":
        return 2.0 * _far(computation.instructions[instruction.operands[1]].results[0])
    given = computation.operand_arrays(instruction)
    return sum(map(_far, given)) + sum(map(_far, instruction.results))


def _far(array: Array) -> float:
    return 0.0 if array.near else float(array.bytes)


def _fusion_bytes(module: Module, computation: Computation, instruction: Instruction) -> float:
    """A fusion reads what it uses of its operands, and writes in place where it can."""
    inner = module.computations[instruction.called[0]]
    total = 0.0
    for name, parameter in zip(instruction.operands, inner.parameters, strict=False):
        for array in (
            computation.instructions[name].results if name in computation.instructions else ()
        ):
            if not array.near:
                total += min(array.bytes, _read(module, inner, parameter.name, array.bytes))
    written = [inner.root]
    if inner.root.opcode == "tuple":
        written = [inner.instructions[name] for name in inner.root.operands]
    for result, made in zip(instruction.results, written, strict=False):
        origin = inner.origin(made.name)
        if origin.opcode == "parameter" or origin.opcode in COLLECTIVES:
            continue  # Passed on, or counted as an exchange.
        if origin.opcode == "dynamic-update-slice":
            update = inner.instructions[origin.operands[1]].results[0]
            total += 0 if result.near else min(update.bytes, result.bytes)
        else:
            total += _far(result)
    return total


def _read(module: Module, computation: Computation, name: str, whole: int) -> float:
    """Bytes that a fused computation reads of a parameter."""
    total = 0.0
    for reader in computation.readers(name):
        if reader.opcode in ("dynamic-slice", "slice", "gather"):
            total += reader.results[0].bytes
        elif reader.opcode == "dynamic-update-slice":
            first = computation.origin(reader.operands[0]).name == name
            total += 0 if first else whole
        elif reader.opcode in COLLECTIVES or (reader.opcode == "tuple" and reader.root):
            continue
        elif reader.opcode == "fusion":
            inner = module.computations[reader.called[0]]
            for given, parameter in zip(reader.operands, inner.parameters, strict=False):
                if given in computation.instructions and computation.origin(given).name == name:
                    total += _read(module, inner, parameter.name, whole)
        else:
            return whole
    return total
