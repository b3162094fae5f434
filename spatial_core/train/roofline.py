# SPDX-License-Identifier: Apache-2.0
"""The least time that a step can take on a chip, by the chip's published peaks: the roofline model.

Williams, Waterman, Patterson (2009): Roofline, CACM 52(4). A bound, not a forecast: a chip reaches none of
its peaks for long, and what is no product (normalisation, softmax, random numbers) takes time too.
"""

from __future__ import annotations

from dataclasses import dataclass

from spatial_core.train.targets import Peaks
from spatial_core.train.traffic import Traffic


@dataclass(frozen=True)
class Ceiling:
    """Seconds that a device needs at least for its products, its memory and what it sends.

    operations: floating-point operations of its products.
    """

    operations: float
    peaks: Peaks
    traffic: Traffic

    @property
    def times(self) -> dict[str, float]:
        """Seconds by what limits."""
        peaks, moved = self.peaks, self.traffic
        return {
            "compute": self.operations / peaks.operations,
            "memory": moved.memory / peaks.memory,
            # A single device has no neighbours.
            "exchange": moved.sent / peaks.sent if moved.sent else 0.0,
        }

    @property
    def seconds(self) -> float:
        """Of a step in which the three overlap wholly."""
        return max(self.times.values())

    @property
    def bound(self) -> str:
        """What limits: compute, memory or exchange."""
        return max(self.times, key=lambda name: self.times[name])

    @property
    def utilisation(self) -> float:
        """Share of the peak that the products of such a step use; recomputed ones count too."""
        return self.times["compute"] / self.seconds if self.seconds else 0.0

    @property
    def intensity(self) -> float:
        """Operations for each byte of memory that is moved."""
        return self.operations / max(self.traffic.memory, 1)

    def rows(self) -> list[tuple[str, str]]:
        """For a report."""
        peaks, moved, times = self.peaks, self.traffic, self.times
        balance = peaks.operations / peaks.memory
        rows = [
            ("at least, on each device", "by published peaks; nothing was measured"),
            (
                "  compute",
                f"{_time(times['compute'])}: {self.operations / 1e12:,.3f} TFLOP at "
                f"{peaks.operations / 1e12:,.0f} TFLOP/s",
            ),
            (
                "  memory",
                f"{_time(times['memory'])}: {moved.memory / 1e9:,.2f} GB at {peaks.memory / 1e9:,.0f} GB/s",
            ),
            (
                "  exchange",
                f"{_time(times['exchange'])}: {moved.sent / 1e9:,.3f} GB sent at {peaks.sent / 1e9:,.0f} GB/s",
            ),
            (
                "intensity",
                f"{self.intensity:,.1f} operations for a byte of memory; the peaks balance at {balance:,.0f}",
            ),
        ]
        if moved.unknown_loops:
            rows.append(("", f"{moved.unknown_loops} loop(s) of unknown length count once"))
        share = f"MFU at most {self.utilisation:.0%}"
        rows.append(("step", f"at least {_time(self.seconds)}, bound by {self.bound}; {share}"))
        return rows


def exchange_rows(moved: Traffic) -> list[tuple[str, str]]:
    """The exchanges of a step by kind, for a report."""
    rows = [
        (
            f"  {each.kind}",
            f"{each.count:,} x, {each.bytes / 1e6:,.1f} MB of arrays, {each.sent / 1e6:,.1f} MB sent",
        )
        for each in moved.collectives
    ]
    return [("exchanges of each device", "in a step, loops included" if rows else "none"), *rows]


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:,.3g} ms" if seconds < 1 else f"{seconds:,.2f} s"
