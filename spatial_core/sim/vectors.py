# SPDX-License-Identifier: Apache-2.0
"""Vector instructions for the compiled loops that a compiler does not vectorise well by itself.

Loops over many streams of one array stay scalar, because nothing says that the streams do not
overlap, and wide vectors are avoided where they pay. Each function here is one step of such a loop,
written as operations on vectors (LLVM's, so any processor runs them, by several narrow instructions if
need be). Arrays are one-dimensional, contiguous float32; places in them are int64, and nothing checks
them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

LANES = 8
"""Signals side by side. A row of as many complex numbers is a cache line: real parts, imaginary parts."""
ROW = 2 * LANES

Complex = tuple[Any, Any]


class Writer:
    """Writes instructions: a few names for what LLVM's builder spells out.

    Products may be fused with the sums that follow (`contract`): no other liberty is taken.
    """

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.builder = builder
        self.arguments = [
            context.make_array(kind)(context, builder, value).data
            if isinstance(kind, types.Array)
            else value
            for kind, value in zip(signature.args, arguments)
        ]

    def place(self, first: Any, steps: int = 0, step: Any = 1) -> Any:
        """first + steps * step; `step` is a value or a number."""
        if isinstance(step, int):
            return self.builder.add(first, ir.Constant(ir.IntType(64), steps * step))
        return self.builder.add(first, self.builder.mul(step, ir.Constant(ir.IntType(64), steps)))

    def _pointer(self, array: Any, place: Any, width: int) -> Any:
        kind = ir.VectorType(ir.FloatType(), width)
        return self.builder.bitcast(self.builder.gep(array, [place]), kind.as_pointer())

    def load(self, array: Any, place: Any, width: int = LANES) -> Any:
        """The vector at array[place:]."""
        return self.builder.load(self._pointer(array, place, width), align=4)

    def store(self, value: Any, array: Any, place: Any) -> None:
        """Writes a vector to array[place:]."""
        self.builder.store(value, self._pointer(array, place, value.type.count), align=4)

    def row(self, array: Any, place: Any) -> Complex:
        """The row of complex numbers at array[place:]."""
        return self.load(array, place), self.load(array, self.place(place, LANES))

    def put_row(self, row: Complex, array: Any, place: Any) -> None:
        """Writes a row of complex numbers."""
        self.store(row[0], array, place)
        self.store(row[1], array, self.place(place, LANES))

    def spread(self, scalar: Any, width: int = LANES) -> Any:
        """A vector of one number."""
        kind = ir.VectorType(ir.FloatType(), width)
        first = self.builder.insert_element(
            ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
        )
        return self.pick(first, [0] * width)

    def number(self, array: Any, place: Any, steps: int = 0) -> Any:
        """array[place + steps], spread."""
        pointer = self.builder.gep(array, [self.place(place, steps)])
        return self.spread(self.builder.load(pointer))

    def whole(self, array: Any, place: Any) -> Any:
        """array[place] of an array of int64."""
        return self.builder.load(self.builder.gep(array, [place]))

    def complex_number(self, array: Any, place: Any, index: int = 0) -> Complex:
        """The index-th complex number from array[place:], spread."""
        return self.number(array, place, 2 * index), self.number(array, place, 2 * index + 1)

    def constant(self, value: float) -> Any:
        """A vector of a number that is known beforehand."""
        return ir.Constant(ir.VectorType(ir.FloatType(), LANES), [value] * LANES)

    def pick(self, one: Any, lanes: list[int], other: Any = None) -> Any:
        """The chosen lanes of a vector, or of two laid end to end."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
        other = ir.Constant(one.type, ir.Undefined) if other is None else other
        return self.builder.shuffle_vector(one, other, mask)

    def transposed(self, vectors: list[Any]) -> list[Any]:
        """The columns of LANES vectors of LANES numbers (Eklundh): blocks change places, by halves."""
        for step in (1, 2, 4):
            for i in (i for i in range(LANES) if not i & step):
                one, other = vectors[i], vectors[i + step]
                low = [n + LANES - step if n & step else n for n in range(LANES)]
                high = [n + LANES if n & step else n + step for n in range(LANES)]
                vectors[i] = self.pick(one, low, other)
                vectors[i + step] = self.pick(one, high, other)
        return vectors

    def plus(self, a: Any, b: Any) -> Any:
        """a + b."""
        return self.builder.fadd(a, b, flags=("contract",))

    def minus(self, a: Any, b: Any) -> Any:
        """a - b."""
        return self.builder.fsub(a, b, flags=("contract",))

    def times(self, a: Any, b: Any) -> Any:
        """a * b."""
        return self.builder.fmul(a, b, flags=("contract",))

    def sum(self, a: Complex, b: Complex) -> Complex:
        """a + b of complex numbers."""
        return self.plus(a[0], b[0]), self.plus(a[1], b[1])

    def difference(self, a: Complex, b: Complex) -> Complex:
        """a - b of complex numbers."""
        return self.minus(a[0], b[0]), self.minus(a[1], b[1])

    def product(self, a: Complex, b: Complex) -> Complex:
        """a * b of complex numbers."""
        real = self.minus(self.times(a[0], b[0]), self.times(a[1], b[1]))
        return real, self.plus(self.times(a[0], b[1]), self.times(a[1], b[0]))

    def conjugate_product(self, a: Complex, b: Complex) -> Complex:
        """a * conj(b)."""
        real = self.plus(self.times(a[0], b[0]), self.times(a[1], b[1]))
        return real, self.minus(self.times(a[1], b[0]), self.times(a[0], b[1]))

    def turned(self, a: Complex, b: Complex) -> tuple[Complex, Complex]:
        """a - i b and a + i b."""
        less = self.plus(a[0], b[1]), self.minus(a[1], b[0])
        return less, (self.minus(a[0], b[1]), self.plus(a[1], b[0]))


def vector_step(write: Callable[..., None]) -> Any:
    """Makes a function (writer, *arguments) that writes instructions a step of compiled loops.

    Its arguments are arrays as they are, whole numbers as int64 and others as float32.
    """

    def typed(_: Any, *given: Any) -> Any:
        def kind(own: Any) -> Any:
            if isinstance(own, types.Array):
                return own
            return types.int64 if isinstance(own, types.Integer) else types.float32

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            writer = Writer(context, builder, signature, arguments)
            write(writer, *writer.arguments)
            return context.get_dummy_value()

        return types.void(*map(kind, given)), generate

    typed.__name__, typed.__doc__ = write.__name__, write.__doc__
    # numba counts the arguments by the signature: `writer` stands where it has its typing context.
    typed.__signature__ = inspect.signature(write)  # type: ignore[attr-defined]
    return intrinsic(typed)
