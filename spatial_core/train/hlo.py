# SPDX-License-Identifier: Apache-2.0
"""A compiled program, read from its text (HLO as XLA prints it): computations, and how often each runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(r"(\w+)=(%[\w.\-]+|\{%[^}]*\})")
_TRIPS = re.compile(r'"?known_trip_count"?[:=]\{"?n"?:"?(\d+)')


@dataclass(frozen=True)
class Array:
    """Bytes of an array without padding, and the memory space that it lies in (0: the main one)."""

    bytes: int
    space: int


@dataclass(frozen=True)
class Instruction:
    """`result = opcode(inside), rest`; result: the arrays of a tuple, one after another."""

    name: str
    opcode: str
    result: tuple[Array, ...]
    inside: str
    rest: str
    root: bool

    @property
    def operands(self) -> list[str]:
        """Names of what it reads."""
        return re.findall(r"%([\w.\-]+)", self.inside)

    @property
    def size(self) -> int:
        """Bytes of the result."""
        return sum(array.bytes for array in self.result)

    def called(self, *attributes: str) -> tuple[str, ...]:
        """Names of the computations under attributes such as `calls` or `body`."""
        return tuple(
            name
            for attribute, value in _CALLED.findall(self.rest)
            if attribute in attributes
            for name in re.findall(r"%([\w.\-]+)", value)
        )


Computation = dict[str, Instruction]


@dataclass(frozen=True)
class Runs:
    """How often each computation runs in one run of the program.

    fused: those inside a fusion, whose values are never stored. unknown: loops whose number of rounds the
    text does not tell; they count once.
    """

    times: dict[str, int]
    fused: frozenset[str]
    unknown: int


@dataclass(frozen=True)
class Program:
    """The computations of a program by name; instructions stand in the order in which they run."""

    computations: dict[str, Computation]
    entry: str

    def runs(self) -> Runs:
        """Rounds of loops are multiplied; of the branches of a condition each counts once."""
        times: dict[str, int] = {}
        fused: set[str] = set()
        unknown = 0
        waiting = [(self.entry, 1, False)]
        while waiting:
            name, count, inside = waiting.pop()
            times[name] = times.get(name, 0) + count
            if inside:
                fused.add(name)
            for instruction in self.computations[name].values():
                if instruction.opcode == "while":
                    trips = self._trips(instruction)
                    unknown += trips is None
                    rounds = count * (1 if trips is None else trips)
                    waiting += [(body, rounds, inside) for body in instruction.called("body")]
                else:
                    within = inside or instruction.opcode == "fusion"
                    waiting += [(body, count, within) for body in _bodies(instruction)]
        return Runs(times, frozenset(fused), unknown)

    def _trips(self, loop: Instruction) -> int | None:
        """Rounds of a loop, as XLA notes them or by its condition: below a constant, counted from 0."""
        if noted := _TRIPS.search(loop.rest):
            return int(noted[1])
        (name,) = loop.called("condition")
        lines = list(self.computations[name].values())
        for line in lines:
            if line.opcode == "fusion":
                (inner,) = line.called("calls")
                lines += self.computations[inner].values()
        compared = [line for line in lines if line.opcode == "compare"]
        limits = [
            line.inside for line in lines if line.opcode == "constant" and line.inside.isdigit()
        ]
        if len(limits) == 1 and len(compared) == 1 and "direction=LT" in compared[0].rest:
            return int(limits[0])
        return None


def _bodies(instruction: Instruction) -> tuple[str, ...]:
    """Computations that run with the instruction; the scalar functions of reductions are left out."""
    # An asynchronous call is named again by its update and its end.
    if instruction.opcode in ("fusion", "async-start"):
        return instruction.called("calls")
    if instruction.opcode == "call":
        return instruction.called("to_apply", "calls")
    if instruction.opcode == "conditional":
        names = ("branch_computations", "true_computation", "false_computation")
        return instruction.called(*names)
    return ()


def parse(text: str) -> Program:
    """The program of `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif found := _LINE.match(line):
            instruction = _instruction(found[2], found[3], bool(found[1]))
            current[instruction.name] = instruction
    return Program(computations, entry)


def _instruction(name: str, text: str, root: bool) -> Instruction:
    # The type is one word, or a tuple in brackets.
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    kind, call = text[:end], text[end:].lstrip()
    start = call.index("(")
    stop = _closing(call, start)
    inside = call[start + 1 : stop - 1]
    return Instruction(name, call[:start], tuple(_arrays(kind)), inside, call[stop:], root)


def _closing(text: str, start: int) -> int:
    """Index after the bracket that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if not depth:
            return index + 1
    raise ValueError(f"brackets that do not close: {text[start : start + 80]}")


def _arrays(kind: str) -> Iterator[Array]:
    for dtype, sizes, layout in _ARRAY.findall(kind):
        count = 1
        for size in re.findall(r"\d+", sizes):
            count *= int(size)
        space = re.search(r"S\((\d+)\)", layout)
        yield Array((count * _bits(dtype) + 7) // 8, int(space[1]) if space else 0)


def _bits(dtype: str) -> int:
    """Of bf16, s32, f8e4m3fn, ..."""
    if dtype in _BITS:
        return _BITS[dtype]
    found = re.match(r"[a-z]+(\d+)", dtype)
    return int(found[1]) if found else 0
