# SPDX-License-Identifier: Apache-2.0
"""Pictures of a batch with its labels: does what is heard agree with where the label says it is?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch
from numpy.typing import NDArray

from spatial_core.audio.io import write_wav
from spatial_core.data.records import SAMPLE_RATE
from spatial_core.eval.steered import SteeredResponse
from spatial_core.geometry.coords import to_cartesian
from spatial_core.train.task import Exhibit
from spatial_core.viz.style import DENSITY, FAINT, INK, MUTED, PALETTE, azimuth_ticks, figure

_AZIMUTHS, _ELEVATIONS = np.arange(-180, 181, 3), np.arange(-90, 91, 3)
_TRUTH: dict[str, Any] = {
    "marker": "*",
    "s": 170,
    "color": PALETTE[1],
    "edgecolor": "white",
    "linewidth": 0.8,
    "zorder": 5,
}

Row = Mapping[str, Any]


def draw_batch(
    batch: Mapping[str, NDArray[Any]], folder: Path, rows: Sequence[int]
) -> list[Exhibit]:
    """Labels of the whole batch, then picture and sound of some rows; see `records.SCHEMA`.

    rt60 and snr_db may be missing: batches that are made on a device do not know them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count, mics = batch["audio"].shape[:2]
    places, clips = places_of(batch)
    draw_labels(folder / "labels.png", places, clips)
    # Clips that share a room's responses share their talker's place.
    shared = f", from {len(places)} places: the larger a dot, the more" if (clips > 1).any() else ""
    exhibits = [
        Exhibit(
            f"The labels of the batch: {count} clips of 250 ms with up to {mics} microphones, "
            f"{int(batch['speech'].sum())} of them with speech{shared}.",
            folder / "labels.png",
        )
    ]
    shown = {name: value[np.array(rows)] for name, value in batch.items()}
    grid = to_cartesian(*np.meshgrid(_AZIMUTHS, _ELEVATIONS)).reshape(-1, 3)
    power = SteeredResponse().power_map(shown, grid).reshape(-1, len(_ELEVATIONS), len(_AZIMUTHS))
    for place, number in enumerate(rows):
        row = {name: value[place] for name, value in shown.items()}
        path = folder / f"row_{number:03d}.png"
        draw_row(path, row, power[place], number)
        exhibits.append(Exhibit(_caption(number, row), path, number))
        heard = row["audio"][0]
        scale = 0.5 / max(float(np.abs(heard).max()), 1e-9)
        write_wav(path.with_suffix(".wav"), scale * heard, SAMPLE_RATE)
        exhibits.append(
            Exhibit(
                f"Row {number}, microphone 1, brought to one level.",
                path.with_suffix(".wav"),
                number,
            )
        )
    return exhibits


def draw_row(path: Path, row: Row, power: NDArray[np.float32], number: int) -> None:
    """Waveforms, spectrogram, array from above with the label's direction, steered response power.

    power: [elevations, azimuths] every 3 degrees, in which the label should lie on a bright ridge.
    """
    with figure(path, 13.5, 3.1) as fig:
        axes = fig.subplots(1, 4, width_ratios=(1.25, 1.25, 1.0, 1.6))
        _draw_waves(axes[0], row)
        _draw_spectrogram(axes[1], row["audio"][0])
        _draw_array(axes[2], row)
        _draw_power(axes[3], row, power)
        fig.suptitle(f"row {number}: {_label(row)}", x=0.01, ha="left", fontsize=11)


