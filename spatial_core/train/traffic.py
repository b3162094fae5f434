# SPDX-License-Identifier: Apache-2.0
"""What a compiled program moves on each device: between devices, and to and from its main memory.

Loops count as often as they run, unlike in the compiler's own sums.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from spatial_core.train import hlo
from spatial_core.train.hlo import Computation, Instruction, Program

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# They name what is there already; the others of a pair, and what they call, are counted instead.
_FREE = (
    "parameter constant tuple get-tuple-element bitcast while call conditional after-all opt-barrier "
    "async-start async-update async-done copy-done send-done recv-done partition-id replica-id"
).split()
_SLICES = ("slice", "dynamic-slice", "gather")


@dataclass(frozen=True)
class Collective:
    """A kind of exchange: how often it runs in a step, bytes of its arrays on a device, bytes sent by it.

    sent: of the algorithms that send least, such as 2 (n - 1) / n of the array for an all-reduce among n.
    """

    kind: str
    count: int
    bytes: int
    sent: int


@dataclass(frozen=True)
class Traffic:
    """Of one run on one device. memory: bytes read and written in main memory.

    unknown_loops: loops that count once because the program does not tell their rounds.
    """

    collectives: tuple[Collective, ...]
    memory: int
    unknown_loops: int

    @property
    def sent(self) -> int:
        """Bytes to other devices."""
        return sum(each.sent for each in self.collectives)


def traffic(text: str, devices: int) -> Traffic:
    """Of the text of a program that is compiled for so many devices."""
    program = hlo.parse(text)
    runs = program.runs()
    kinds: dict[str, list[int]] = {}
    memory = 0
    for name, times in runs.times.items():
        body = program.computations[name]
        for instruction in body.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                size = _read(instruction, body)
                sent = _sent(kind, size, _group(instruction.rest, devices))
                total = kinds.setdefault(kind, [0, 0, 0])
                kinds[kind] = [total[0] + times, total[1] + times * size, total[2] + times * sent]
            if name not in runs.fused:
                memory += times * _moved(instruction, body, program)
    found = tuple(Collective(kind, *kinds[kind]) for kind in COLLECTIVES if kind in kinds)
    return Traffic(found, memory, runs.unknown)


def _group(rest: str, devices: int) -> int:
    """How many devices exchange with each other: of {{0,1},{2,3}} or [2,2]<=[4] two."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return found[1].count(",") + 1
    return devices


def _sent(kind: str, size: int, group: int) -> int:
    """Bytes that each device sends at least, for operands of so many bytes."""
    if kind == "collective-permute":
        return size
    if kind == "all-gather":
        return size * (group - 1)
    share = {"all-reduce": 2}.get(kind, 1)
    return math.ceil(share * size * (group - 1) / group)


def _read(instruction: Instruction, body: Computation) -> int:
    return sum(body[name].size for name in instruction.operands if name in body)


def _main(instruction: Instruction) -> int:
    """Bytes of a result in main memory: what lies in a chip's fast memory is not moved."""
    return sum(array.bytes for array in instruction.result if array.space == 0)


def _moved(instruction: Instruction, body: Computation, program: Program) -> int:
    """Bytes that an instruction reads and writes in main memory."""
    opcode, operands = (
        instruction.opcode,
        [body[name] for name in instruction.operands if name in body],
    )
    if opcode in _FREE or opcode.endswith("-done"):
        return 0
    if opcode == "copy-start":  # its result: destination, source, a flag
        return sum(array.bytes for array in instruction.result[:2] if array.space == 0)
    if opcode.endswith("-start"):  # its result holds the operands too
        return 2 * sum(map(_main, operands))
    if opcode == "fusion":
        return _fused(instruction, operands, program)
    if opcode in _SLICES:
        return _main(instruction) + (instruction.size if _main(operands[0]) else 0)
    if opcode == "dynamic-update-slice":
        return _main(operands[1]) + (operands[1].size if _main(instruction) else 0)
    return _main(instruction) + sum(map(_main, operands))


def _fused(instruction: Instruction, operands: list[Instruction], program: Program) -> int:
    """Of operands that are only sliced the slices count, of results made in place what changes."""
    (name,) = instruction.called("calls")
    body = program.computations[name]
    read = sum(
        _used(parameter, body, program)
        for parameter, operand in zip(_parameters(body), operands, strict=True)
        if _main(operand)
    )
    return read + _written(instruction, body)


def _parameters(body: Computation) -> list[Instruction]:
    found = [each for each in body.values() if each.opcode == "parameter"]
    return sorted(found, key=lambda each: int(each.inside))


def _used(value: Instruction, body: Computation, program: Program) -> int:
    """Bytes of a value in a fusion that are read there: all of it, unless slices are."""
    total = 0
    for user in body.values():
        places = [index for index, name in enumerate(user.operands) if name == value.name]
        if not places or (user.opcode == "dynamic-update-slice" and places == [0]):
            continue
        if user.opcode in _SLICES and places == [0]:
            total += user.size
        elif user.opcode == "bitcast":
            total += _used(user, body, program)
        elif user.opcode == "fusion":
            inner = program.computations[user.called("calls")[0]]
            total += sum(_used(_parameters(inner)[place], inner, program) for place in places)
        else:
            return value.size
    return min(total, value.size)


def _written(instruction: Instruction, body: Computation) -> int:
    """Bytes of a fusion's results that go to main memory."""
    root = next(each for each in body.values() if each.root)
    outputs = [body[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(outputs) != len(instruction.result):
        return _main(instruction)
    total = 0
    for array, output in zip(instruction.result, outputs, strict=True):
        while output.opcode == "bitcast":
            output = body[output.operands[0]]
        if array.space == 0:
            in_place = output.opcode == "dynamic-update-slice"
            total += body[output.operands[1]].size if in_place else array.bytes
    return total
