# SPDX-License-Identifier: Apache-2.0
"""Scenes: what stands where in a room, drawn at random, with exact labels.

Two frames. The *room frame* has the room's corner in the origin and its walls along the axes. The
*array frame*, the global frame of every label and of `mic_positions`, is centred on the mean
reported microphone position and turned by `yaw` degrees about the vertical: a device does not
stand parallel to the walls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from spatial_core.config.resolved import UNSAID
from spatial_core.data.records import SAMPLE_RATE
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray
from spatial_core.geometry.coords import rotate_z, to_spherical, wrap_degrees
from spatial_core.sim.rir import RirSimulator
from spatial_core.sim.rooms import RoomConfig, RoomSpec, sample_room

# The noise source of a scene gets roulette draws of its own.
DISTRACTOR_SEED = 0x5DEECE66D
MIN_MIC_SPACING = 0.01
MIN_SOURCE_CLEARANCE = 0.02


@dataclass(frozen=True)
class SceneConfig:
    """What `sample_scene` draws from; the defaults are the PhaseCoder paper's recipe.

    Metres, seconds, decibels; pairs are (low, high) of a uniform draw.
    array: a fixed array instead of random ones (its own frame is the array frame). A random array is
    min_mics..max_mics points in a ball whose diameter is drawn from array_diameter.
    planar_share: of the random arrays, those that lie flat in a horizontal plane, as the arrays of
    most devices do (the paper's are all solid).
    min/max_source_distance: from the array's centroid, of speech and distractor alike; besides, no
    source comes within 2 cm of a microphone. max_rt60 lowers the limit of `room`.
    speech_dropout, distractor_dropout: shares of scenes without them. snr_db: speech to distractor.
    sensor_noise_db: SNR of white noise, independent in each channel; None for none.
    gain_mismatch_db, position_jitter_m: standard deviations of what the given coordinates do not
    tell: gains of the channels, true minus reported positions. phase_mismatch_deg: the same of the
    channels' phases at 1 kHz, in proportion to frequency as that of a delay (1 degree: 2.8 us). 95% of
    8,384 MEMS microphones of one type lay within 0.82 degrees and 0.39 dB (Wijnings et al., ICASSP
    2021), so 0.4 and 0.2 are bare parts; ports of other lengths add 3 degrees for 3 mm.
    gain_db: level of the whole clip.
    random_yaw: turn the array frame against the walls. wall_margin: of microphones and sources.
    """

    min_mics: int = 3
    max_mics: int = 8
    array_diameter: tuple[float, float] = (0.07, 0.18)
    min_source_distance: float = 0.1
    max_source_distance: float | None = None
    max_rt60: float | None = None
    speech_dropout: float = 0.05
    distractor: bool = True
    distractor_dropout: float = 0.05
    snr_db: tuple[float, float] = (-5.0, 15.0)
    sensor_noise_db: tuple[float, float] | None = (20.0, 60.0)
    planar_share: float = 0.0
    array: MicArray | None = None
    gain_mismatch_db: float = 0.0
    position_jitter_m: float = 0.0
    phase_mismatch_deg: float = field(default=0.0, metadata=UNSAID)
    gain_db: tuple[float, float] = (-10.0, 10.0)
    random_yaw: bool = True
    wall_margin: float = 0.1
    room: RoomConfig = field(default_factory=RoomConfig)

    def __post_init__(self) -> None:
        if not 2 <= self.min_mics <= self.max_mics <= 64:
            raise InputError(
                f"min_mics={self.min_mics}, max_mics={self.max_mics}: need 2 <= min <= max <= 64"
            )
        low, high = self.array_diameter
        if not 0.02 <= low <= high <= 5.0:
            raise InputError(
                f"array_diameter={self.array_diameter}: need 0.02 <= low <= high <= 5 metres"
            )
        farthest = self.max_source_distance
        if self.min_source_distance < 0 or (
            farthest is not None and farthest <= self.min_source_distance
        ):
            raise InputError(
                f"source distances from {self.min_source_distance} to {farthest} m: need 0 <= min < max"
            )
        if not 0 <= self.phase_mismatch_deg <= 30:
            raise InputError(
                f"phase_mismatch_deg={self.phase_mismatch_deg}: choose 0 to 30 degrees"
            )
        if not 0 <= self.planar_share <= 1:
            raise InputError(f"planar_share={self.planar_share}: a share lies within 0..1")
        if not (0 <= self.speech_dropout <= 1 and 0 <= self.distractor_dropout <= 1):
            raise InputError(
                f"speech_dropout={self.speech_dropout}, distractor_dropout="
                f"{self.distractor_dropout}: probabilities lie within 0..1"
            )
        if self.max_rt60 is not None and self.max_rt60 <= self.room.min_rt60:
            raise InputError(
                f"max_rt60={self.max_rt60} s is not above the rooms' minimum {self.room.min_rt60} s"
            )

    @property
    def padded_mics(self) -> int:
        """Microphones that a batch must have room for."""
        return self.array.num_mics if self.array is not None else self.max_mics

    @property
    def rooms(self) -> RoomConfig:
        """The rooms to draw from, with max_rt60 applied."""
        if self.max_rt60 is None:
            return self.room
        return replace(self.room, max_rt60=min(self.max_rt60, self.room.max_rt60))


@dataclass(frozen=True, eq=False)
class SceneSpec:
    """One scene. Positions are in the room frame in metres.

    array_positions [m, 3] are the reported ones, true_positions those that hear. distractor_source
    is None where the recipe has no distractor; distractor False means dropped out. channel_delays [m]:
    seconds by which channels are late, against the earliest; None for none.
    """

    room: RoomSpec
    array_positions: np.ndarray
    true_positions: np.ndarray
    source: np.ndarray
    distractor_source: np.ndarray | None
    yaw: float
    speech: bool
    distractor: bool
    snr_db: float
    sensor_noise_db: float
    gain_db: float
    channel_gains_db: np.ndarray
    seed: int
    channel_delays: np.ndarray | None = None

    @property
    def num_mics(self) -> int:
        """Microphones of the scene."""
        return len(self.array_positions)

    @property
    def centroid(self) -> np.ndarray:
        """Mean of the reported positions [3], room frame."""
        return self.array_positions.mean(axis=0)

    def to_array_frame(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] of the room frame about the centroid, turned into the array frame."""
        return rotate_z(np.asarray(points) - self.centroid, -self.yaw)

    def to_room_azimuth(self, azimuth: float) -> float:
        """An azimuth of the array frame as one of the room frame, degrees (for floor plans)."""
        return float(wrap_degrees(azimuth + self.yaw))

    def mic_positions(self) -> np.ndarray:
        """Reported positions [m, 3] about their centroid, array frame, metres."""
        return self.to_array_frame(self.array_positions)

    def labels(self) -> dict[str, Any]:
        """azimuth, elevation (degrees), distance (m) of the speech in the array frame, and speech.

        All zero and False where the speech is dropped.
        """
        if not self.speech:
            return {"azimuth": 0.0, "elevation": 0.0, "distance": 0.0, "speech": False}
        azimuth, elevation, distance = to_spherical(self.to_array_frame(self.source))
        return {
            "azimuth": float(azimuth),
            "elevation": float(elevation),
            "distance": float(distance),
            "speech": True,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values (JSON), read back exactly by `from_dict`."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.channel_delays is None:
            del values["channel_delays"]
        values["room"] = {
            "dimensions": list(self.room.dimensions),
            "materials": list(self.room.materials),
        }
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SceneSpec:
        """The scene that `to_dict` wrote."""
        fields = dict(values)
        room = fields["room"]
        fields["room"] = RoomSpec(tuple(room["dimensions"]), tuple(room["materials"]))
        for name in ("array_positions", "true_positions", "source", "channel_gains_db"):
            fields[name] = np.asarray(fields[name], np.float64)
        for name in ("distractor_source", "channel_delays"):
            if fields.get(name) is not None:
                fields[name] = np.asarray(fields[name], np.float64)
        return cls(**fields)


def sample_scene(rng: np.random.Generator, config: SceneConfig | None = None) -> SceneSpec:
    """Draws room, array, speech and distractor positions, dropouts and levels.

    Raises InputError when a hundred rooms in a row have no place for the array or a source.
    """
    config = config or SceneConfig()
    rooms = config.rooms
    for _ in range(100):
        room = sample_room(rng, rooms)
        yaw = float(rng.uniform(-180, 180)) if config.random_yaw else 0.0
        offsets = rotate_z(_array_offsets(rng, config), yaw)
        mics = _place_array(rng, room, offsets, config.wall_margin)
        if mics is None:
            continue
        true = mics + config.position_jitter_m * rng.standard_normal(mics.shape)
        if not _inside(room, true, 0.0):
            continue
        source = _place_source(rng, room, mics, true, config)
        if source is None:
            continue
        noise = _place_source(rng, room, mics, true, config) if config.distractor else None
        if config.distractor and noise is None:
            continue
        spec = SceneSpec(
            room=room,
            array_positions=mics,
            true_positions=true,
            source=source,
            distractor_source=noise,
            yaw=yaw,
            speech=True,
            distractor=noise is not None,
            snr_db=math.inf,
            sensor_noise_db=math.inf,
            gain_db=0.0,
            channel_gains_db=np.zeros(len(mics)),
            seed=0,
        )
        spec = vary_scene(rng, spec, config)
        # Drawn last and only where asked for: all else stays as it is without.
        if config.phase_mismatch_deg > 0:
            delays = config.phase_mismatch_deg / 360e3 * rng.standard_normal(len(mics))
            spec = replace(spec, channel_delays=delays - delays.min())
        return spec
    extent = np.ptp(offsets, axis=0)
    raise InputError(
        f"100 rooms up to {config.room.max_dimensions} m had no place for an array of "
        f"{' x '.join(f'{e:.2f}' for e in extent)} m with sources {config.min_source_distance:g} to "
        f"{config.max_source_distance or math.inf:g} m away, all {config.wall_margin:g} m off the "
        "walls: use larger rooms, a smaller array or other distances"
    )


def vary_scene(rng: np.random.Generator, spec: SceneSpec, config: SceneConfig) -> SceneSpec:
    """The same room and positions (so the same RIRs) with new dropouts, levels and seed."""
    speech = bool(rng.uniform() >= config.speech_dropout)
    active = bool(rng.uniform() >= config.distractor_dropout)
    distractor = active and spec.distractor_source is not None
    sensor = config.sensor_noise_db
    return replace(
        spec,
        speech=speech,
        distractor=distractor,
        snr_db=float(rng.uniform(*config.snr_db)) if distractor else math.inf,
        sensor_noise_db=float(rng.uniform(*sensor)) if sensor else math.inf,
        gain_db=float(rng.uniform(*config.gain_db)),
        channel_gains_db=config.gain_mismatch_db * rng.standard_normal(spec.num_mics),
        seed=int(rng.integers(2**63)),
    )


def pad_positions(specs: Sequence[SceneSpec], num_mics: int) -> tuple[np.ndarray, np.ndarray]:
    """True microphone positions [b, num_mics, 3] in the room frame, and which there are [b, num_mics].

    Raises InputError where a scene has more.
    """
    largest = max(spec.num_mics for spec in specs)
    if largest > num_mics:
        raise InputError(f"a scene has {largest} microphones, the batch room for {num_mics} only")
    mics = np.zeros((len(specs), num_mics, 3))
    mask = np.zeros((len(specs), num_mics), bool)
    for r, spec in enumerate(specs):
        mics[r, : spec.num_mics] = spec.true_positions
        mask[r, : spec.num_mics] = True
    return mics, mask


def pad_delays(specs: Sequence[SceneSpec], num_mics: int) -> np.ndarray | None:
    """Samples [b, num_mics] by which channels are late; None where no scene has such."""
    if all(spec.channel_delays is None for spec in specs):
        return None
    delays = np.zeros((len(specs), num_mics))
    for row, spec in enumerate(specs):
        if spec.channel_delays is not None:
            delays[row, : spec.num_mics] = spec.channel_delays * SAMPLE_RATE
    return delays


def simulate_scenes(
    simulator: RirSimulator, specs: Sequence[SceneSpec], num_mics: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """RIRs float32 [r, num_mics, taps] of the speech, and of the distractors (None without any).

    Channels beyond a scene's own are zero; so are the RIRs of scenes without a distractor source.
    """
    mics, mask = pad_positions(specs, num_mics)
    noisy = [r for r, spec in enumerate(specs) if spec.distractor_source is not None]
    rows = [*range(len(specs)), *noisy]
    sources = np.array(
        [spec.source for spec in specs] + [specs[r].distractor_source for r in noisy], np.float64
    )
    seeds = [spec.seed for spec in specs] + [specs[r].seed ^ DISTRACTOR_SEED for r in noisy]
    rooms = [specs[r].room for r in rows]
    delays = pad_delays(specs, num_mics)
    # Simulators that know no delays do for scenes without.
    late = {} if delays is None else {"delays": delays[rows]}
    rirs = simulator.simulate_batch(rooms, sources, mics[rows], mask[rows], seeds, **late)
    if not noisy:
        return rirs, None
    if len(noisy) == len(specs):
        return rirs[: len(specs)], rirs[len(specs) :]
    distractors = np.zeros_like(rirs[: len(specs)])
    distractors[noisy] = rirs[len(specs) :]
    return rirs[: len(specs)], distractors


def _array_offsets(rng: np.random.Generator, config: SceneConfig) -> np.ndarray:
    """Microphone positions [m, 3] about the middle of the array's ball, array frame."""
    if config.array is not None:
        return np.asarray(config.array.centred, np.float64)
    count = int(rng.integers(config.min_mics, config.max_mics + 1))
    radius = rng.uniform(*config.array_diameter) / 2
    # Drawn only where it is asked for: other recipes keep their scenes.
    flat = config.planar_share > 0 and rng.uniform() < config.planar_share
    # The smallest arrays could not hold eight microphones a centimetre apart.
    spacing = min(MIN_MIC_SPACING, 0.3 * radius)
    for _ in range(1000):
        points = rng.standard_normal((count, 3))
        points *= (
            radius
            * rng.uniform(size=(count, 1)) ** (1 / 3)
            / np.linalg.norm(points, axis=1, keepdims=True)
        )
        if flat:
            points[:, 2] = 0.0
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
        if np.min(gaps[np.triu_indices(count, 1)]) >= spacing:
            return points
    raise InputError(
        f"{count} microphones at least {spacing:.4f} m apart do not fit into a ball of "
        f"{2 * radius:.3f} m: use fewer microphones or a larger array_diameter"
    )


def _inside(room: RoomSpec, points: np.ndarray, margin: float) -> bool:
    return bool(np.all((points > margin) & (points < np.asarray(room.dimensions) - margin)))


def _place_array(
    rng: np.random.Generator, room: RoomSpec, offsets: np.ndarray, margin: float
) -> np.ndarray | None:
    """Positions [m, 3] at a uniformly drawn place where the array fits; None if there is none."""
    low = margin - offsets.min(axis=0)
    high = np.asarray(room.dimensions) - margin - offsets.max(axis=0)
    if np.any(low >= high):
        return None
    return rng.uniform(low, high) + offsets


def _place_source(
    rng: np.random.Generator,
    room: RoomSpec,
    mics: np.ndarray,
    true: np.ndarray,
    config: SceneConfig,
) -> np.ndarray | None:
    """A position [3], uniform over all that the distances allow; None after 100 misses."""
    centroid = mics.mean(axis=0)
    farthest = config.max_source_distance or math.inf
    low = np.maximum(config.wall_margin, centroid - farthest)
    high = np.minimum(np.asarray(room.dimensions) - config.wall_margin, centroid + farthest)
    if np.any(low >= high):
        return None
    for _ in range(100):
        source = rng.uniform(low, high)
        distance = np.linalg.norm(source - centroid)
        if not config.min_source_distance <= distance <= farthest:
            continue
        clearance = np.linalg.norm(np.concatenate([mics, true]) - source, axis=1).min()
        if clearance >= MIN_SOURCE_CLEARANCE:
            return source
    return None
