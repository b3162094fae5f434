# SPDX-License-Identifier: Apache-2.0
"""Microphone arrays: positions, checks, JSON files and presets.

A channel of a recording is the row of the same index: row 0 is channel 1 of the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spatial_core.errors import InputError
from spatial_core.geometry.coords import to_cartesian, to_spherical

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
MAX_APERTURE = 5.0  # metres; a larger "array" is nearly always a unit error
MIN_APERTURE = 0.002  # metres; below this every delay is under a tenth of a sample
MIN_SPACING = 0.0005  # metres; two capsules cannot be closer
MAX_MICS = 256
MAX_JSON_BYTES = 1_000_000
# A direction in which the array extends less than this share of its largest extent is flat:
# delays along it drown in noise, so it tells nothing about the sound.
FLATNESS = 0.03


@dataclass(frozen=True, eq=False)
class MicArray:
    """Positions [m, 3] of the microphones in metres, one row per channel, in the global frame.

    Raises InputError for fewer than 2 distinct positions, values that are not finite, two
    microphones in one place, or a size that only a wrong unit explains.
    """

    positions: NDArray[np.float64]
    name: str = "array"

    def __post_init__(self) -> None:
        positions = _as_positions(self.positions, self.name)
        _check_positions(positions, self.name)
        positions.setflags(write=False)
        object.__setattr__(self, "positions", positions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MicArray) and np.array_equal(self.positions, other.positions)

    def __hash__(self) -> int:
        return hash((self.positions.shape, self.positions.tobytes()))

    @property
    def num_mics(self) -> int:
        """Number of microphones, m."""
        return len(self.positions)

    @property
    def centroid(self) -> NDArray[np.float64]:
        """Mean position [3] in metres: angles and distances are about this point."""
        return self.positions.mean(axis=0)

    @property
    def centred(self) -> NDArray[np.float64]:
        """Positions [m, 3] in metres about the centroid."""
        return self.positions - self.centroid

    @property
    def aperture(self) -> float:
        """Largest distance between two microphones, metres."""
        return float(_pair_distances(self.positions).max())

    @property
    def extents(self) -> NDArray[np.float64]:
        """Singular values [3] of the centred positions, largest first (metres, root of a sum)."""
        values = np.linalg.svd(self.centred, compute_uv=False)
        return np.pad(values, (0, 3 - len(values)))

    @property
    def axes(self) -> NDArray[np.float64]:
        """Unit vectors [3, 3] (rows) of the extents; the last is a planar array's normal.

        Signs are chosen so that the largest component of each is positive.
        """
        _, _, rows = np.linalg.svd(self.centred, full_matrices=True)
        signs = np.sign(rows[np.arange(3), np.argmax(np.abs(rows), axis=1)])
        return rows * signs[:, None]

    @property
    def shape(self) -> str:
        """'linear', 'planar' or 'volumetric', by the singular values."""
        largest, middle, smallest = self.extents
        if middle < FLATNESS * largest:
            return "linear"
        return "planar" if smallest < FLATNESS * largest else "volumetric"

    def ambiguity(self) -> str | None:
        """One sentence on the directions that this shape cannot tell apart; None if there are none."""
        if self.shape == "linear":
            azimuth, elevation, _ = to_spherical(self.axes[0])
            return (
                f"All microphones lie on one line (azimuth {azimuth:.0f}, elevation "
                f"{elevation:.0f} degrees): only the angle to that line can be measured, and every "
                "direction on the cone around it gives the same delays."
            )
        if self.shape == "planar":
            normal = self.axes[2]
            azimuth, elevation, _ = to_spherical(normal)
            if abs(elevation) > 80:
                what = "sound from above and its mirror image from below (elevation of either sign)"
            else:
                what = (
                    "a sound and its mirror image on the other side of the plane "
                    f"(whose normal has azimuth {azimuth:.0f}, elevation {elevation:.0f} degrees)"
                )
            return (
                f"All microphones lie in one plane: {what} arrive with the same delays and cannot "
                "be told apart."
            )
        return None

    def require_channels(self, channels: int, what: str = "the recording") -> None:
        """InputError unless `what` has exactly one channel for each microphone."""
        if channels == self.num_mics:
            return
        hint = "give the coordinates of every channel, in the order of the file"
        if channels > self.num_mics:
            hint += ", or remove the channels that are not microphones (playback, processed)"
        raise InputError(
            f"{what} has {channels} channel{'s' if channels != 1 else ''}, but array "
            f"{self.name!r} has {self.num_mics} microphones: {hint}"
        )

    @classmethod
    def from_json(cls, path: str | Path) -> MicArray:
        """Read {"name", "unit": "m"|"cm"|"mm", "positions": [[x, y, z], ...]} or the bare list (m)."""
        path = Path(path)
        document = _read_json(path)
        if isinstance(document, list):
            document = {"positions": document}
        if not isinstance(document, dict) or "positions" not in document:
            raise InputError(
                f'{path}: expected {{"unit": "m", "positions": [[x, y, z], ...]}} or a bare list of '
                "[x, y, z]"
            )
        unknown = set(document) - {"name", "unit", "positions", "description"}
        if unknown:
            raise InputError(
                f"{path}: unknown key {sorted(unknown)[0]!r}; known are name, unit, positions, "
                "description"
            )
        unit = document.get("unit", "m")
        if not isinstance(unit, str) or unit not in UNITS:
            raise InputError(f'{path}: unit {unit!r} is not known; use "m", "cm" or "mm"')
        name = str(document.get("name", path.stem))
        return cls(_as_positions(document["positions"], str(path)) * UNITS[unit], name)

    def to_json(self, path: str | Path) -> None:
        """Write name, unit (metres) and positions; `from_json` reads it back exactly."""
        document = {"name": self.name, "unit": "m", "positions": self.positions.tolist()}
        Path(path).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _as_positions(values: ArrayLike, what: str) -> NDArray[np.float64]:
    """A fresh float64 [m, 3] of positions; InputError when the shape or a value is wrong."""
    if isinstance(values, list) and (not values or not isinstance(values[0], (list, np.ndarray))):
        raise InputError(f"{what}: positions must be a list of [x, y, z], one for each channel")
    try:
        positions = np.array(values)
    except ValueError as error:
        raise InputError(f"{what}: every position needs three numbers [x, y, z]") from error
    if positions.dtype.kind not in "iuf":
        raise InputError(f"{what}: positions must be numbers, got {positions.dtype} values")
    if positions.ndim != 2 or positions.shape[1] != 3:
        hint = "; add z = 0 for a flat array" if positions.shape[1:] == (2,) else ""
        raise InputError(
            f"{what}: positions must be [microphones, 3], got shape {positions.shape}{hint}"
        )
    return positions.astype(np.float64)


def _check_positions(positions: NDArray[np.float64], name: str) -> None:
    """InputError for positions that cannot be an array of microphones."""
    if not np.all(np.isfinite(positions)):
        row = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise InputError(f"array {name!r}: the position of channel {row + 1} is not finite")
    if len(positions) > MAX_MICS:
        raise InputError(f"array {name!r}: {len(positions)} microphones; at most {MAX_MICS} work")
    if len(positions) < 2:
        raise InputError(
            f"array {name!r} has {len(positions)} microphone(s): direction needs at least 2 at "
            "different positions"
        )
    distances = _pair_distances(positions)
    aperture = float(distances.max())
    if aperture == 0.0:
        raise InputError(f"array {name!r}: all {len(positions)} microphones are at one position")
    if aperture > MAX_APERTURE:
        # Both units are possible; the likelier is the one that gives a hand-held array.
        unit = "mm" if aperture > 20 else "cm"
        raise InputError(
            f"array {name!r} would be {aperture:.3g} m across (at most {MAX_APERTURE:g} m is "
            f"accepted): were the positions given in {unit}? Then say "
            f'"unit": "{unit}" in the JSON file, or divide by {round(1 / UNITS[unit])}'
        )
    if aperture < MIN_APERTURE:
        raise InputError(
            f"array {name!r} would be {aperture * 1000:.3g} mm across: were metres declared as "
            'millimetres? Say "unit": "m" in the JSON file'
        )
    np.fill_diagonal(distances, math.inf)
    if distances.min() < MIN_SPACING:
        i, j = sorted(int(k) for k in np.unravel_index(np.argmin(distances), distances.shape))
        raise InputError(
            f"array {name!r}: channels {i + 1} and {j + 1} are at the same position "
            f"({distances[i, j] * 1000:.2g} mm apart); correct or remove one of them"
        )


def _pair_distances(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances [m, m] between all pairs, metres."""
    return np.linalg.norm(positions[:, None] - positions[None], axis=-1)


