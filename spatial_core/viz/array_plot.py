# SPDX-License-Identifier: Apache-2.0
"""A picture of a microphone array: channel numbers, where 0 degrees is, and which way is positive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch
from numpy.typing import NDArray

from spatial_core.geometry.arrays import MicArray
from spatial_core.geometry.coords import to_cartesian

INK, ACCENT, DIRECTION, FAINT = "#1f2933", "#0b6e99", "#c2410c", "#cbd2d9"
MARK = "#b91c1c"
_BARS_CM = (0.5, 1, 2, 5, 10, 20, 50, 100, 200)


def draw_array(
    array: MicArray,
    path: str | Path,
    source: tuple[float, float] | None = None,
    marked: Sequence[int] = (),
) -> None:
    """Write a PNG, SVG or PDF (by suffix) of the array seen from above and from the side.

    Positions are about the centroid. source: azimuth and elevation (degrees) of a sound to show,
    with its mirror image if the array is flat and cannot tell them apart.
    marked: zero-based channels to circle, such as those found faulty.
    """
    figure = Figure(figsize=(10.5, 5.6), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    top, side = figure.subplots(1, 2)
    span = max(0.62 * array.aperture, 0.01)
    _draw_view(top, array, span, (0, 1), marked)
    _draw_view(side, array, span, (0, 2), marked)
    _draw_azimuths(top, span)
    _draw_elevations(side, span)
    if source is not None:
        direction = to_cartesian(*source)
        if array.shape == "planar":
            normal = array.axes[2]
            mirrored = direction - 2 * (direction @ normal) * normal
            _draw_source(top, span, mirrored[[0, 1]], "")
            _draw_source(side, span, mirrored[[0, 2]], "or its mirror image")
        label = f"sound at {source[0]:.0f}°,\nelevation {source[1]:.0f}°"
        _draw_source(top, span, direction[[0, 1]], label)
        _draw_source(side, span, direction[[0, 2]], label)
    top.set_title("from above", fontsize=11, color=INK, pad=10)
    side.set_title("from the side (seen from -y)", fontsize=11, color=INK, pad=10)
    figure.suptitle(
        f"{array.name}: {array.num_mics} microphones, {100 * array.aperture:.1f} cm across, "
        f"{array.shape}",
        fontsize=13,
        color=INK,
        x=0.5,
        y=0.975,
    )
    figure.text(
        0.5,
        0.025,
        "Numbers are channels of the recording, counted from 1. Azimuth grows counter-clockwise "
        "from +x, elevation upwards.",
        ha="center",
        fontsize=9,
        color=INK,
    )
    figure.subplots_adjust(left=0.02, right=0.98, top=0.85, bottom=0.08, wspace=0.04)
    figure.savefig(path)


def _draw_view(
    axes: Axes, array: MicArray, span: float, plane: tuple[int, int], marked: Sequence[int]
) -> None:
    """Microphones projected on two coordinates, with labels, centroid and scale bar."""
    points = array.centred[:, plane]
    limit = 2.0 * span
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-limit, limit)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.plot(0, 0, "+", color=INK, markersize=9, zorder=2)
    groups = _overlapping(points, 0.06 * span)
    centres = np.array([points[group].mean(axis=0) for group in groups])
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1) / span
    crowded = [len(g) > 1 or np.sum(row < 0.26) > 1 for g, row in zip(groups, apart)]
    for group, tight in zip(groups, crowded):
        radius = (0.06 if tight else 0.115) * span
        for k in group:
            axes.add_patch(Circle(points[k], radius, fc=ACCENT, ec="white", lw=1.2, zorder=4))
            if k in marked:
                axes.add_patch(
                    Circle(points[k], radius + 0.05 * span, fill=False, ec=MARK, lw=2, zorder=4)
                )
    names = [", ".join(str(k + 1) for k in group) for group in groups]
    outside = [row for row, tight in enumerate(crowded) if tight]
    places = place_labels(centres / span, names, outside)
    for row, (x, y) in enumerate(centres):
        if row not in outside:
            axes.text(x, y, names[row], **_text("white", 10, 5), weight="bold")
            continue
        # Dots too close to hold their number have it beside them, at the end of a thin line.
        there_x, there_y = span * places[row]
        axes.plot([x, there_x], [y, there_y], color=INK, lw=0.6, alpha=0.5, zorder=3)
        box = {"fc": "white", "ec": "none", "alpha": 0.85, "pad": 0.8}
        axes.text(there_x, there_y, names[row], bbox=box, **_text(INK, 9, 5), weight="bold")
    _draw_scale_bar(axes, span)


def label_box(place: NDArray[np.float64], text: str) -> NDArray[np.float64]:
    """Corners [low x, low y, high x, high y] of a label of 9 points, in spans of the view."""
    half = np.array([0.045 + 0.033 * len(text), 0.075])
    return np.concatenate([place - half, place + half])


def place_labels(
    dots: NDArray[np.float64], names: list[str], outside: list[int]
) -> dict[int, NDArray[np.float64]]:
    """Places [2] for the labels of the dots `outside`, clear of each other and of all dots [n, 2].

    In spans of the view. Away from the centroid where there is room, else at the nearest free place;
    where none is free, the one that covers least.
    """
    bearing = np.radians(np.arange(0, 360, 15))
    taken = [np.concatenate([dot - 0.1, dot + 0.1]) for dot in dots]
    found: dict[int, NDArray[np.float64]] = {}
    for row in outside:
        out = np.arctan2(dots[row, 1], dots[row, 0] + 1e-9)
        turned = sorted(bearing, key=lambda angle: 1.0 - np.cos(angle - out))
        tried = [
            dots[row] + radius * np.array([np.cos(angle), np.sin(angle)])
            for radius in (0.22, 0.3, 0.4, 0.55, 0.75)
            for angle in turned
        ]
        covered = [_covered(label_box(place, names[row]), taken) for place in tried]
        found[row] = tried[int(np.argmin(covered))]
        taken.append(label_box(found[row], names[row]))
    return found


def _covered(box: NDArray[np.float64], taken: list[NDArray[np.float64]]) -> float:
    """Area that a box shares with others; boxes as in `label_box`."""
    others = np.array(taken)
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.sum(np.prod(np.maximum(sides, 0.0), axis=1)))


def _overlapping(points: NDArray[np.float64], distance: float) -> list[list[int]]:
    """Indices grouped by place: points closer than `distance` to a group's first are one dot."""
    groups: list[list[int]] = []
    for k, point in enumerate(points):
        for group in groups:
            if np.linalg.norm(points[group[0]] - point) < distance:
                group.append(k)
                break
        else:
            groups.append([k])
    return groups


