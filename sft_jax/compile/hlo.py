"""Counts of what a compiled program runs, read from the text of its optimised HLO.

XLA's own analysis counts the body of a loop once. Here it counts once for each turn, and a
conditional counts as its most expensive branch.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)

_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
"""Sizes of the types whose name does not end in their number of bits."""

_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"(ENTRY\s+)?%?([\w.\-]+)\s*\(.*->.*\{\s*$")
_ASSIGNED = re.compile(r"\s+(?:ROOT\s+)?%?([\w.\-]+)\s*=\s*(.*)$")
_FREE = (
    *("add-dependency", "after-all", "bitcast", "constant", "domain", "get-tuple-element", "iota"),
    *("opt-barrier", "optimization-barrier", "parameter", "partition-id", "replica-id", "tuple"),
)
"""Instructions that run nothing."""


class Collective(NamedTuple):
    """Communication between devices.

    Attributes:
      kind: One of `COLLECTIVES`.
      times: Number of runs in one run of the program.
      bytes: Size of the result on one device.
      shape: Its dtype and shape, as the program writes them.
      devices: Number of devices that communicate with each other; 0 if the program does not say.
    """

    kind: str
    times: float
    bytes: int
    shape: str
    devices: int


@dataclasses.dataclass(frozen=True)
class Counts:
    """Work of one device in one run of a program.

    Attributes:
      kernels: Number of instructions that run something, loops multiplied out.
      bytes: Bytes of their operands and results in the device's main memory, with the padding of
        their layouts. An operand counts in full, also if only a part is read.
      cycles: Sum of the cycles that the compiler for TPUs estimates; 0 from other compilers.
      collectives: Collectives, by channel.
      unscheduled: Number of runs of kernels that a compiler for TPUs is given, and whose cycles
        are not known.
    """

    kernels: float = 0
    bytes: float = 0
    cycles: float = 0
    collectives: Mapping[str, Collective] = dataclasses.field(default_factory=dict)
    unscheduled: float = 0

    def __add__(self, other: Counts) -> Counts:
        """Adds the work of another part; the halves of an asynchronous collective count once."""
        merged = dict(self.collectives)
        for channel, new in other.collectives.items():
            old = merged.get(channel, new)
            merged[channel] = max(old, new, key=lambda one: (one.times, one.bytes))
        return Counts(
            self.kernels + other.kernels,
            self.bytes + other.bytes,
            self.cycles + other.cycles,
            merged,
            self.unscheduled + other.unscheduled,
        )

    def repeated(self, times: float) -> Counts:
        """Returns the work of several runs."""
        collectives = {
            channel: one._replace(times=one.times * times)
            for channel, one in self.collectives.items()
        }
        return Counts(
            self.kernels * times,
            self.bytes * times,
            self.cycles * times,
            collectives,
            self.unscheduled * times,
        )


def count(text: str, cycles: Mapping[str, int] | None = None) -> Counts:
    """Counts the work of a program.

    Args:
      text: Its text, as of `Compiled.as_text()`.
      cycles: Cycles of instructions by their name, where the text has none.
    """
    return _Program(text, cycles or {}).counts()


class _Instruction(NamedTuple):
    name: str
    opcode: str
    type: str
    operands: Sequence[str]
    text: str

    def attribute(self, name: str) -> list[str]:
        found = re.search(rf"\b{name}=(?:\{{([^}}]*)\}}|(%?[\w.\-]+))", self.text)
        inside = (found[1] or found[2] or "") if found else ""
        return [part.strip().lstrip("%") for part in inside.split(",") if part.strip()]

    def called(self) -> list[str]:
        """Computations that a fusion, a call or an asynchronous start runs."""
        return self.attribute("calls") + (
            self.attribute("to_apply") if self.opcode == "call" else []
        )


class _Program:
    def __init__(self, text: str, cycles: Mapping[str, int]) -> None:
        self._cycles = cycles
        self._computations: dict[str, list[_Instruction]] = {}
        self._entry = ""
        body: list[_Instruction] = []
        for line in text.splitlines():
            if header := _HEADER.match(line):
                body = self._computations.setdefault(header[2], [])
                self._entry = header[2] if header[1] else self._entry
            elif instruction := _parse(line):
                body.append(instruction)
        self._done: dict[str, Counts] = {}

    def counts(self) -> Counts:
        return self._counts_of(self._entry)

    def _counts_of(self, name: str) -> Counts:
        if name not in self._done:
            instructions = self._computations.get(name, [])
            types = {one.name: one.type for one in instructions}
            self._done[name] = sum((self._one(one, types) for one in instructions), Counts())
        return self._done[name]

    def _one(self, one: _Instruction, types: Mapping[str, str]) -> Counts:
        if one.opcode in _FREE or one.opcode.endswith("-done"):
            return Counts()
        match one.opcode:
            case "while":
                (body,), (condition,) = one.attribute("body"), one.attribute("condition")
                turns = self._turns(one, condition)
                return (self._counts_of(body) + self._counts_of(condition)).repeated(turns)
            case "conditional":
                branches = one.attribute("branch_computations") or [
                    *one.attribute("true_computation"),
                    *one.attribute("false_computation"),
                ]
                return max(map(self._counts_of, branches), key=lambda c: (c.cycles, c.kernels))
            case "call" | "async-start":
                return sum(map(self._counts_of, one.called()), Counts())
        estimated = re.search(r'"estimated_cycles":"(\d+)"', one.text)
        cycles = int(estimated[1]) if estimated else self._cycles.get(one.name, 0)
        # The space that a library is given to work in is not read and written as a whole.
        own = re.sub(r"\bs8\[\d+\]", "", one.type) if one.opcode == "custom-call" else one.type
        moved = [own, *(types.get(operand, "") for operand in one.operands)]
        return Counts(
            kernels=1,
            bytes=sum(map(_main_memory_bytes, moved)),
            cycles=cycles,
            unscheduled=not cycles and "tpu_custom_call" in one.text,
            collectives=dict(self._collectives(one)),
        )

    def _collectives(self, one: _Instruction) -> Iterator[tuple[str, Collective]]:
        """Collectives of an instruction, and of those that are fused into it."""
        kind = one.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            channel = re.search(r"channel_id=(\d+)", one.text)
            sizes = [_logical_bytes(shape) for shape in _SHAPE.findall(one.type)]
            # The type of an asynchronous start is a tuple of its operand and its result.
            size = sum(sizes) if one.opcode == kind else max(sizes)
            name = channel[1] if channel else one.name
            yield name, Collective(kind, 1, size, one.type, _group(one.text))
        for name in one.called():
            for inner in self._computations.get(name, []):
                yield from self._collectives(inner)

    def _turns(self, one: _Instruction, condition: str) -> int:
        """Number of turns of a loop; 1 if the program does not say."""
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', one.text):
            return int(known[1])
        constants = (
            int(found[1])
            for inner in self._computations.get(condition, [])
            if inner.opcode == "constant" and (found := re.search(r"constant\((\d+)\)", inner.text))
        )
        return max(constants, default=1)


def _parse(line: str) -> _Instruction | None:
    assigned = _ASSIGNED.match(line)
    if not assigned:
        return None
    name, rest = assigned.groups()
    if rest.startswith("("):
        end = _closing(rest, 0) + 1
        type_text, rest = rest[:end], rest[end:].strip()
    else:
        type_text, _, rest = rest.partition(" ")
    opcode = re.match(r"([\w\-]+)\(", rest)
    if not opcode:
        return None
    inside = rest[opcode.end() : _closing(rest, opcode.end() - 1)]
    operands = [] if opcode[1] == "constant" else re.findall(r"%([\w.\-]+)", inside)
    return _Instruction(name, opcode[1], type_text, operands, rest)


def _closing(text: str, start: int) -> int:
    """Position of the parenthesis that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position
    return len(text)


