# SPDX-License-Identifier: Apache-2.0
"""Conversations: one or two talkers in a simulated room, one after the other, whose words are known.

The questions of the PhaseCoder paper are asked about these (arXiv 2601.21124, section 4.2): whole
utterances of two people, one after the other without overlap, heard by a random array of eight
microphones without noise; in one conversation of twenty one or both talkers are dropped, and what
they would have said is silence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from llm_bridge.tokens.record import Clip, Talker
from spatial_core.data.pipeline import build_simulator
from spatial_core.data.records import SAMPLE_RATE
from spatial_core.data.seeds import generator
from spatial_core.data.sources import SourceSpec
from spatial_core.data.utterances import Utterances, load_utterances
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray, load_array
from spatial_core.geometry.coords import to_spherical
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.rir import RirSimulator
from spatial_core.sim.scene import DISTRACTOR_SEED, SceneConfig, SceneSpec, sample_scene, vary_scene
from spatial_core.sim.synthesis import TARGET_RMS, measured_rt60

MAX_SECONDS = 30.0
PEAK = 0.99
_MAX_DRAWS = 100


def _paper_scene() -> SceneConfig:
    return SceneConfig(min_mics=8, max_mics=8, distractor=False, gain_db=(0.0, 0.0))


def _long_responses() -> FastSimulator:
    return FastSimulator(taps=24000, threads=1)


@dataclass(frozen=True, kw_only=True)
class ConversationConfig:
    """What conversations are drawn from.

    scene: rooms, arrays, distances, sensor noise (its SNR is that of the talkers' mean power over
    all microphones, while they talk) and `speech_dropout`, the chance that one or both talkers are
    dropped; gain_db is the level of the array's channels. There is no distractor.
    array: one device (a MicArray, a preset's name or a JSON file) instead of random arrays.
    speech: "embedded" or "librispeech:/folder". max_seconds: of a whole conversation, up to 30.
    two_talkers: share of the conversations that are meant for two; the others are for one.
    pauses: seconds (low, high) before, between and after the talkers.
    mono_gain_db: gain of the mono audio, which without it has an RMS of 0.05 (-26 dBFS) while
    somebody talks; the paper adds 10 dB for its evaluation. Peaks are kept under full scale.
    simulator: "fast", "jax", "pyroomacoustics" or a RirSimulator.
    """

    scene: SceneConfig = field(default_factory=_paper_scene)
    array: MicArray | str | Path | None = None
    speech: str | SourceSpec = "embedded"
    max_seconds: float = 15.0
    two_talkers: float = 0.75
    pauses: tuple[float, float] = (0.2, 0.6)
    mono_gain_db: float = 0.0
    simulator: str | RirSimulator = field(default_factory=_long_responses)

    def __post_init__(self) -> None:
        if self.scene.distractor:
            raise InputError("conversations hold no distractor: set SceneConfig.distractor = False")
        if not 0 < self.max_seconds <= MAX_SECONDS:
            raise InputError(f"max_seconds is {self.max_seconds}: give up to {MAX_SECONDS:g} s")
        if not 0 <= self.two_talkers <= 1:
            raise InputError(f"two_talkers is {self.two_talkers}: a share lies within 0..1")
        low, high = self.pauses
        if not 0 <= low <= high:
            raise InputError(f"pauses are {self.pauses}: need 0 <= low <= high seconds")
        if not -60 <= self.mono_gain_db <= 60:
            raise InputError(f"mono_gain_db is {self.mono_gain_db}: give -60 to 60 dB")
        build_simulator(self.simulator)
        if self.array is not None:
            array = load_array(self.array)
            object.__setattr__(self, "array", array)
            object.__setattr__(self, "scene", replace(self.scene, array=array))


@dataclass(frozen=True, eq=False)
class Conversation(Clip):
    """One conversation: a clip, the scene behind it, and how many talkers were meant to be there and are silent."""

    dropped: int
    scene: SceneSpec


class Conversations:
    """The conversations of a seed and a split; number i is the same on every machine.

    Raises InputError for unknown speech, or where no two utterances fit into max_seconds. May be
    shared by threads.
    """

    def __init__(self, config: ConversationConfig, seed: int = 0, split: str = "train") -> None:
        generator(seed, split, "talk", 0)  # refuses an impossible seed or split now
        self.config, self.seed, self.split = config, seed, split
        self.utterances: Utterances = load_utterances(config.speech, split)
        self._simulator = build_simulator(config.simulator)
        items = self.utterances.items
        self._lengths = np.array([item.samples for item in items])
        self._speaker = np.unique([item.speaker for item in items], return_inverse=True)[1]
        self._texts = np.array([item.text for item in items])

    def __call__(self, index: int) -> Conversation:
        """Conversation `index` (0, 1, ...)."""
        config = self.config
        # The second talker stands where the scene would have put a distractor.
        places = replace(config.scene, distractor=True)
        room = sample_scene(generator(self.seed, self.split, "room", index), places)
        rng = generator(self.seed, self.split, "talk", index)
        chosen, starts, length = self._draw(rng)
        scene = vary_scene(rng, room, config.scene)
        heard = np.ones(len(chosen), bool)
        if not scene.speech:
            lost = int(rng.integers(2 ** len(chosen) - 1)) + 1  # bit i: talker i is dropped
            heard = (lost >> np.arange(len(chosen))) % 2 == 0
        dry = [self._voice(number) for number in chosen]
        length = max(length, *(start + len(voice) for start, voice in zip(starts, dry)))
        rirs = self._responses(scene, len(chosen))
        channels = self._channels(rng, scene, rirs, dry, starts, heard, length)
        audio = np.zeros(length, np.float32)
        for voice, start, on in zip(dry, starts, heard):
            audio[start : start + len(voice)] += np.float32(TARGET_RMS) * voice * on
        gain = 10 ** (config.mono_gain_db / 20)
        return Conversation(
            key=f"{self.split}-{self.seed}-{index:07d}",
            channels=channels,
            array=MicArray(scene.mic_positions(), self._array_name(scene)),
            talkers=self._talkers(scene, chosen, starts, dry, heard),
            audio=_limited(audio * gain),
            mixed=_limited(channels.mean(axis=0) * gain),
            dropped=int((~heard).sum()),
            rt60=measured_rt60(rirs[0, 0], scene.room),
            scene=scene,
            seed=self.seed,
        )

    def _draw(self, rng: np.random.Generator) -> tuple[list[int], list[int], int]:
        """Utterances in order, the sample each starts at, and the length of the conversation.

        A speaker is drawn before an utterance; two talkers are two speakers with two texts.
        """
        count = 2 if rng.uniform() < self.config.two_talkers else 1
        limit = int(self.config.max_seconds * SAMPLE_RATE)
        for _ in range(_MAX_DRAWS):
            pauses = rng.uniform(*self.config.pauses, size=count + 1) * SAMPLE_RATE
            pauses = pauses.astype(int)
            chosen: list[int] = []
            free = limit - int(pauses.sum())
            for turn in range(count):
                later = (count - 1 - turn) * int(self._lengths.min())
                fits = self._lengths <= free - later
                for other in chosen:
                    fits &= self._speaker != self._speaker[other]
                    fits &= self._texts != self._texts[other]
                candidates = np.flatnonzero(fits)
                if len(candidates) == 0:
                    break
                speakers = np.unique(self._speaker[candidates])
                speaker = speakers[rng.integers(len(speakers))]
                candidates = candidates[self._speaker[candidates] == speaker]
                chosen.append(int(candidates[rng.integers(len(candidates))]))
                free -= int(self._lengths[chosen[-1]])
            if len(chosen) == count:
                lengths = [int(self._lengths[number]) for number in chosen]
                starts = [int(pauses[0])]
                if count == 2:
                    starts.append(starts[0] + lengths[0] + int(pauses[1]))
                return chosen, starts, int(pauses.sum()) + sum(lengths)
        shortest = self._lengths.min() / SAMPLE_RATE
        raise InputError(
            f"{'no utterance fits' if count == 1 else 'no utterances of two speakers fit'} into max_seconds = "
            f"{self.config.max_seconds:g} with pauses of {self.config.pauses} s (the shortest of "
            f"split {self.split!r} lasts {shortest:.1f} s): raise max_seconds"
        )

    def _voice(self, number: int) -> NDArray[np.float32]:
        """An utterance [t] of RMS 1."""
        voice = self.utterances.audio(number)
        level = math.sqrt(float(np.mean(np.square(voice, dtype=np.float64))))
        if level == 0:
            raise InputError(f"utterance {self.utterances.items[number].key} is silent: remove it")
        return (voice / np.float32(level)).astype(np.float32)

    def _places(self, scene: SceneSpec, count: int) -> NDArray[np.float64]:
        """Where the talkers stand [count, 3], room frame."""
        other = scene.distractor_source
        return np.stack([scene.source, scene.source if other is None else other])[:count]

    def _responses(self, scene: SceneSpec, count: int) -> NDArray[np.float32]:
        """RIRs [count, m, taps]."""
        mics = np.stack([scene.true_positions] * count)
        return self._simulator.simulate_batch(
            [scene.room] * count,
            self._places(scene, count),
            mics,
            np.ones(mics.shape[:2], bool),
            [scene.seed, scene.seed ^ DISTRACTOR_SEED][:count],
        )

    def _channels(
        self,
        rng: np.random.Generator,
        scene: SceneSpec,
        rirs: NDArray[np.float32],
        dry: list[NDArray[np.float32]],
        starts: list[int],
        heard: NDArray[np.bool_],
        length: int,
    ) -> NDArray[np.float32]:
        """What the microphones hear [m, length]."""
        channels = np.zeros((scene.num_mics, length), np.float32)
        energy, samples = 0.0, 0
        for rir, voice, start, on in zip(rirs, dry, starts, heard):
            wet = _convolved(voice, rir)[:, self._simulator.lead :][:, : length - start]
            # Levels are those of the conversation as it was meant, so that a dropped talker leaves
            # the noise of the microphones as low as it is beside speech.
            energy += float(np.mean(np.square(wet[:, : len(voice)]), axis=0).sum())
            samples += len(voice)
            if on:
                channels[:, start : start + wet.shape[1]] += wet
        power = energy / samples
        sensor = math.sqrt(power / 10 ** (scene.sensor_noise_db / 10))
        if sensor > 0:
            channels += np.float32(sensor) * rng.standard_normal(channels.shape, np.float32)
        scale = TARGET_RMS * 10 ** (scene.gain_db / 20) / math.sqrt(power)
        gains = scale * 10 ** (scene.channel_gains_db / 20)
        return channels * gains.astype(np.float32)[:, None]

    def _talkers(
        self,
        scene: SceneSpec,
        chosen: list[int],
        starts: list[int],
        dry: list[NDArray[np.float32]],
        heard: NDArray[np.bool_],
    ) -> tuple[Talker, ...]:
        talkers = []
        places = self._places(scene, len(chosen))
        for number, start, voice, place, on in zip(chosen, starts, dry, places, heard):
            azimuth, elevation, distance = to_spherical(scene.to_array_frame(place))
            item = self.utterances.items[number]
            if on:
                talkers.append(
                    Talker(
                        start=start / SAMPLE_RATE,
                        end=(start + len(voice)) / SAMPLE_RATE,
                        azimuth=float(azimuth),
                        elevation=float(elevation),
                        distance=float(distance),
                        transcript=item.text,
                        speaker=item.speaker,
                    )
                )
        return tuple(talkers)

    def _array_name(self, scene: SceneSpec) -> str:
        if self.config.scene.array is not None:
            return self.config.scene.array.name
        return f"{scene.num_mics} random microphones"


def _convolved(voice: NDArray[np.float32], rir: NDArray[np.float32]) -> NDArray[np.float32]:
    """voice [t] through the responses [m, taps], as far as they sound: [m, t + taps - 1] or less."""
    sounding = np.flatnonzero(rir.any(axis=0))
    rir = rir[:, : int(sounding[-1]) + 1]
    full = len(voice) + rir.shape[1] - 1
    size = scipy.fft.next_fast_len(full, real=True)
    spectra = scipy.fft.rfft(rir, size)
    spectra *= scipy.fft.rfft(voice, size)
    return np.asarray(scipy.fft.irfft(spectra, size)[:, :full], np.float32)


def _limited(mono: NDArray[np.floating]) -> NDArray[np.float32]:
    """Turned down as a whole where its peak would be over full scale."""
    peak = float(np.abs(mono).max(initial=0.0))
    return np.asarray(mono if peak <= PEAK else mono * (PEAK / peak), np.float32)