def _draw_azimuths(axes: Axes, span: float) -> None:
    """The circle of azimuths with its marks, the 0 degree arrow and the positive direction."""
    radius = 1.5 * span
    axes.add_patch(Circle((0, 0), radius, fill=False, ec=FAINT, lw=1.2, zorder=1))
    for azimuth in range(-150, 181, 30):
        cos, sin = np.cos(np.radians(azimuth)), np.sin(np.radians(azimuth))
        axes.plot(
            [0.97 * radius * cos, 1.03 * radius * cos],
            [0.97 * radius * sin, 1.03 * radius * sin],
            color=FAINT,
            lw=1.2,
        )
        if azimuth % 90 == 0 and azimuth != 0:
            place = 1.15 * radius
            axes.text(place * cos, place * sin, f"{azimuth}°", **_text(INK, 10, 3))
    _draw_axis(axes, span, (1, 0), "0°  (+x)")
    _draw_axis(axes, span, (0, 1), "+y")
    _draw_turn(axes, radius, "positive azimuth")


def _draw_elevations(axes: Axes, span: float) -> None:
    """The half circle of elevations with its marks and the upward axis."""
    radius = 1.5 * span
    angles = np.radians(np.linspace(-90, 90, 91))
    axes.plot(radius * np.cos(angles), radius * np.sin(angles), color=FAINT, lw=1.2, zorder=1)
    for elevation in (-90, -60, -30, 60, 90):
        cos, sin = np.cos(np.radians(elevation)), np.sin(np.radians(elevation))
        place = 1.13 * radius
        axes.plot(
            [0.97 * radius * cos, 1.03 * radius * cos],
            [0.97 * radius * sin, 1.03 * radius * sin],
            color=FAINT,
            lw=1.2,
        )
        axes.text(place * cos, place * sin, f"{elevation}°", **_text(INK, 9, 3))
    _draw_axis(axes, span, (1, 0), "0°  (+x)")
    _draw_axis(axes, span, (0, 1), "+z up")
    _draw_turn(axes, radius, "positive elevation")


