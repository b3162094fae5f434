# SPDX-License-Identifier: Apache-2.0
"""Room layout: array, source and the estimated directions, from above, from the side and close up."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from spatial_core.errors import InputError
from spatial_core.viz.style import FAINT, INK, MUTED, PALETTE, figure

# The truth is drawn in the second colour, so no estimate has it.
_RAY_COLORS = PALETTE[:1] + PALETTE[2:]


def draw_room(
    path: str | os.PathLike[str],
    dimensions: np.ndarray,
    mic_positions: np.ndarray,
    source: np.ndarray | None,
    estimates: Mapping[str, tuple[float, float, float]],
    *,
    distractor: np.ndarray | None = None,
    zero: float = 0.0,
    title: str = "Room",
) -> Path:
    """Draws a room with the array, the true source and one ray per estimate.

    Args:
        path: PNG to write.
        dimensions: [3] room size in metres; the room stands with a corner at the origin.
        mic_positions: [m, 3] microphones in the room, metres.
        source: [3] true source, or None where nobody speaks.
        estimates: name -> (azimuth deg, elevation deg, distance m); a ray ends in a dot at the
            estimated distance, or runs to the wall where the distance is nan.
        distractor: [3] position of a second, unwanted source.
        zero: azimuth in the room, degrees, at which the array's own 0 degrees lies. All other
            angles here are the room's.
        title: figure title.
    """
    size = np.asarray(dimensions, float)
    mics = np.asarray(mic_positions, float)
    if size.shape != (3,) or mics.ndim != 2 or mics.shape[1] != 3:
        raise InputError(
            f"draw_room needs dimensions [3] and mic_positions [m, 3], got {size.shape} and "
            f"{mics.shape}"
        )
    centre = mics.mean(axis=0)
    rays = {name: _ray(centre, size, *values) for name, values in estimates.items()}
    # Plan above elevation, aligned in x and at one scale, as in a builder's drawing.
    scale = min(5.4 / size[0], 5.4 / (size[1] + size[2]))
    width, height = scale * size[0], scale * (size[1] + size[2])
    with figure(path, width + 4.6, height + 2.0) as fig:
        layout = fig.add_gridspec(
            2, 2, width_ratios=(width, 3.2), height_ratios=(float(size[1]), float(size[2]))
        )
        plan = fig.add_subplot(layout[0, 0])
        _draw_view(plan, (0, 1), size, centre, source, distractor, rays)
        plan.set_title("from above", fontweight="normal")
        plan.set_xlabel("")
        side = fig.add_subplot(layout[1, 0], sharex=plan)
        _draw_view(side, (0, 2), size, centre, source, distractor, rays)
        side.set_title("from the side", fontweight="normal")
        _draw_array(fig.add_subplot(layout[:, 1]), mics, centre, source, rays, zero)
        handles, labels = plan.get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower left", ncols=3)
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return Path(path)


def _ray(
    centre: np.ndarray, size: np.ndarray, azimuth: float, elevation: float, distance: float
) -> tuple[np.ndarray, bool]:
    """End point of an estimate's ray, and whether it is an estimated position or just the wall."""
    az, el = np.deg2rad(azimuth), np.deg2rad(elevation)
    direction = np.array([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)])
    with np.errstate(divide="ignore", invalid="ignore"):
        to_wall = np.where(direction > 0, (size - centre) / direction, -centre / direction)
    wall = float(np.nanmin(np.where(np.abs(direction) < 1e-9, np.inf, to_wall)))
    if np.isfinite(distance) and distance <= wall:
        return centre + direction * distance, True
    return centre + direction * max(wall, 0.0), False


