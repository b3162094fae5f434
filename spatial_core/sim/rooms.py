# SPDX-License-Identifier: Apache-2.0
"""Shoebox rooms: wall materials, reverberation times known before any simulation, and a sampler."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from spatial_core.errors import InputError
from spatial_core.sim.kernels import decay_time

SPEED_OF_SOUND = 343.0
OCTAVES_HZ = (125, 250, 500, 1000, 2000, 4000, 8000)
WALLS = ("x0", "x1", "y0", "y1", "z0", "z1")

# Random-incidence absorption in the seven octaves 125 Hz .. 8 kHz. Values: M. Vorländer,
# "Auralization" (Springer 2008), annex, as listed in the material database of pyroomacoustics,
# whose key is given where it differs from ours. Two entries there end at 4 kHz: the last value is
# repeated. Thirteen, as many as the PhaseCoder paper draws from (it does not name them).
MATERIALS: dict[str, tuple[float, ...]] = {
    "brickwork": (0.01, 0.02, 0.02, 0.03, 0.03, 0.04, 0.04),
    "rough_concrete": (0.02, 0.03, 0.03, 0.03, 0.04, 0.07, 0.07),
    # smooth_brickwork_10mm_pointing
    "smooth_brickwork": (0.08, 0.09, 0.12, 0.16, 0.22, 0.24, 0.24),
    "plasterboard": (0.15, 0.10, 0.06, 0.04, 0.04, 0.05, 0.05),
    "wooden_lining": (0.27, 0.23, 0.22, 0.15, 0.10, 0.07, 0.06),
    "glass_window": (0.10, 0.05, 0.04, 0.03, 0.03, 0.03, 0.03),
    "wood_16mm": (0.18, 0.12, 0.10, 0.09, 0.08, 0.07, 0.07),
    "carpet_cotton": (0.07, 0.31, 0.49, 0.81, 0.66, 0.54, 0.48),
    "carpet_thin": (0.02, 0.04, 0.08, 0.20, 0.35, 0.40, 0.40),
    "curtains_velvet": (0.05, 0.12, 0.35, 0.45, 0.38, 0.36, 0.36),
    "gypsum_board": (0.30, 0.69, 1.00, 0.81, 0.66, 0.62, 0.62),
    # ceiling_fibre_absorber
    "ceiling_fibre": (0.48, 0.97, 1.00, 0.97, 1.00, 1.00, 1.00),
    # mineral_wool_50mm_40kgm3
    "mineral_wool": (0.15, 0.70, 0.60, 0.60, 0.85, 0.90, 0.90),
}

# The fast simulator mixes four bands: up to 707 Hz (the octaves 125, 250, 500), the octaves 1 k
# and 2 k, and everything above 2828 Hz (4 k, 8 k); octaves count by their width.
BAND_EDGES_HZ = (707.0, 1414.0, 2828.0)
BAND_WEIGHTS = np.diff((0.0, *BAND_EDGES_HZ, 8000.0)) / 8000.0
_BAND_MEANS = np.zeros((7, 4))
_BAND_MEANS[0:3, 0] = 1 / 4, 1 / 4, 1 / 2
_BAND_MEANS[3, 1], _BAND_MEANS[4, 2], _BAND_MEANS[5:7, 3] = 1, 1, 1 / 2


def octave_bands(octaves: np.ndarray) -> np.ndarray:
    """Mean over the octaves of each of the four bands: [..., 7] -> [..., 4]."""
    return octaves @ _BAND_MEANS


def band_absorption(absorption: np.ndarray) -> np.ndarray:
    """Mean absorption in each of the four bands: [6, 7] -> [6, 4]."""
    return np.minimum(octave_bands(absorption), 1.0)


@functools.cache
def direction_edges(points: int = 12, crowding: float = 2.5) -> np.ndarray:
    """Edges [points + 1] of cells within 0..1, used twice: for the sine of the elevation and for the
    azimuth over 90 degrees of one octant.

    Crowded where a cosine vanishes: late sound travels along walls or between two hard ones, and an
    even grid would miss it (at 10 x 10 even points the reverberation time comes out 10% short in
    the median and 50% short in the worst tenth of rooms).
    """
    share = np.linspace(0, 1, points + 1)
    return share**crowding / (share**crowding + (1 - share) ** crowding)


@functools.cache
def direction_cells() -> tuple[np.ndarray, np.ndarray]:
    """|direction cosines| [points**2, 3] of one octant (by symmetry enough), solid angles [..].

    The cell (i, j) of `direction_edges` in elevation and azimuth is row i * points + j.
    """
    edges = direction_edges()
    middles = (edges[1:] + edges[:-1]) / 2
    up, turn = np.meshgrid(middles, middles * np.pi / 2, indexing="ij")
    flat = np.sqrt(1 - up**2)
    cosines = np.stack([flat * np.cos(turn), flat * np.sin(turn), up], axis=-1).reshape(-1, 3)
    return cosines, np.outer(np.diff(edges), np.diff(edges)).ravel()


@dataclass(frozen=True)
class RoomSpec:
    """A shoebox room with one corner in the origin.

    dimensions: (x, y, z) in metres. materials: six names from MATERIALS, or numbers (the same
    absorption at all frequencies), for the walls x=0, x=max, y=0, y=max, floor, ceiling.
    Raises InputError for sides that are not in 0.5..100 m, unknown materials, absorption outside 0..1.
    """

    dimensions: tuple[float, float, float]
    materials: tuple[str | float, ...]

    def __post_init__(self) -> None:
        sides = np.asarray(self.dimensions, dtype=float)
        if sides.shape != (3,) or not np.all((sides >= 0.5) & (sides <= 100.0)):
            raise InputError(
                f"room dimensions {self.dimensions}: give three sides of 0.5 to 100 metres"
            )
        if len(self.materials) != 6:
            raise InputError(f"a room has six walls {WALLS}, got {len(self.materials)} materials")
        for wall, material in zip(WALLS, self.materials):
            if isinstance(material, str):
                if material not in MATERIALS:
                    raise InputError(
                        f"wall {wall}: unknown material {material!r}; known: {', '.join(MATERIALS)}"
                    )
            elif not 0.0 <= material <= 1.0:
                raise InputError(f"wall {wall}: absorption {material} is not within 0..1")

    @property
    def absorption(self) -> np.ndarray:
        """Energy absorption [6 walls, 7 octaves]."""
        rows = [MATERIALS[m] if isinstance(m, str) else (float(m),) * 7 for m in self.materials]
        return np.array(rows)

    @property
    def volume(self) -> float:
        """Volume in cubic metres."""
        return float(np.prod(self.dimensions))

    @property
    def wall_areas(self) -> np.ndarray:
        """Areas [6] in square metres, in the order of WALLS."""
        x, y, z = self.dimensions
        return np.array([y * z, y * z, x * z, x * z, x * y, x * y])

    def eyring_rt60(self) -> float:
        """Eyring's reverberation time in s, from the mean absorption of 500 Hz, 1 and 2 kHz.

        It assumes a field that is diffuse at all times. A shoebox with unequal walls is not, and
        reverberates up to 2-3 times longer: see `decay`.
        """
        areas = self.wall_areas
        mean = float(areas @ self.absorption[:, 2:5].mean(axis=1)) / areas.sum()
        damping = -areas.sum() * math.log(1 - min(mean, 0.9999))
        return 24 * math.log(10) / SPEED_OF_SOUND * self.volume / max(damping, 1e-9)

    def decay(self) -> Decay:
        """The energy decay that the image sources of this room have, without enumerating them."""
        return _decay(self)

    def require_inside(self, points: np.ndarray, what: str, margin: float = 0.0) -> None:
        """Raises InputError unless all points [..., 3] lie inside, `margin` metres off the walls."""
        points = np.asarray(points, dtype=float)
        sides = np.asarray(self.dimensions)
        if not np.all((points > margin) & (points < sides - margin)):
            raise InputError(
                f"{what} at {np.round(points, 3).tolist()} m is not inside the room of "
                f"{' x '.join(f'{s:g}' for s in sides)} m"
                + (f" ({margin:g} m off the walls)" if margin else "")
            )


@dataclass(frozen=True)
class Decay:
    """A sum of exponentials: energy still to come after t is sum(weights * exp(-rates * t))."""

    weights: np.ndarray
    rates: np.ndarray

    def remaining(self, seconds: float) -> float:
        """Share of the reverberant energy that arrives after `seconds` (1 at 0)."""
        return float(self.weights @ np.exp(-self.rates * seconds)) / float(self.weights.sum())

    def time_at(self, level_db: float, start: float = 0.0) -> float:
        """Time in s when the remaining energy has fallen to `level_db` (negative).

        `start` is a time known to lie before it, in s.
        """
        share = 10 ** (level_db / 10) * float(self.weights.sum())
        return float(decay_time(self.weights, self.rates, share, start))

    def rt60(self) -> float:
        """Reverberation time in s: three times that from -5 to -25 dB (T20 of ISO 3382)."""
        early = self.time_at(-5.0)
        return 3 * (self.time_at(-25.0, early) - early)


@functools.lru_cache(maxsize=4096)
def _decay(room: RoomSpec) -> Decay:
    return _decay_of(np.asarray(room.dimensions), _log_reflection(room.absorption))


def _log_reflection(absorption: np.ndarray) -> np.ndarray:
    """Logarithm of the energy that a wall reflects: absorption [n, 7] -> [n, 4 bands]."""
    return np.log(np.maximum(1 - band_absorption(absorption), 1e-6))


def _decay_of(sides: np.ndarray, log_reflection: np.ndarray) -> Decay:
    """The decay of a room with these sides [3] and walls [6, 4].

    Lehmann and Johansson, "Prediction of energy decay in room impulse responses simulated with an
    image-source model", JASA 124 (2008): sound that leaves in direction u meets the two walls of
    axis a in turn, c |u_a| / L_a times a second in all, so its energy falls exponentially; the
    room's decay is the mean over all directions (and here over the four bands, by width).
    """
    cosines, shares = direction_cells()
    per_axis = log_reflection.reshape(3, 2, 4).sum(axis=1) / sides[:, None]
    rates = np.maximum(-SPEED_OF_SOUND / 2 * (cosines @ per_axis), 1e-3)  # [directions, bands]
    return Decay(weights=(shares[:, None] * BAND_WEIGHTS / rates).ravel(), rates=rates.ravel())


@dataclass(frozen=True)
class RoomConfig:
    """What `sample_room` draws from: sides in metres, materials, and the accepted RT60 in s.

    The upper limits of the sides, thirteen materials and the RT60 range are the PhaseCoder paper's
    (arXiv 2601.21124, training data); it does not give the lower limits of the sides. Walls drawn
    independently make shoeboxes that ring for 1.0 s on average (0.69 s for those within the range),
    where the paper reports 0.47 s: rooms of RT60 t above rt60_knee are therefore kept with
    probability exp(-(t - rt60_knee) / rt60_scale) only. rt60_scale = inf keeps all.
    """

    min_dimensions: tuple[float, float, float] = (2.5, 2.5, 2.2)
    max_dimensions: tuple[float, float, float] = (10.5, 10.5, 5.0)
    materials: Sequence[str] = field(default_factory=lambda: tuple(MATERIALS))
    min_rt60: float = 0.08
    max_rt60: float = 1.42
    rt60_knee: float = 0.25
    rt60_scale: float = 0.38

    def __post_init__(self) -> None:
        for name in self.materials:
            if name not in MATERIALS:
                raise InputError(f"unknown material {name!r}; known: {', '.join(MATERIALS)}")
        if not self.materials:
            raise InputError("RoomConfig.materials is empty: name at least one material")
        for low, high in zip(self.min_dimensions, self.max_dimensions):
            if not 0.5 <= low <= high:
                raise InputError(f"room sides from {low} to {high} m: need 0.5 <= low <= high")
        if not 0 <= self.min_rt60 < self.max_rt60:
            raise InputError(f"RT60 from {self.min_rt60} to {self.max_rt60} s: need low < high")
        if not self.rt60_scale > 0:
            raise InputError(f"rt60_scale={self.rt60_scale}: need a positive number of seconds")


def sample_room(rng: np.random.Generator, config: RoomConfig | None = None) -> RoomSpec:
    """Draws sides and walls uniformly until a room's RT60 (`Decay.rt60`) is accepted.

    Raises InputError when a thousand rooms in a row are outside them.
    """
    config = config or RoomConfig()
    names = tuple(config.materials)
    reflections = _log_reflection(np.array([MATERIALS[name] for name in names]))
    for _ in range(1000):
        sides = rng.uniform(config.min_dimensions, config.max_dimensions)
        walls = rng.integers(0, len(names), 6)
        rt60 = _decay_of(sides, reflections[walls]).rt60()
        if not config.min_rt60 <= rt60 <= config.max_rt60:
            continue
        if rng.uniform() <= math.exp(min(0.0, (config.rt60_knee - rt60) / config.rt60_scale)):
            x, y, z = sides.tolist()
            return RoomSpec((x, y, z), tuple(names[w] for w in walls))
    raise InputError(
        f"1000 rooms between {config.min_dimensions} and {config.max_dimensions} m had no RT60 "
        f"within {config.min_rt60}..{config.max_rt60} s: widen the limits or the materials"
    )
