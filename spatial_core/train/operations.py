# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of the matrix products and convolutions of a traced function.

Compilers count the body of a scanned layer once, whatever the number of layers; here it counts as
often as it runs. What is not a product (norms, softmax, sampling) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def product_flops(jaxpr: Any) -> int:
    """2 x multiplications of a (closed) jaxpr, recomputations of `jax.checkpoint` included.

    Of the branches of a condition the dearest counts; of a loop of unknown length one round.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        ((contracted, _), _) = params["dimension_numbers"]
        depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2 * depth * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
    if name == "cond":
        return max(product_flops(branch) for branch in params["branches"])
    rounds = params["length"] if name == "scan" else 1
    return rounds * sum(product_flops(inner) for inner in _inner(params))


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation."""
    for value in params.values():
        if hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns"):
            yield value