def _group(text: str) -> int:
    """Number of devices in a group of a collective."""
    # One of {{0,1},{2,3}}, [groups,devices]<=[...] and mesh['a'=2,'b'=4], ... {'a'}.
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return listed[1].count(",") + 1
    if shaped := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
        return int(shaped[1])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        axes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        # A part of an axis is written 'a':(1)2.
        named = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or axes[axis]) for axis, part in named)
    return 0


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    number = re.search(r"\d+", dtype)
    return int(number[0]) if number else 0


def _sizes(dimensions: str) -> list[int]:
    return [int(size) for size in dimensions.split(",") if size]


def _logical_bytes(shape: tuple[str, str, str]) -> int:
    dtype, dimensions, _ = shape
    return math.ceil(math.prod(_sizes(dimensions)) * _bits(dtype) / 8)


def _main_memory_bytes(type_text: str) -> float:
    """Bytes of a type in main memory, padded to the tiles of its layout."""
    total = 0.0
    for dtype, dimensions, layout in _SHAPE.findall(type_text):
        # S(1) and above are the small memories of a TPU core.
        if not re.search(r"S\([1-9]", layout):
            total += math.prod(_padded(_sizes(dimensions), layout)) * _bits(dtype) / 8
    return total


def _padded(sizes: list[int], layout: str) -> list[int]:
    order, _, rest = layout.partition(":")
    tile = re.search(r"T\(([\d,]+)\)", rest)
    minor_first = [int(axis) for axis in order.split(",") if axis.strip().isdigit()]
    if not tile or len(minor_first) != len(sizes):
        return sizes
    padded = [sizes[axis] for axis in minor_first]
    for position, unit in enumerate(reversed(_sizes(tile[1]))):
        if position < len(padded):
            padded[position] = math.ceil(padded[position] / unit) * unit
    return padded
