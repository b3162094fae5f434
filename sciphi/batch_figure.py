# SPDX-License-Identifier: Apache-2.0
"""Pictures of a batch of sound fields as SELDNet hears them, with what sounds where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from llm_bridge.batch_figure import Panel, heat_map
from sciphi.adpit import TRACKS
from sciphi.features import FRAME_RATE, mel_weights
from sciphi.records import FOA_RATE
from sciphi.seld_labels import TOKEN_SECONDS
from sciphi.seldnet import FRAMES_PER_TOKEN
from spatial_core.geometry.coords import to_spherical
from spatial_core.train.task import Exhibit
from spatial_core.viz.style import PALETTE, azimuth_ticks, figure

# Label, and for each token (nan where it is silent) azimuth and elevation in degrees.
Line = tuple[str, NDArray[np.float64], NDArray[np.float64]]


def draw_seld_batch(
    batch: Mapping[str, NDArray[Any]], folder: Path, rows: Sequence[int], classes: Sequence[str]
) -> list[Exhibit]:
    """A picture of each row of a `SeldStream`'s batch: features, and the targets as lines over them."""
    folder.mkdir(parents=True, exist_ok=True)
    exhibits = []
    for number in rows:
        count = batch["count"][number]
        lines = target_lines(batch["target"][number], count, classes)
        path = folder / f"row_{number:03d}.png"
        panels = feature_panels(batch["features"][number], len(count), lines)
        with figure(path, 10.0, 6.2) as fig:
            drawn: Any = fig.subplots(len(panels), 1, sharex=True)
            for axis, (name, draw) in zip(drawn, panels, strict=True):
                draw(axis)
                axis.set_title(name, fontweight="normal", fontsize=9)
            drawn[-1].set_xlabel("seconds")
            if lines:
                drawn[-1].legend(loc="upper left", bbox_to_anchor=(0.0, -0.3), ncols=3)
        together = ", ".join(name for name, _, _ in lines) or "silence"
        exhibits.append(Exhibit(f"Row {number}: {together}.", path, number))
    return exhibits


def target_lines(
    target: NDArray[np.float32], count: NDArray[np.int32], classes: Sequence[str]
) -> list[Line]:
    """Targets [n, 3, 4, c] and counts [n, c] as lines, one for each track that is ever used."""
    lines = []
    for number, name in enumerate(classes):
        for track in range(TRACKS):
            sounds = count[:, number] > track
            if not sounds.any():
                continue
            azimuth, elevation, _ = to_spherical(target[:, track, :3, number].astype(np.float64))
            metres = float(target[sounds, track, 3, number].mean())
            lines.append(
                (
                    f"{name}, {metres:.1f} m",
                    np.where(sounds, azimuth, np.nan),
                    np.where(sounds, elevation, np.nan),
                )
            )
    return lines


def feature_panels(maps: NDArray[Any], count: int, lines: Sequence[Line] = ()) -> list[Panel]:
    """Features [7, f, 64] of `count` tokens: mel levels of W, then azimuth and elevation of the intensity.

    lines: true directions, over the points. A point is the intensity of a frame summed over the mel
    bands, dark where it is loud.
    """
    maps = np.asarray(maps, np.float64)[:, : count * FRAMES_PER_TOKEN]
    level = maps[0]
    # Intensity maps are normalised in each band: weigh the bands by what sounds in them.
    weight = 10 ** ((level - level.max()) / 10)
    y, z, x = (maps[4:] * weight).sum(axis=2)
    azimuth, elevation, _ = to_spherical(np.stack([x, y, z], axis=-1))
    loud = 10 * np.log10(weight.sum(axis=1) + 1e-12)
    time = (np.arange(maps.shape[1]) + 0.5) / FRAME_RATE

    def draw_level(axis: Axes) -> None:
        top = float(level.max())
        heat_map(axis, level, maps.shape[1] / FRAME_RATE, cmap="magma", vmin=top - 60, vmax=top)
        hertz = mel_weights().argmax(axis=0) * FOA_RATE / 1024
        marks = (250, 1000, 2000, 4000, 8000)
        places = [int(np.abs(hertz - mark).argmin()) + 0.5 for mark in marks]
        axis.set_yticks(places, [f"{mark / 1000:g}" for mark in marks])
        axis.set_ylabel("kHz")

    def draw_direction(axis: Axes, points: NDArray[np.float64], which: int) -> None:
        limits: Any = {"vmin": float(loud.max()) - 30, "vmax": float(loud.max())}
        axis.scatter(time, points, c=loud, s=9, cmap="Greys", linewidths=0, **limits)
        middle = (np.arange(count) + 0.5) * TOKEN_SECONDS
        for number, line in enumerate(lines):
            color = PALETTE[number % len(PALETTE)]
            axis.plot(middle, line[which], color=color, lw=2.2, label=line[0])
        axis.grid(axis="y")

    def draw_azimuth(axis: Axes) -> None:
        draw_direction(axis, azimuth, 1)
        azimuth_ticks(axis, "y")

    def draw_elevation(axis: Axes) -> None:
        draw_direction(axis, elevation, 2)
        axis.set(ylim=(-90, 90), yticks=(-90, -45, 0, 45, 90))

    lined = " and of the labels (lines)" if lines else ""
    return [
        ("W in 64 mel bands", draw_level),
        (f"azimuth of the intensity (points){lined}", draw_azimuth),
        (f"elevation of the intensity (points){lined}", draw_elevation),
    ]
