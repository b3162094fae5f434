# SPDX-License-Identifier: Apache-2.0
"""Seconds of sound in the room of a stream's example: what its 250 ms windows are cut from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.signal import fftconvolve

from spatial_core.data.pipeline import CropStream
from spatial_core.data.records import HOP, SAMPLE_RATE, WINDOW, Batch, empty_batch
from spatial_core.data.seeds import generator
from spatial_core.sim.scene import SceneSpec, vary_scene
from spatial_core.sim.synthesis import TARGET_RMS


@dataclass(frozen=True)
class Stretch:
    """audio float32 [m, t] at 16 kHz of one talker (and the scene's distractor), and its scene."""

    audio: np.ndarray
    scene: SceneSpec

    def windows(self, hop: int = HOP) -> Batch:
        """All whole windows, `hop` samples apart, as a batch with the scene's labels."""
        starts = range(0, self.audio.shape[1] - WINDOW + 1, hop)
        batch = empty_batch(len(starts), len(self.audio))
        for i, start in enumerate(starts):
            batch["audio"][i] = self.audio[:, start : start + WINDOW]
        batch["mic_positions"][:] = self.scene.mic_positions()
        batch["mic_mask"][:] = True
        batch["num_mics"][:] = len(self.audio)
        batch["snr_db"][:] = self.scene.snr_db
        for name, value in self.scene.labels().items():
            batch[name][:] = value
        return batch


def scene_of(stream: CropStream, index: int) -> SceneSpec:
    """The scene of example `index`; of one that was replaced as bad, what it was meant to be."""
    return _scene(stream, index)[0]


def stretch_of(stream: CropStream, index: int, seconds: float) -> Stretch:
    """`seconds` of sound in the room of example `index`, whose talker does speak.

    The speech is another than the example's own 250 ms. Levels of distractor, sensor noise and
    channels are the scene's; the SNRs hold over the whole stretch. Deterministic.
    """
    spec, rir, noise_rir = _scene(stream, index)
    spec = replace(spec, speech=True)
    parts = stream._open()
    samples = round(seconds * SAMPLE_RATE)
    rng = generator(stream.seed, stream.split, "stretch", index)
    before = rir.shape[1] - 1  # so that the room already sounds at the start
    audio = fftconvolve(
        parts.speech.crop(rng, before + samples, samples)[None], rir, mode="valid", axes=1
    )
    power = np.mean(audio**2)
    if spec.distractor and noise_rir is not None and parts.noise is not None:
        dry = parts.noise.crop(rng, before + samples)[None]
        noise = fftconvolve(dry, noise_rir, mode="valid", axes=1)
        wanted = power / 10 ** (spec.snr_db / 10)
        audio = audio + noise * np.sqrt(wanted / max(np.mean(noise**2), 1e-20))
    sensor = power / 10 ** (spec.sensor_noise_db / 10)
    audio = audio + np.sqrt(sensor) * rng.standard_normal(audio.shape)
    audio = audio * 10 ** (spec.channel_gains_db[:, None] / 20)
    level = TARGET_RMS * 10 ** (spec.gain_db / 20) / max(float(np.sqrt(np.mean(audio**2))), 1e-20)
    return Stretch((level * audio).astype(np.float32), spec)


def _scene(stream: CropStream, index: int) -> tuple[SceneSpec, np.ndarray, np.ndarray | None]:
    """Scene of an example and its RIRs [m, taps] of the talker and of the distractor."""
    parts = stream._open()
    group = parts.groups.groups([index // stream.crops_per_rir])
    spec = vary_scene(
        generator(stream.seed, stream.split, "crop", index), group.specs[0], parts.scene
    )
    count = spec.num_mics
    noise = None if group.noise_rirs is None else group.noise_rirs[0, :count]
    return spec, group.rirs[0, :count], noise
