# SPDX-License-Identifier: Apache-2.0
"""Pictures of single scenes: the room with truth and estimates, the posterior over time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spatial_core.data.pipeline import CropStream
from spatial_core.data.stretch import scene_of, stretch_of
from spatial_core.eval.baselines import Localizer
from spatial_core.eval.names import file_name
from spatial_core.sim.scene import SceneSpec
from spatial_core.viz.polar import draw_posterior
from spatial_core.viz.room import draw_room

STRETCH_SECONDS = 5.0


@dataclass(frozen=True)
class Posterior:
    """A localizer's answer over a stretch of sound, one step each `step` seconds.

    probs [n_steps, n] over grid [n] (degrees) and azimuth [n_steps] (degrees), both nan where it
    heard no speech; confidence [n_steps].
    """

    probs: np.ndarray
    grid: np.ndarray
    azimuth: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True)
class ScenePicture:
    """One example's scene, each localizer's estimate (azimuth, elevation in degrees of the array
    frame, distance in metres) from its 250 ms, and what those with a posterior heard in 5 s."""

    example: int
    scene: SceneSpec
    rt60: float
    estimates: dict[str, tuple[float, float, float]]
    posteriors: dict[str, Posterior] = field(default_factory=dict)


def look_at(
    stream: CropStream,
    example: int,
    rt60: float,
    localizers: Mapping[str, Localizer],
    estimates: Mapping[str, tuple[float, float, float]],
) -> ScenePicture:
    """Gathers what a picture of one example shows; runs localizers with a posterior over 5 s."""
    scene = scene_of(stream, example)
    posteriors: dict[str, Posterior] = {}
    windows = stretch_of(stream, example, STRETCH_SECONDS).windows()
    for name, localizer in localizers.items():
        if not _has_posterior(localizer, windows):
            continue
        answer = localizer.predict(windows)
        heard = np.asarray(answer["speech_probability"]) >= 0.5
        posteriors[name] = Posterior(
            np.where(heard[:, None], answer["azimuth_probs"], np.nan),
            np.asarray(answer["azimuth_grid"]),
            np.where(heard, answer["azimuth"], np.nan),
            np.asarray(answer["confidence"]),
        )
    return ScenePicture(example, scene, rt60, dict(estimates), posteriors)


def _has_posterior(localizer: Localizer, windows: Mapping[str, np.ndarray]) -> bool:
    """Asked with a single window: the classical methods are slow and give none."""
    answer = localizer.predict({key: value[:1] for key, value in windows.items()})
    return "azimuth_probs" in answer and "azimuth_grid" in answer


def draw_pictures(picture: ScenePicture, directory: Path) -> dict[str, Path]:
    """Writes the room and every posterior of a scene; returns caption -> path."""
    scene = picture.scene
    snr = "no distractor" if math.isinf(scene.snr_db) else f"SNR {scene.snr_db:.0f} dB"
    title = (
        f"Example {picture.example}: {scene.num_mics} microphones, RT60 {picture.rt60:.2f} s, {snr}"
    )
    figures = {
        f"Room of example {picture.example}": draw_room(
            directory / f"room_{picture.example}.png",
            np.asarray(scene.room.dimensions),
            scene.array_positions,
            scene.source,
            {
                name: (scene.to_room_azimuth(azimuth), elevation, distance)
                for name, (azimuth, elevation, distance) in picture.estimates.items()
            },
            distractor=scene.distractor_source if scene.distractor else None,
            zero=scene.to_room_azimuth(0.0),
            title=title,
        )
    }
    for name, posterior in picture.posteriors.items():
        figures[f"{name}: posterior over time, example {picture.example}"] = draw_posterior(
            directory / f"posterior_{picture.example}_{file_name(name)}.png",
            posterior.probs,
            posterior.grid,
            estimate=posterior.azimuth,
            confidence=posterior.confidence,
            truth=scene.labels()["azimuth"],
            title=f"{name}. {title}",
        )
    return figures
