# SPDX-License-Identifier: Apache-2.0
"""What the array check answers: findings, the table of delays, and their texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from spatial_core.geometry.arrays import MicArray


class Finding(NamedTuple):
    """One result of the check. level: 'ok', 'warn' or 'error'."""

    level: str
    text: str


@dataclass(frozen=True)
class PairLag:
    """Measured delay of a channel pair (counted from 1), in milliseconds.

    lag_ms is positive where the first channel hears the sound later; |lag_ms| <= limit_ms for
    sound in air. strength: correlation there, 0..1.
    """

    first: int
    second: int
    distance_cm: float
    lag_ms: float
    limit_ms: float
    strength: float


@dataclass(frozen=True)
class ArrayReport:
    """Findings, the delay table and the direction of the strongest sound (degrees, if any)."""

    array: MicArray
    findings: list[Finding]
    lags: list[PairLag] = field(default_factory=list)
    direction: tuple[float, float] | None = None
    suspects: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no error among the findings."""
        return all(finding.level != "error" for finding in self.findings)

    def to_text(self) -> str:
        """Findings and delay table as lines for a terminal."""
        marks = {"ok": "  ok   ", "warn": "  warn ", "error": "  ERROR"}
        lines = [f"array {self.array.name}"]
        lines += [f"{marks[level]} {text}" for level, text in self.findings]
        if self.lags:
            lines.append("delays between channels (limit = distance / 343 m/s):")
            lines.append("  channels  distance   measured      limit  strength")
            for lag in self.lags:
                over = " <- beyond the limit" if abs(lag.lag_ms) > lag.limit_ms + 0.1 else ""
                lines.append(
                    f"  {lag.first:>3} - {lag.second:<3}{lag.distance_cm:8.1f} cm"
                    f"{lag.lag_ms:+8.3f} ms {lag.limit_ms:7.3f} ms     {lag.strength:.2f}{over}"
                )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return {
            "array": self.array.name,
            "ok": self.ok,
            "findings": [finding._asdict() for finding in self.findings],
            "direction": None
            if self.direction is None
            else {"azimuth": self.direction[0], "elevation": self.direction[1]},
            "suspect_channels": [k + 1 for k in self.suspects],
            "delays": [vars(lag) for lag in self.lags],
        }
