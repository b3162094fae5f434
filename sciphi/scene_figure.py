# SPDX-License-Identifier: Apache-2.0
"""A picture of a scene: what is heard, and where it comes from beside where it should."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import scipy.signal

from sciphi.records import FOA_RATE, Scene
from spatial_core.audio import ambisonics, levels
from spatial_core.errors import InputError
from spatial_core.viz.style import PALETTE, azimuth_ticks, figure

_FRAME = 480  # 20 ms


def draw_scene(scene: Scene, path: str | os.PathLike[str]) -> None:
    """Write a PNG: the spectrogram of W; azimuth and elevation of the active intensity, every 20 ms.

    Lines are the sources' true directions while they sound; points are dark where it is loud.
    """
    if scene.foa.shape[1] < 4 * _FRAME:
        raise InputError(f"{scene.key} is {scene.seconds:g} s long: too short for a picture")
    with figure(path, 8.0, 7.0) as fig:
        axes: Any = fig.subplots(3, 1, sharex=True)
        hertz, times, power = scipy.signal.spectrogram(
            scene.foa[0], FOA_RATE, nperseg=1024, noverlap=544
        )
        decibels = 10 * np.log10(power + 1e-14)
        top = float(decibels.max())
        axes[0].pcolormesh(
            times, hertz / 1000, decibels, vmin=top - 70, vmax=top, cmap="magma", rasterized=True
        )
        axes[0].set(ylabel="kHz", title=_title(scene))
        azimuth, elevation = ambisonics.intensity_direction(scene.foa, _FRAME)
        frames = scene.foa[0, : len(azimuth) * _FRAME].reshape(-1, _FRAME)
        loud = np.maximum(levels.rms_db(frames), -150)
        middle = (np.arange(len(azimuth)) + 0.5) * _FRAME / FOA_RATE
        for axis, points, name in (
            (axes[1], azimuth, "azimuth"),
            (axes[2], elevation, "elevation"),
        ):
            limits = {"vmin": float(loud.max()) - 40, "vmax": float(loud.max())}
            axis.scatter(middle, points, c=loud, s=9, cmap="Greys", linewidths=0, **limits)
            for number, source in enumerate(scene.truth.sources):
                true = getattr(source, name)
                words = f"{source.label}, {source.distance:.1f} m, {source.loudness:.0f} dB"
                color = PALETTE[number % len(PALETTE)]
                axis.plot(
                    [source.onset, source.offset], [true, true], color=color, lw=2, label=words
                )
            axis.set_ylabel(name)
        azimuth_ticks(axes[1], "y")
        axes[2].set(ylim=(-90, 90), yticks=(-90, -45, 0, 45, 90), xlabel="seconds")
        axes[2].set_xlim(0, scene.seconds)
        if scene.truth.sources:
            axes[2].legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=1)


def _title(scene: Scene) -> str:
    truth = scene.truth
    text = f"{scene.key}: {truth.volume:.0f} m³, RT60 {truth.rt60:.2f} s"
    if truth.background is not None:
        text += f", {truth.background} at {truth.background_loudness:.0f} dB"
    return text