def _draw_view(
    axis: Axes,
    axes: tuple[int, int],
    size: np.ndarray,
    centre: np.ndarray,
    source: np.ndarray | None,
    distractor: np.ndarray | None,
    rays: Mapping[str, tuple[np.ndarray, bool]],
) -> None:
    pick = list(axes)
    axis.add_patch(
        Rectangle((0, 0), size[axes[0]], size[axes[1]], fill=False, color=MUTED, linewidth=1.4)
    )
    for index, (name, (end, located)) in enumerate(rays.items()):
        color = _RAY_COLORS[index % len(_RAY_COLORS)]
        line = np.stack([centre, end])[:, pick].T
        axis.plot(*line, color=color, linewidth=1.5, zorder=3, label=name)
        if located:
            axis.scatter(end[axes[0]], end[axes[1]], s=26, color=color, zorder=4)
    if source is not None:
        line = np.stack([centre, np.asarray(source, float)])[:, pick].T
        axis.plot(*line, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
        axis.scatter(
            line[0, 1],
            line[1, 1],
            marker="*",
            s=130,
            color=PALETTE[1],
            edgecolor="white",
            zorder=5,
            label="speaker (truth)",
        )
    if distractor is not None:
        x, y = np.asarray(distractor, float)[pick]
        axis.scatter(x, y, marker="X", s=60, color=MUTED, label="distractor", zorder=4)
    axis.scatter(centre[axes[0]], centre[axes[1]], s=34, color=INK, zorder=5, label="array")
    axis.set_aspect("equal")
    axis.set_xlim(-0.15, size[axes[0]] + 0.15)
    axis.set_ylim(-0.15, size[axes[1]] + 0.15)
    axis.set_xlabel("xyz"[axes[0]] + " (m)")
    axis.set_ylabel("xyz"[axes[1]] + " (m)")
    axis.grid(True)


def _draw_array(
    axis: Axes,
    mics: np.ndarray,
    centre: np.ndarray,
    source: np.ndarray | None,
    rays: Mapping[str, tuple[np.ndarray, bool]],
    zero: float,
) -> None:
    """The array itself, in centimetres about its centroid, with channel numbers from 1."""
    local = (mics - centre) * 100
    reach = 1.45 * max(float(np.linalg.norm(local[:, :2], axis=1).max()), 1.0)
    circle = np.linspace(0, 2 * np.pi, 181)
    axis.plot(reach * np.cos(circle), reach * np.sin(circle), color=FAINT, linewidth=0.8)
    for index, (end, _) in enumerate(rays.values()):
        _draw_arrow(axis, end - centre, reach, _RAY_COLORS[index % len(_RAY_COLORS)], "-")
    if source is not None:
        _draw_arrow(axis, np.asarray(source, float) - centre, reach, INK, (0, (4, 3)))
    forward = np.array([np.cos(np.deg2rad(zero)), np.sin(np.deg2rad(zero))])
    axis.plot(*np.outer(forward, [0.94 * reach, 1.06 * reach]), color=INK, linewidth=1.2)
    x, y = 1.16 * reach * forward
    axis.text(x, y, "0°", ha="center", va="center", fontsize=8)
    axis.scatter(local[:, 0], local[:, 1], s=70, color="white", edgecolor=INK, zorder=4)
    for channel, (x, y, _) in enumerate(local):
        axis.text(x, y, str(channel + 1), ha="center", va="center", fontsize=6.5, zorder=5)
    axis.set_aspect("equal")
    axis.set_xlim(-1.25 * reach, 1.25 * reach)
    axis.set_ylim(-1.25 * reach, 1.25 * reach)
    axis.set_xlabel("x (cm)")
    axis.set_ylabel("y (cm)")
    axis.set_title("array from above, by channel", fontweight="normal")


def _draw_arrow(
    axis: Axes,
    direction: np.ndarray,
    reach: float,
    color: str,
    style: str | tuple[int, tuple[int, ...]],
) -> None:
    horizontal = direction[:2] / max(float(np.linalg.norm(direction[:2])), 1e-9)
    axis.plot(
        *(np.outer(horizontal, [0.0, reach])), color=color, linewidth=1.4, linestyle=style, zorder=2
    )
