# SPDX-License-Identifier: Apache-2.0
"""Simulated scenes: what is drawn for each, and how it becomes audio with an exact truth.

Scene i depends on (configuration, seed, split, i) and on nothing else. `scenes_per_room` consecutive
scenes share a room, whose responses are made once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sciphi.material import Sound, Sounds, categories, open_events, open_speech
from sciphi.records import FOA_RATE, Scene, SceneTruth, SourceTruth
from sciphi.rooms import FoaRoom, FoaRoomConfig, make_room
from sciphi.synthesis import Placed, background_of, heard_source, random_filter
from spatial_core.data.seeds import generator
from spatial_core.errors import InputError
from spatial_core.sim.rooms import SPEED_OF_SOUND

_KEPT_ROOMS = 16
_PEAK = 0.98
_MAX_DRAWS = 64


@dataclass(frozen=True)
class FoaSceneConfig:
    """What scenes are drawn from.

    seconds: length. min_sources, max_sources: as many scenes of each count. speech_share: of sources
    that are speech. room: rooms and places. scenes_per_room: scenes that share a room.
    speech, events, backgrounds: where sounds come from, see material.py; one name or several.
    loudness: A-weighted dB at the microphone that sources are drawn from. background_share: of
    scenes with a background; background_snr: dB by which it lies below the mean of the sources.
    max_event_seconds: longer sounds are cut. sensor_noise: white noise of each channel, dB.
    """

    seconds: float = 10.0
    min_sources: int = 1
    max_sources: int = 4
    speech_share: float = 0.5
    room: FoaRoomConfig = field(default_factory=FoaRoomConfig)
    scenes_per_room: int = 16
    speech: str | tuple[str, ...] = "embedded"
    events: str | tuple[str, ...] = "embedded"
    backgrounds: str | tuple[str, ...] = "embedded"
    loudness: tuple[float, float] = (-45.0, -25.0)
    background_share: float = 0.5
    background_snr: tuple[float, float] = (3.0, 30.0)
    max_event_seconds: float = 5.0
    sensor_noise: tuple[float, float] = (-95.0, -75.0)

    def __post_init__(self) -> None:
        if not 1.0 <= self.seconds <= 60.0:
            raise InputError(f"seconds={self.seconds}: choose 1 to 60")
        if not 1 <= self.min_sources <= self.max_sources <= self.room.positions:
            raise InputError(
                f"min_sources={self.min_sources}, max_sources={self.max_sources}: need 1 <= min <= max "
                f"<= {self.room.positions} places"
            )
        for name in ("speech_share", "background_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: a share lies within 0..1")
        for name in ("loudness", "background_snr", "sensor_noise"):
            low, high = getattr(self, name)
            if not -150 <= low <= high <= 150:
                raise InputError(f"{name}={low, high}: need two numbers of dB, the lower one first")
        if self.scenes_per_room < 1 or self.max_event_seconds < 0.1:
            raise InputError(
                f"scenes_per_room={self.scenes_per_room}, max_event_seconds={self.max_event_seconds}: "
                "need 1 or more, and 0.1 s or more"
            )


class FoaScenes:
    """Scenes by number: `FoaScenes(config, seed, split)(index)`, a pure function. Threads may share it.

    Raises InputError for unknown or unusable material, when it is made.
    """

    def __init__(self, config: FoaSceneConfig, seed: int = 0, split: str = "train") -> None:
        generator(seed, split, "scene", 0)  # refuses an impossible seed or split now
        self.config, self.seed, self.split = config, seed, split
        # The direct sound of the farthest place has to arrive in time.
        farthest = float(np.linalg.norm(config.room.rooms.max_dimensions))
        self._longest = config.seconds - farthest / SPEED_OF_SOUND
        speech, sounds = config.speech_share > 0, config.speech_share < 1
        self.speech = open_speech(config.speech if speech else (), split, self._longest)
        self.events = open_events(config.events if sounds else (), split)
        wanted = config.backgrounds if config.background_share > 0 else ()
        self.backgrounds = open_events(wanted, split, use="background")
        _require(self.events, sounds, "events", split)
        _require(self.backgrounds, bool(wanted), "backgrounds", split)
        self._rooms: OrderedDict[int, FoaRoom] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, index: int) -> Scene:
        """Scene `index`."""
        config = self.config
        rng = generator(self.seed, self.split, "scene", index)
        room = self.room(index // config.scenes_per_room)
        samples = round(config.seconds * FOA_RATE)
        count = self._count(index)
        places = rng.choice(len(room.distance), count, replace=False).tolist()
        background = None
        if rng.uniform() < config.background_share:
            background = _draw(rng, self.backgrounds, set())
        avoid = set() if background is None else {background[0].label}
        placed = self._sources(rng, room, places, avoid)
        foa = np.zeros((4, samples), np.float32)
        sources = []
        for each in placed:
            level = rng.uniform(*config.loudness)
            wet, start, stop, level = heard_source(each, room, samples, level)
            foa += wet
            sources.append((each, start / FOA_RATE, stop / FOA_RATE, level))
        noise_level = None
        if background is not None:
            power = np.mean([10 ** (level / 10) for *_, level in sources])
            noise_level = 10 * np.log10(power) - rng.uniform(*config.background_snr)
            foa += background_of(rng, background[1], room, samples, noise_level)
        sensor = 10 ** (rng.uniform(*config.sensor_noise) / 20)
        foa += sensor * rng.standard_normal((4, samples), np.float32)
        foa, shift = _below_full_scale(foa)
        truth = SceneTruth(
            volume=room.spec.volume,
            rt60=room.rt60,
            background=None if background is None else background[0].label,
            background_loudness=None if noise_level is None else float(noise_level + shift),
            sources=tuple(
                sorted((_truth(*source, room, shift) for source in sources), key=lambda s: s.onset)
            ),
        )
        return Scene(f"{self.split}-{self.seed}-{index:07d}", foa, truth, self.seed)

    @property
    def categories(self) -> tuple[str, ...]:
        """Classes of the sources that scenes of any split may have, sorted."""
        share = self.config.speech_share
        known = categories(
            self.config.speech if share > 0 else (), self.config.events if share < 1 else ()
        )
        return tuple(sorted({*known, *(item.category for item in self.speech.items)}))

    @property
    def fingerprints(self) -> dict[str, str]:
        """Digests of the material."""
        parts = {"speech": self.speech, "events": self.events, "backgrounds": self.backgrounds}
        return {name: sounds.fingerprint for name, sounds in parts.items()}

    def room(self, number: int) -> FoaRoom:
        """Room `number`; the last ones are kept."""
        with self._lock:
            room = self._rooms.get(number)
        if room is None:
            room = make_room(self.config.room, self.seed, self.split, number)
        with self._lock:
            self._rooms[number] = room
            self._rooms.move_to_end(number)
            while len(self._rooms) > _KEPT_ROOMS:
                self._rooms.popitem(last=False)
        return room

    def _count(self, index: int) -> int:
        """Sources of a scene: every count once in each run of as many scenes as there are counts."""
        config = self.config
        counts = config.max_sources - config.min_sources + 1
        order = generator(self.seed, self.split, "order", index // counts).permutation(counts)
        return config.min_sources + int(order[index % counts])

    def _sources(
        self, rng: np.random.Generator, room: FoaRoom, places: list[int], avoid: set[str]
    ) -> list[Placed]:
        """What sounds at the places, and when: no voice and no label of an event twice."""
        config = self.config
        placed, speakers, labels = [], set[str](), set(avoid)
        for place in places:
            spoken = rng.uniform() < config.speech_share
            if spoken:
                sound, dry = _draw(rng, self.speech, speakers)
                speakers.add(sound.group)
            else:
                sound, dry = _draw(rng, self.events, labels)
                labels.add(sound.label)
                dry = _as_event(rng, dry, min(config.max_event_seconds, self._longest))
            dry = random_filter(rng, dry)
            delay = room.distance[place] / SPEED_OF_SOUND
            free = config.seconds - delay - len(dry) / FOA_RATE
            placed.append(Placed(sound, spoken, dry, place, float(rng.uniform(0, max(free, 0)))))
        return placed


def _require(sounds: Sounds, wanted: bool, what: str, split: str) -> None:
    if wanted and not sounds.items:
        raise InputError(
            f"{what} of the scenes hold no sound for it in split {split!r}: name a source that does, "
            "or set its share to 0"
        )


def _draw(
    rng: np.random.Generator, sounds: Sounds, avoid: set[str]
) -> tuple[Sound, NDArray[np.float32]]:
    """A sound and its samples: a group first, then one of its clips, silent ones passed over.

    avoid: groups and labels that are drawn only where nothing else is found.
    """
    names, drawn = list(sounds.groups), None
    for _ in range(_MAX_DRAWS):
        members = sounds.groups[names[rng.integers(len(names))]]
        number = members[rng.integers(len(members))]
        sound, audio = sounds.items[number], sounds.audio(number)
        if len(audio):
            drawn = sound, audio
            if not {sound.group, sound.label} & avoid:
                break
    if drawn is None:
        raise InputError(f"{_MAX_DRAWS} clips in a row are silent: replace them, or add others")
    return drawn


def _as_event(
    rng: np.random.Generator, dry: NDArray[np.float32], longest: float
) -> NDArray[np.float32]:
    """A sound of at most `longest` seconds; a short one may be heard several times in a row."""
    limit = round(longest * FOA_RATE)
    if len(dry) > limit:
        start = int(rng.integers(len(dry) - limit + 1))
        dry = dry[start : start + limit].copy()
        fade = np.linspace(0, 1, 240, dtype=np.float32)  # 10 ms
        dry[:240] *= fade
        dry[-240:] *= fade[::-1]
    if len(dry) < FOA_RATE and (len(dry) < 0.3 * FOA_RATE or rng.uniform() < 0.6):
        every = len(dry) + int(rng.uniform(0.05, 0.4) * FOA_RATE)
        times = int(min(rng.uniform(0.7, 3.0) * FOA_RATE, limit - len(dry)) // every) + 1
        row = np.zeros((times - 1) * every + len(dry), np.float32)
        for n in range(times):
            row[n * every : n * every + len(dry)] += dry
        dry = row
    return dry


def _below_full_scale(foa: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """The audio as it is stored, and by how many dB all levels changed so that it fits."""
    peak = float(np.abs(foa).max())
    if peak <= _PEAK:
        return foa, 0.0
    return foa * np.float32(_PEAK / peak), float(20 * np.log10(_PEAK / peak))


def _truth(
    placed: Placed, onset: float, offset: float, level: float, room: FoaRoom, shift: float
) -> SourceTruth:
    place = placed.place
    return SourceTruth(
        label=placed.sound.label,
        kind="speech" if placed.spoken else "event",
        category=placed.sound.category,
        transcript=placed.sound.transcript,
        onset=onset,
        offset=offset,
        azimuth=float(room.azimuth[place]),
        elevation=float(room.elevation[place]),
        distance=float(room.distance[place]),
        loudness=float(level + shift),
        c50=float(room.c50[place]),
    )