def _read_json(path: Path) -> object:
    """The parsed file; InputError when it is missing, too big or not JSON."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError(f"array file {path} is not a file")
        if size > MAX_JSON_BYTES:
            raise InputError(f"array file {path} has {size} bytes; no array needs more than 1 MB")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"array file {path} cannot be read: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"array file {path} is not valid JSON: {error}") from error


def _circle(radius: float, count: int) -> NDArray[np.float64]:
    """`count` points [count, 3] on a horizontal circle, counter-clockwise from +x."""
    return to_cartesian(np.arange(count) * 360.0 / count, 0.0, radius)


def _respeaker_4mic() -> MicArray:
    """ReSpeaker 4-Mic Array: a flat square at (+-22.85, +-22.85, 0) mm (45.7 mm side).

    Counter-clockwise seen from above, from the corner at (+22.85, +22.85). How the device is turned
    on the table decides where 0 degrees is: talk from a known side to find out.
    """
    return MicArray(
        0.02285 * np.array([[1, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]]), "respeaker_4mic"
    )


def _circle_6_1() -> MicArray:
    """Six on a flat circle of radius 46.3 mm, counter-clockwise from +x, then one in the centre."""
    return MicArray(np.vstack([_circle(0.0463, 6), np.zeros((1, 3))]), "circle_6_1")


def _tetrahedron() -> MicArray:
    """Regular tetrahedron, each capsule 4 cm from the centre (65.3 mm edges), Ambisonic A order.

    Front-left-up, front-right-down, back-left-down, back-right-up with front +x and left +y.
    """
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    return MicArray(0.04 / math.sqrt(3) * corners, "tetrahedron")


def _nao_8() -> MicArray:
    """Eight microphones on a head, like those of a NAO robot: plausible, not the maker's numbers.

    In mm, front +x and left +y: forehead left/right (52, +-24, 38), mouth left/right
    (60, +-18, -30), ears (0, +-65, 0), back of the head (-58, +-26, 25). 13.7 cm across.
    """
    rows = [(52, 24, 38), (60, 18, -30), (0, 65, 0), (-58, 26, 25)]
    positions = [(x, side * y, z) for x, y, z in rows for side in (1, -1)]
    return MicArray(0.001 * np.array(positions), "nao_8")


def _square_4() -> MicArray:
    """Flat square of 10 cm side, counter-clockwise from the corner at (+5, +5) cm."""
    return MicArray(0.05 * np.array([[1, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]]), "square_4")


def _line_4() -> MicArray:
    """Four on the x axis, 5 cm apart (15 cm long), from -x to +x."""
    x = 0.05 * np.arange(4) - 0.075
    return MicArray(np.stack([x, np.zeros(4), np.zeros(4)], -1), "line_4")


PRESETS: dict[str, Callable[[], MicArray]] = {
    "respeaker_4mic": _respeaker_4mic,
    "circle_6_1": _circle_6_1,
    "tetrahedron": _tetrahedron,
    "nao_8": _nao_8,
    "square_4": _square_4,
    "line_4": _line_4,
}


def preset(name: str) -> MicArray:
    """A preset by name; InputError lists the names."""
    if name not in PRESETS:
        raise InputError(f"no array preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]()


def load_array(array: str | Path | MicArray | NDArray[np.float64]) -> MicArray:
    """An array from a preset name, a JSON file, positions [m, 3] in metres, or itself."""
    if isinstance(array, MicArray):
        return array
    if isinstance(array, np.ndarray):
        return MicArray(array)
    if str(array) in PRESETS:
        return preset(str(array))
    path = Path(array)
    if path.suffix.lower() != ".json" and not path.exists():
        raise InputError(
            f"{str(array)!r} is neither an array preset ({', '.join(PRESETS)}) nor a JSON file"
        )
    return MicArray.from_json(path)
