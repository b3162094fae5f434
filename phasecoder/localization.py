# SPDX-License-Identifier: Apache-2.0
"""The answer to "where does it come from": one estimate per window, and one for the whole."""

from __future__ import annotations

import bisect
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasecoder.ambiguity import Ambiguity
from phasecoder.context import Windows, posterior
from spatial_core.errors import InputError
from spatial_core.geometry.coords import azimuth_error, wrap_degrees

CONVENTION = (
    "azimuth in degrees counter-clockwise (seen from above) from the array's +x axis, -180 to 180; "
    "elevation up from the horizontal; both about the centre of the microphones"
)
# Windows within this of the most central one count as agreeing with it.
AGREEMENT = 20.0
_TABLE_ROWS = 24

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Overall:
    """One direction for all windows with speech.

    Angles in degrees, distance in metres. spread: weighted circular standard deviation of the
    agreeing windows. share: weight of the windows within 20 degrees, of all with speech.
    elevation is None where the array cannot measure it, a magnitude if elevation_signed is False.
    alternative: the (azimuth, elevation) that the array cannot tell from this one, if it is not
    just the sign of the elevation. cone_angle: angle to the line of a linear array.
    """

    azimuth: float
    elevation: float | None
    elevation_signed: bool
    distance: float
    confidence: float
    spread: float
    share: float
    windows: int
    alternative: tuple[float, float] | None = None
    cone_angle: float | None = None

    def sentence(self) -> str:
        """For people: the direction, how certain, and from how much."""
        parts = [f"azimuth {_whole(self.azimuth):+d} deg"]
        if self.elevation is not None:
            sign = "+" if self.elevation_signed else ""
            prefix = "" if self.elevation_signed else "±"
            parts.append(f"elevation {prefix}{self.elevation:{sign}.0f} deg")
        if math.isfinite(self.distance):
            parts.append(f"about {self.distance:.1f} m away")
        text = ", ".join(parts)
        if self.alternative is not None:
            text += f", or its mirror image at azimuth {_whole(self.alternative[0]):+d} deg"
            if self.elevation is not None:
                text += f", elevation {self.alternative[1]:+.0f} deg"
        if self.cone_angle is not None:
            text += f" ({self.cone_angle:.0f} deg from the line of the microphones)"
        plural = "s" if self.windows != 1 else ""
        return (
            f"{text}; spread {self.spread:.1f} deg, confidence {self.confidence:.2f}, "
            f"{self.windows} window{plural} with speech, {100 * self.share:.0f} % of them agree"
        )