def places_of(
    batch: Mapping[str, NDArray[Any]],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Azimuth, elevation, distance [n, 3] of where somebody speaks, and the clips of each place [n]."""
    labels = np.stack([batch[name] for name in ("azimuth", "elevation", "distance")], axis=-1)
    speech = labels[np.asarray(batch["speech"], bool)].astype(np.float64)
    # To a millidegree and a millimetre, which is the rounding of float32.
    return np.unique(speech.round(3), axis=0, return_counts=True)


def draw_labels(path: Path, places: NDArray[np.float64], clips: NDArray[np.int64]) -> None:
    """Places [n, 3] from above by distance, and by elevation; the area of a dot tells its clips."""
    azimuth, elevation, distance = places.T
    area = 16 * clips
    with figure(path, 10.0, 4.2) as fig:
        above: Any = fig.add_subplot(1, 2, 1, projection="polar")
        above.scatter(
            np.deg2rad(azimuth), distance, s=area, color=PALETTE[0], alpha=0.7, linewidth=0
        )
        above.set_title("azimuth and distance (m), from above", fontweight="normal")
        above.set_xticks(np.deg2rad([0, 90, 180, 270]), ["0°\n+x", "90°", "180°", "-90°"])
        above.tick_params(axis="y", labelsize=7, labelcolor=MUTED)
        flat = fig.add_subplot(1, 2, 2)
        flat.scatter(azimuth, elevation, s=area, color=PALETTE[0], alpha=0.7, linewidth=0)
        azimuth_ticks(flat)
        flat.set(ylim=(-90, 90), yticks=range(-90, 91, 45), xlabel="azimuth", ylabel="elevation")
        flat.set_title("azimuth and elevation", fontweight="normal")
        flat.grid(True)


def _label(row: Row) -> str:
    if not row["speech"]:
        return "nobody speaks"
    return f"azimuth {round(float(row['azimuth']))}°, elevation {round(float(row['elevation']))}°, {row['distance']:.1f} m"


def _caption(number: int, row: Row) -> str:
    parts = [f"Row {number}: {_label(row)}", f"{int(row['mic_mask'].sum())} microphones"]
    if "rt60" in row:
        parts.append(f"RT60 {row['rt60']:.2f} s")
    if math.isfinite(row.get("snr_db", math.inf)):
        parts.append(f"speech to distractor {round(float(row['snr_db']))} dB")
    return ", ".join(parts) + "."


def _draw_waves(axis: Axes, row: Row) -> None:
    """All channels, one over the other; the known direct sound of microphone 1 over its channel."""
    audio = row["audio"][np.asarray(row["mic_mask"], bool)]
    time = 1000 * np.arange(audio.shape[1]) / SAMPLE_RATE
    step = 2.2 * max(float(np.quantile(np.abs(audio), 0.998)), 1e-9)
    for channel, samples in enumerate(audio):
        axis.plot(time, samples - channel * step, color=PALETTE[0], linewidth=0.4)
    direct = row.get("direct")
    if direct is not None and direct.any():
        axis.plot(time, direct, color=PALETTE[1], linewidth=0.5, label="direct sound")
        axis.legend(loc="lower left", bbox_to_anchor=(-0.02, -0.36), borderaxespad=0)
    axis.set_yticks(-step * np.arange(len(audio)), [str(c + 1) for c in range(len(audio))])
    axis.set(xlim=(0, time[-1]), ylim=(-step * (len(audio) - 0.4), 0.6 * step))
    axis.set(xlabel="ms", ylabel="microphone")
    axis.set_title("waveforms", fontweight="normal")


def _draw_spectrogram(axis: Axes, samples: NDArray[np.float32]) -> None:
    """Of microphone 1: frames of 25 ms, 70 dB below its loudest point."""
    size, hop = 400, 80
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop] * np.hanning(size)
    level = 20 * np.log10(np.abs(np.fft.rfft(frames, 1024)) + 1e-9)
    top = float(level.max())
    extent = (0.0, 1000 * len(samples) / SAMPLE_RATE, 0.0, SAMPLE_RATE / 2000)
    axis.imshow(
        level.T,
        origin="lower",
        aspect="auto",
        extent=extent,
        vmin=top - 70,
        vmax=top,
        cmap="magma",
    )
    axis.set(xlabel="ms", ylabel="kHz")
    axis.set_title("microphone 1", fontweight="normal")


def _draw_array(axis: Axes, row: Row) -> None:
    mask = np.asarray(row["mic_mask"], bool)
    places = 100 * np.asarray(row["mic_positions"])[mask]
    reach = 1.5 * max(float(np.linalg.norm(places[:, :2], axis=1).max()), 1.0)
    circle = np.linspace(0, 2 * np.pi, 181)
    axis.plot(reach * np.cos(circle), reach * np.sin(circle), color=FAINT, linewidth=0.8)
    axis.plot([0.95 * reach, 1.05 * reach], [0, 0], color=MUTED, linewidth=1)
    axis.text(1.1 * reach, 0, "0°", fontsize=8, va="center", color=MUTED)
    if row["speech"]:
        azimuth = math.radians(float(row["azimuth"]))
        tip = (reach * math.cos(azimuth), reach * math.sin(azimuth))
        style: Any = {"arrowstyle": "-|>", "mutation_scale": 12, "color": PALETTE[1], "lw": 1.5}
        axis.add_patch(FancyArrowPatch((0, 0), tip, shrinkA=0, shrinkB=0, zorder=2, **style))
    axis.scatter(places[:, 0], places[:, 1], s=70, color="white", edgecolor=INK, zorder=4)
    for channel, (x, y, _) in enumerate(places):
        axis.text(x, y, str(channel + 1), ha="center", va="center", fontsize=6.5, zorder=5)
    axis.set_aspect("equal")
    axis.set_axis_off()
    height = np.ptp(places[:, 2])
    axis.set_title(
        f"array from above, {2 * reach / 1.5:.0f} cm wide, {height:.0f} cm high",
        fontweight="normal",
        fontsize=9,
    )


def _draw_power(axis: Axes, row: Row, power: NDArray[np.float32]) -> None:
    low, high = np.quantile(power, [0.3, 0.999])
    axis.pcolormesh(
        _AZIMUTHS,
        _ELEVATIONS,
        power,
        cmap=DENSITY,
        vmin=float(low),
        vmax=float(max(high, low + 1e-6)),
        rasterized=True,
        shading="nearest",
    )
    if row["speech"]:
        axis.scatter(row["azimuth"], row["elevation"], **_TRUTH, label="label")
    azimuth_ticks(axis)
    axis.set(ylim=(-90, 90), yticks=range(-90, 91, 45), xlabel="azimuth", ylabel="elevation")
    axis.set_title("steered response power (SRP-PHAT)", fontweight="normal")
