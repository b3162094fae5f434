# SPDX-License-Identifier: Apache-2.0
"""A made-up recording whose truth is known: a talker in a simulated room, with pauses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from spatial_core.audio.io import write_wav
from spatial_core.data.records import SAMPLE_RATE
from spatial_core.data.sources import SpeechSource
from spatial_core.geometry.arrays import MicArray
from spatial_core.sim.rir import RirSimulator
from spatial_core.sim.scene import SceneSpec

TALK_SECONDS, PAUSE_SECONDS = 2.0, 0.8
_FADE = 320  # samples, 20 ms
_PEAK = 0.5
_AUDIBLE_WINDOW = 8000  # samples at the end of a stretch that must hold speech


@dataclass(frozen=True)
class Rehearsal:
    """A simulated recording: audio [m, t] at 16 kHz, its array, and where the talker was.

    Angles in degrees in the array's frame, distance in metres. talking [t]: whether the dry talker
    is within a stretch of speech (its reverberation goes on a little longer).
    """

    audio: NDArray[np.float32]
    array: MicArray
    scene: SceneSpec
    azimuth: float
    elevation: float
    distance: float
    talking: NDArray[np.bool_]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write recording.wav (16 bit) and array.json into `folder`; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        audio, array = folder / "recording.wav", folder / "array.json"
        write_wav(audio, self.audio, SAMPLE_RATE, subtype="PCM_16")
        self.array.to_json(array)
        return audio, array


def record_scene(
    scene: SceneSpec,
    simulator: RirSimulator,
    speech: SpeechSource,
    rng: np.random.Generator,
    stretches: int = 2,
) -> Rehearsal:
    """Play `stretches` of speech, each after a pause, at the scene's source, and record them.

    Every stretch may be another speaker of `speech` at the same place. White sensor noise at the
    scene's own SNR is on every microphone.
    """
    dry, talking = _dry_speech(speech, rng, stretches)
    rirs = simulator.simulate(scene.room, scene.source, scene.true_positions, scene.seed)
    wet = scipy.signal.fftconvolve(dry[None], rirs, axes=1)[:, : len(dry)]
    power = float(np.mean(np.square(wet[:, talking])))
    noise = rng.standard_normal(wet.shape) * np.sqrt(power / 10 ** (scene.sensor_noise_db / 10))
    audio = wet + noise
    audio = (_PEAK / np.abs(audio).max() * audio).astype(np.float32)
    label = scene.labels()
    return Rehearsal(
        audio=audio,
        array=MicArray(scene.mic_positions(), "simulated array"),
        scene=scene,
        azimuth=float(label["azimuth"]),
        elevation=float(label["elevation"]),
        distance=float(label["distance"]),
        talking=talking,
    )


def _dry_speech(
    speech: SpeechSource, rng: np.random.Generator, stretches: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Dry signal [t] and where it talks [t]: pause, talk, pause, talk, ..., pause."""
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE))
    length = round(TALK_SECONDS * SAMPLE_RATE)
    ramp = np.sin(np.linspace(0, np.pi / 2, _FADE)) ** 2
    parts, talking = [pause], [np.zeros(len(pause), bool)]
    for _ in range(stretches):
        talk = speech.crop(rng, length, _AUDIBLE_WINDOW).astype(np.float64)
        talk[:_FADE] *= ramp
        talk[-_FADE:] *= ramp[::-1]
        # Utterances differ in level; the second stretch must not be silence beside the first.
        talk /= max(float(np.sqrt(np.mean(talk**2))), 1e-9)
        parts += [talk, pause]
        talking += [np.ones(length, bool), np.zeros(len(pause), bool)]
    return np.concatenate(parts), np.concatenate(talking)