def _draw_axis(axes: Axes, span: float, towards: tuple[float, float], label: str) -> None:
    """An arrow from the centroid; the 0 degree one is long and coloured."""
    zero = towards == (1, 0)
    length = (1.5 if zero else 1.25) * span
    tip = (length * towards[0], length * towards[1])
    axes.add_patch(
        FancyArrowPatch(
            (0, 0),
            tip,
            arrowstyle="-|>",
            mutation_scale=16 if zero else 12,
            color=DIRECTION if zero else INK,
            lw=2 if zero else 1,
            alpha=1 if zero else 0.6,
            shrinkA=0,
            shrinkB=0,
            zorder=3,
        )
    )
    if zero:
        axes.text(tip[0] + 0.09 * span, 0, label, color=DIRECTION, fontsize=11, va="center")
    else:
        axes.text(0.08 * span, tip[1] - 0.02 * span, label, color=INK, fontsize=10, va="center")


def _draw_turn(axes: Axes, radius: float, label: str) -> None:
    """The arc with an arrow head from 8 to 52 degrees: the way in which azimuth grows."""
    angles = np.radians(np.linspace(8, 52, 40))
    x, y = radius * np.cos(angles), radius * np.sin(angles)
    axes.plot(x, y, color=DIRECTION, lw=2.2, zorder=3)
    axes.add_patch(
        FancyArrowPatch(
            (x[-2], y[-2]), (x[-1], y[-1]), arrowstyle="-|>", mutation_scale=16, color=DIRECTION
        )
    )
    axes.text(
        1.08 * radius * np.cos(np.radians(38)),
        1.08 * radius * np.sin(np.radians(38)),
        label.replace(" ", "\n"),
        color=DIRECTION,
        fontsize=9,
        va="center",
    )


def _draw_source(axes: Axes, span: float, towards: NDArray[np.float64], label: str) -> None:
    """A mark in the direction [2] of a sound; hollow for the mirror image of one."""
    x, y = 1.5 * span * towards
    hollow = not label.startswith("sound")
    axes.plot([0, x], [0, y], color=MARK, lw=1.2, ls=(0, (4, 3)), zorder=2)
    axes.plot(x, y, "o", color=MARK, mfc="white" if hollow else MARK, markersize=9, zorder=6)
    if label:
        axes.text(
            x,
            y + (0.24 if y >= 0 else -0.24) * span,
            label,
            bbox={"fc": "white", "ec": "none", "alpha": 0.85, "pad": 1.5},
            **_text(MARK, 9, 6),
        )


def _draw_scale_bar(axes: Axes, span: float) -> None:
    """A bar of a round number of centimetres in the lower left corner."""
    centimetres = max((b for b in _BARS_CM if b / 100 <= 1.2 * span), default=_BARS_CM[0])
    x, y = -1.9 * span, -1.85 * span
    axes.plot([x, x + centimetres / 100], [y, y], color=INK, lw=3, solid_capstyle="butt")
    axes.text(x, y + 0.07 * span, f"{centimetres:g} cm", color=INK, fontsize=9, va="bottom")


def _text(color: str, size: int, zorder: int) -> dict[str, Any]:
    """Settings of a centred label."""
    return {"color": color, "fontsize": size, "ha": "center", "va": "center", "zorder": zorder}