@dataclass(frozen=True, eq=False)
class Localization:
    """Estimates over time; every array has one entry per window, NaN where no speech is heard.

    times: window centres in seconds. azimuth, elevation: degrees. distance: metres. confidence:
    probability that the azimuth is within 10 degrees. speech: whether speech is heard.
    level_db: window level, dB re full scale. speech_probability: the model's. azimuth_probs
    [n, grid] over azimuth_grid [grid] (degrees), if the model gives them.
    elevation_sign: +1/-1 per window, or None where the array cannot tell up from down; elevation
    is then a magnitude. overall: None if no window has speech.
    """

    times: Column
    azimuth: Column
    elevation: Column
    distance: Column
    confidence: Column
    speech: NDArray[np.bool_]
    silent: NDArray[np.bool_]
    level_db: Column
    speech_probability: Column
    elevation_sign: NDArray[np.int8] | None
    azimuth_probs: NDArray[np.float32] | None
    azimuth_grid: Column | None
    overall: Overall | None
    notes: tuple[str, ...]
    source: str
    array_name: str
    model_name: str
    hop_seconds: float
    window_seconds: float
    duration_seconds: float

    def __len__(self) -> int:
        return len(self.times)

    def to_dict(self, probabilities: bool = False) -> dict[str, Any]:
        """Plain values; NaN becomes None. probabilities: also the azimuth posterior per window."""
        overall = None
        if self.overall is not None:
            overall = {
                key: _plain(value) for key, value in vars(self.overall).items() if key != "windows"
            } | {"windows": self.overall.windows}
        document: dict[str, Any] = {
            "source": self.source,
            "array": self.array_name,
            "model": self.model_name,
            "convention": CONVENTION,
            "duration_seconds": _plain(self.duration_seconds),
            "window_seconds": self.window_seconds,
            "hop_seconds": self.hop_seconds,
            "overall": overall,
            "notes": list(self.notes),
            "elevation_signed": self.elevation_sign is not None,
            "windows": [
                {
                    "time": _plain(self.times[i]),
                    "state": self.state(i),
                    "azimuth": _plain(self.azimuth[i]),
                    "elevation": _plain(self.elevation[i]),
                    "distance": _plain(self.distance[i]),
                    "confidence": _plain(self.confidence[i]),
                    "speech_probability": _plain(self.speech_probability[i]),
                    "level_db": _plain(self.level_db[i]),
                }
                for i in range(len(self))
            ],
        }
        if probabilities and self.azimuth_probs is not None and self.azimuth_grid is not None:
            document["azimuth_grid"] = [_plain(x) for x in self.azimuth_grid]
            document["azimuth_probs"] = [[_plain(x) for x in row] for row in self.azimuth_probs]
        return document

    def to_json(self, probabilities: bool = False) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(probabilities), indent=2, allow_nan=False)

    def state(self, i: int) -> str:
        """'speech', 'silence' (too quiet) or 'no speech' (sound, but not speech) of window i."""
        return "speech" if self.speech[i] else "silence" if self.silent[i] else "no speech"

    def to_table(self, max_rows: int | None = _TABLE_ROWS) -> str:
        """A table for the terminal; neighbouring windows share a row if there are more than rows.

        A run of windows without speech is one row, however short; only where there are more runs than
        max_rows do rows mix, and then say how much of them is speech. A row's span reaches half way to
        its neighbours: the windows themselves overlap. max_rows: None gives one row for each window with
        speech.
        """
        groups = self._grouped(max_rows)
        shared = any(rows.stop - rows.start > 1 for rows in groups)
        title = "from - to (s)" if shared else "time (s)"
        lines = [
            f"{title:>15}  {'azimuth':>8}  {'elevation':>9}  {'distance':>8}  {'confidence':>10}"
        ]
        lines += [self._row(rows, shared) for rows in groups]
        return "\n".join(lines)

    def _grouped(self, max_rows: int | None) -> list[slice]:
        """Rows of the table: runs of one state, those of speech cut into pieces as long as is needed."""
        if not len(self):
            return []
        changes = [i for i in range(1, len(self)) if self.state(i) != self.state(i - 1)]
        runs = [slice(*ends) for ends in itertools.pairwise([0, *changes, len(self)])]
        if max_rows is not None and len(runs) > max_rows:
            return list(self._mixed(math.ceil(len(self) / max_rows)))

        def pieces(size: int) -> list[slice]:
            step = [size if self.speech[run.start] else len(self) for run in runs]
            return [
                slice(first, min(first + n, run.stop))
                for run, n in zip(runs, step)
                for first in range(run.start, run.stop, n)
            ]

        if max_rows is None:
            return pieces(1)
        sizes = range(1, len(self) + 1)
        return pieces(
            sizes[bisect.bisect_left(sizes, True, key=lambda n: len(pieces(n)) <= max_rows)]
        )

    def _mixed(self, size: int) -> Iterator[slice]:
        """Rows of `size` windows each; those that all miss speech alike are joined."""
        pending: slice | None = None
        for rows in _groups(len(self), size):
            if pending and self._state(pending) == self._state(rows) != "speech":
                pending = slice(pending.start, rows.stop)
                continue
            if pending:
                yield pending
            pending = rows
        if pending:
            yield pending

    def _state(self, rows: slice) -> str:
        """`state` of a row: speech if any window has it, silence only if all are silent."""
        if self.speech[rows].any():
            return "speech"
        return "silence" if self.silent[rows].all() else "no speech"

    def _span(self, rows: slice) -> tuple[float, float]:
        """From half way after the row before to half way before the next, seconds."""
        half = self.hop_seconds / 2
        start = 0.0 if rows.start == 0 else self.times[rows.start - 1] + half
        last = rows.stop >= len(self)
        return start, self.duration_seconds if last else self.times[rows.stop - 1] + half

    def _row(self, rows: slice, shared: bool) -> str:
        when = f"{self.times[rows.start]:.2f}"
        if shared:
            start, stop = self._span(rows)
            when = f"{start:.2f} - {stop:.2f}"
        heard = self.speech[rows]
        if not heard.any():
            return f"{when:>15}  {self._state(rows):>8}"
        weight = self.confidence[rows][heard]
        azimuth, _, _, agreeing = robust_azimuth(self.azimuth[rows][heard], weight)

        def mean(column: Column) -> float:
            return float(np.average(column[rows][heard][agreeing], weights=weight[agreeing] + 1e-6))

        elevation, distance = mean(self.elevation), mean(self.distance)
        shown = "-" if math.isnan(elevation) else f"{elevation:+.0f}"
        if self.elevation_sign is None and not math.isnan(elevation):
            shown = f"±{abs(elevation):.0f}"
        far = "-" if math.isnan(distance) else f"{distance:.1f} m"
        row = f"{when:>15}  {_whole(azimuth):>+8d}  {shown:>9}  {far:>8}  {mean(self.confidence):>10.2f}"
        return row if heard.all() else f"{row}  speech in {100 * heard.mean():.0f} %"

    def summary(self) -> str:
        """One line: the overall direction, or that there is none."""
        if self.overall is None:
            what = "only silence" if self.silent.all() else "no speech"
            return f"Overall: {what} in {self.duration_seconds:.2f} s: no direction"
        return f"Overall: {self.overall.sentence()}"

    def plot(self, path: str | Path) -> Path:
        """Draw the azimuth over time and on average as a PNG.

        Raises InputError for a path that is not a PNG.
        """
        from spatial_core.viz.polar import draw_posterior

        if Path(path).suffix.lower() != ".png":
            raise InputError(f"plots are PNG files: {str(path)!r} must end in .png")
        probs, grid = posterior(self.azimuth, self.azimuth_probs, self.azimuth_grid)
        title = f"{Path(self.source).name}: " + (
            "no speech"
            if self.overall is None
            else f"azimuth {_whole(self.overall.azimuth):+d}°, confidence {self.overall.confidence:.2f}"
        )
        return draw_posterior(
            path,
            np.where(self.speech[:, None], probs, np.nan),
            grid,
            step=self.hop_seconds,
            estimate=self.azimuth,
            confidence=self.confidence,
            title=title,
        )


