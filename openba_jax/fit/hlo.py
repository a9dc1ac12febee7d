"""Reads the text of a compiled program: computations, instructions, how often each runs.

The text is that of `jax.stages.Compiled.as_text`: XLA's HLO after all passes, for one device.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAMED = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPERAND = re.compile(r"%([\w.\-]+)")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NUMBER = re.compile(r"^\d+$")

_COUNTERS = ("s32[]", "u32[]")
_TRANSPARENT = ("bitcast", "copy", "reshape", "convert", "transpose")
"""What passes an array on without reading another part of it."""


@dataclasses.dataclass(frozen=True)
class Array:
    """An array type.

    Attributes:
      dtype: as XLA names it.
      shape: sizes.
      near: whether it lies in a TPU's vector memory (`S(1)`) and not in the large one.
    """

    dtype: str
    shape: tuple[int, ...]
    near: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes without padding; fewer than 8 bits count as a whole byte."""
        return self.size * _item_bytes(self.dtype)


def _item_bytes(dtype: str) -> int:
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits[0]) // 8) if bits else int(dtype == "pred")


def arrays(text: str) -> list[Array]:
    """All array types in a text, such as the type of an instruction."""
    return [
        Array(
            dtype,
            tuple(int(size) for size in sizes.split(",") if size),
            "S(1)" in (layout or ""),
        )
        for dtype, sizes, layout in _ARRAY.findall(text)
    ]


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
      name: in its computation.
      type: of the result, as text.
      opcode: what it does.
      operands: names of instructions, or the text of a constant.
      attributes: what follows.
      root: whether it is the result of the computation.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def results(self) -> list[Array]:
        """The arrays of its result."""
        return arrays(self.type)

    @property
    def called(self) -> list[str]:
        """Names of computations that it runs."""
        names = _CALLED.findall(self.attributes)
        for branches in _BRANCHES.findall(self.attributes):
            names += _OPERAND.findall(branches)
        return names

    def attribute(self, pattern: str) -> str:
        """The first group of a pattern in its attributes; '' where there is none."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass
class Computation:
    """Instructions in the order in which they run.

    Attributes:
      name: of the computation.
      instructions: by name.
    """

    name: str
    instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        """The result."""
        return next(i for i in self.instructions.values() if i.root)

    @property
    def parameters(self) -> list[Instruction]:
        """By number."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return sorted(found, key=lambda i: int(i.operands[0]))

    def operand_arrays(self, instruction: Instruction) -> list[Array]:
        """The arrays that an instruction reads."""
        return [
            array
            for name in instruction.operands
            if name in self.instructions
            for array in self.instructions[name].results
        ]

    def readers(self, name: str) -> list[Instruction]:
        """What reads an instruction, seen through reshapes and the like."""
        found = []
        for each in self.instructions.values():
            if name in each.operands:
                through = each.opcode in _TRANSPARENT and not each.root
                found += self.readers(each.name) if through else [each]
        return found

    def origin(self, name: str) -> Instruction:
        """Where an array comes from, seen through reshapes and the like."""
        instruction = self.instructions[name]
        while instruction.opcode in _TRANSPARENT:
            instruction = self.instructions[instruction.operands[0]]
        return instruction


@dataclasses.dataclass
class Module:
    """A compiled program.

    Attributes:
      computations: by name.
      entry: name of the first.
    """

    computations: dict[str, Computation]
    entry: str

    def runs(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Every instruction outside of fusions, with how often a run of the program comes to it.

        Loops that end by a condition on data count as often as they may at most. Of branches each
        counts once.
        """
        yield from self._runs(self.computations[self.entry], 1)

    def _runs(
        self, computation: Computation, times: int
    ) -> Iterator[tuple[Computation, Instruction, int]]:
        for instruction in computation.instructions.values():
            yield computation, instruction, times
            if instruction.opcode == "while":
                body = instruction.attribute(r"body=%([\w.\-]+)")
                trips = self.trips(computation, instruction)
                yield from self._runs(self.computations[body], times * trips)
            elif instruction.opcode in ("call", "conditional", "async-start"):
                for name in instruction.called:
                    yield from self._runs(self.computations[name], times)

    def trips(self, computation: Computation, loop: Instruction) -> int:
        """How often the body of a loop runs at most; 1 where the text does not say.

        Either the loop's configuration says it, or a counter that starts at 0 says it: the largest
        whole number that the condition compares with, a constant there or one that is carried into
        the loop, over what the body adds to the counter.
        """
        if known := _TRIPS.search(loop.attributes):
            return int(known[1])
        condition = self.computations[loop.attribute(r"condition=%([\w.\-]+)")]
        body = self.computations[loop.attribute(r"body=%([\w.\-]+)")]
        bounds, steps = self._constants(condition), [1]
        carried = computation.instructions[loop.operands[0]].operands
        for each in condition.instructions.values():
            if each.opcode == "get-tuple-element" and each.type.startswith(_COUNTERS):
                place = int(each.attribute(r"index=(\d+)"))
                if place < len(carried):
                    bounds += _number(computation, carried[place])
                if place < len(body.root.operands):
                    added = body.origin(body.root.operands[place])
                    if added.opcode == "add":
                        steps += [n for name in added.operands for n in _number(body, name)]
        return max(1, -(-max(bounds, default=1) // max(steps)))

    def _constants(self, computation: Computation) -> list[int]:
        found = []
        for each in computation.instructions.values():
            if each.opcode == "constant" and each.type.startswith(_COUNTERS):
                found += [int(text) for text in each.operands if _NUMBER.match(text)]
            elif each.opcode == "fusion":
                found += [n for c in each.called for n in self._constants(self.computations[c])]
        return found


def _number(computation: Computation, name: str) -> list[int]:
    """The whole number that an instruction is, as a list; an empty one where it is none."""
    origin = computation.origin(name)
    is_number = origin.opcode == "constant" and _NUMBER.match(origin.operands[0])
    return [int(origin.operands[0])] if is_number else []


def parse(text: str) -> Module:
    """Reads the text of a compiled program.

    Raises:
      ValueError: it has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is not None and (found := _NAMED.match(line)):
            made = _instruction(found, line)
            current.instructions[made.name] = made
        elif head := _HEAD.match(line):
            current = computations[head[2]] = Computation(head[2])
            entry = head[2] if head[1] else entry
        elif line.rstrip() == "}" or line.startswith("}, "):  # `})` ends a constant of many lines.
            current = None
    if not entry:
        raise ValueError("the text of the program has no ENTRY")
    return Module(computations, entry)


def _instruction(found: re.Match[str], line: str) -> Instruction:
    start = found.end()
    kind = _balanced(line, start) if line[start] == "(" else line.index(" ", start)
    opening = line.index("(", kind)
    closing = _balanced(line, opening)
    inside = line[opening + 1 : closing - 1]
    opcode = line[kind:opening].strip()
    names = (inside,) if opcode in ("constant", "parameter") else tuple(_OPERAND.findall(inside))
    return Instruction(
        name=found[2],
        type=line[start:kind],
        opcode=opcode,
        operands=names,
        attributes=line[closing:],
        root=bool(found[1]),
    )


def _balanced(line: str, start: int) -> int:
    """Where the bracket that opens at `start` is closed, plus one."""
    depth = 0
    for place in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[place], 0)
        if not depth:
            return place + 1
    return len(line)
