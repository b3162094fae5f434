# SPDX-License-Identifier: Apache-2.0
"""The largest batch that fits, found with few compilations: each of them takes a minute or more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Until something fits, aim a little below the limit: a batch refused by a hair teaches little.
_FIRST = 0.99


@dataclass(frozen=True)
class Largest:
    """rows fit (0: none that was tried); refused: the smallest that did not; tried: in this order."""

    rows: int
    refused: int
    unit: int
    tried: tuple[int, ...]

    def text(self) -> str:
        """In a sentence."""
        tried = f"{len(self.tried)} compilation(s)"
        if not self.rows:
            return f"none of those tried, down to {self.refused:,} rows, after {tried}"
        if self.refused - self.rows <= self.unit:
            return f"{self.rows:,} rows, found with {tried}; batches come in steps of {self.unit:,}"
        return (
            f"{self.rows:,} rows of those tried; {self.refused:,} are too many, "
            f"between them nothing was compiled ({tried})"
        )


def find_largest(
    need: Callable[[int], tuple[bool, float | None]],
    rows: int,
    needed: float | None,
    fixed: float,
    limit: float,
    unit: int,
    tries: int,
) -> Largest:
    """Searches below `rows` (which do not fit and would need `needed` bytes) in multiples of `unit`.

    need(rows): whether so many rows fit, and the bytes that they need if that is known. fixed: bytes
    whatever the batch; limit: bytes that there are. What a step needs grows about evenly with its rows,
    so the line through the two sizes that are nearest to the limit gives the next batch to try.
    """
    low, high = 0, rows
    sizes = {0: fixed} if needed is None else {0: fixed, rows: needed}
    tried: list[int] = []
    while len(tried) < tries and high - low > unit:
        # Strictly between what fits and what does not.
        aim = limit if low else _FIRST * limit
        steps = int(_guess(sizes, aim, (low + high) / 2) // unit)
        batch = unit * min(max(steps, low // unit + 1), (high - 1) // unit)
        fits, size = need(batch)
        tried.append(batch)
        if size is not None:
            sizes[batch] = size
        low, high = (batch, high) if fits else (low, batch)
    return Largest(low, high, unit, tuple(tried))


def _guess(sizes: dict[int, float], limit: float, otherwise: float) -> float:
    """Rows at which a straight line reaches the limit."""
    nearest = sorted(sizes, key=lambda rows: abs(sizes[rows] - limit))[:2]
    if len(nearest) < 2 or sizes[max(nearest)] <= sizes[min(nearest)]:
        return otherwise
    first, second = sorted(nearest)
    slope = (sizes[second] - sizes[first]) / (second - first)
    return first + (limit - sizes[first]) / slope