def robust_azimuth(
    azimuth: Column, weight: Column, centre: float | None = None
) -> tuple[float, float, float, NDArray[np.bool_]]:
    """Weighted circular mean of the windows that agree with the most central one.

    Args:
        azimuth: degrees [n], n >= 1.
        weight: non-negative [n].
        centre: degrees; what the windows must agree with instead.

    Returns:
        azimuth (degrees), circular standard deviation (degrees) of the agreeing windows, their
        share of the weight, and which they are [n].
    """
    weight = np.asarray(weight, np.float64) + 1e-6
    if centre is None:
        centre = float(azimuth[_medoid(azimuth, weight)])
    agreeing = np.asarray(azimuth_error(azimuth, centre) <= AGREEMENT)
    kept = weight[agreeing]
    vector = np.sum(kept * np.exp(1j * np.radians(azimuth[agreeing]))) / kept.sum()
    length = min(1.0, abs(vector))
    spread = math.degrees(math.sqrt(max(0.0, -2.0 * math.log(max(length, 1e-12)))))
    mean = float(wrap_degrees(math.degrees(np.angle(vector))))
    return mean, spread, float(kept.sum() / weight.sum()), agreeing


def _medoid(azimuth: Column, weight: Column) -> int:
    """Window with the smallest weighted sum of angular distances, on a histogram of 1 degree.

    The histogram makes an hour of windows as cheap as a second: 360 sums, not n squared.
    """
    bins = np.floor(azimuth + 180.0).astype(int) % 360
    mass = np.bincount(bins, weight, 360)
    away = azimuth_error(np.arange(360.0)[:, None], np.arange(360.0)[None])
    # Saturating distances: a second source must not pull the centre between the two.
    cost = np.minimum(away, 2 * AGREEMENT) @ mass
    return int(np.argmin(cost[bins]))


def overall_estimate(
    windows: Windows, ambiguity: Ambiguity, together: Windows | None = None
) -> Overall | None:
    """One estimate from the windows with speech (already on one side of the ambiguity).

    together: the one answer of all windows combined, if the talker stays put; spread and share then
    say how the windows alone agree with it. Raises nothing; None without windows.
    """
    if len(windows.times) == 0:
        return None
    weight = windows.confidence + 1e-6
    centre = None if together is None else float(together.azimuth[0])
    mean, spread, share, agreeing = robust_azimuth(windows.azimuth, windows.confidence, centre)
    mean = mean if centre is None else centre

    def average(name: str) -> float:
        if together is not None:
            return float(getattr(together, name)[0])
        return float(np.average(getattr(windows, name)[agreeing], weights=weight[agreeing]))

    height = average("elevation")
    alternative = None
    if ambiguity.kind in ("mirror", "cone"):
        other = ambiguity.alternative(mean, height)
        alternative = (float(other[0]), float(other[1]))
    return Overall(
        azimuth=mean,
        elevation=None if ambiguity.kind == "cone" else height,
        elevation_signed=ambiguity.kind not in ("up-down", "cone"),
        distance=average("distance"),
        confidence=average("confidence"),
        spread=spread,
        share=share,
        windows=len(windows.times),
        alternative=alternative,
        cone_angle=ambiguity.cone_angle(mean, height),
    )


def _whole(azimuth: float) -> int:
    """Whole degrees in -179..180."""
    return int(wrap_degrees(round(azimuth)))


def _groups(count: int, size: int) -> Iterator[slice]:
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


def _plain(value: Any) -> Any:
    """A JSON value with at most 4 decimals; NaN and infinities become None."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | np.bool_):
        return None if value is None else bool(value)
    number = float(value)
    return round(number, 4) if math.isfinite(number) else None
