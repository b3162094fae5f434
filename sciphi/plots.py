# SPDX-License-Identifier: Apache-2.0
"""A described scene as a picture: seen from above, and its sources over time.

The listener stands in the middle and looks up the page: front is up, left is left. Sources stand on the
bearing of their zone at their distance along the floor; an arc shows how wide the zone is.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Circle, Polygon
from numpy.typing import NDArray

from sciphi.result import SceneResult, room_text
from sciphi.timeline import TimelineSource
from sciphi.zones import grid_of
from spatial_core.viz.style import FAINT, INK, MUTED, PALETTE, figure

MOST_SOURCES = 12
"""As many as can be told apart; of more the loudest are drawn, and the picture says so."""
_NO_ROOM = 0.15  # of the outermost ring: the listener stands there
_APART = 0.105  # of the outermost ring, between two markers
_COLUMN = 1.22  # where labels begin, in outermost rings from the listener
_LINE = 0.085  # height of a line of a label, in outermost rings
_SIDE_MOST = 7
# What is straight above or below stands beside the listener, out of the way of most.
_POLE_BEARINGS = (-120.0, 120.0, -60.0, 60.0, 180.0, 0.0)
_TITLE_CHARS, _LABEL_CHARS, _BAR_CHARS = 120, 30, 72


@dataclass
class _Mark:
    """A source in the plan: bearing in degrees, radius in metres along the floor, and what it is.

    slack: degrees that the marker may be moved aside for another. known: whether bearing and distance are.
    """

    number: int
    item: TimelineSource
    bearing: float
    radius: float
    elevation: float
    slack: float
    known: bool

    @property
    def colour(self) -> str:
        return PALETTE[(self.number - 1) % len(PALETTE)]

    @property
    def pole(self) -> bool:
        return abs(self.elevation) == 90

    @property
    def shape(self) -> str:
        if abs(self.elevation) < 22.5:
            return "o"
        return "^" if self.elevation > 0 else "v"

    @property
    def place(self) -> NDArray[np.float64]:
        return _place(self.bearing, self.radius)


def draw_scene(result: SceneResult, path: str | Path) -> Path:
    """Draws the plan and the timeline of a result as a PNG; returns its path.

    Sources are numbered by onset, with one number and colour in both. Where the direction or the distance
    could not be read, the marker is hollow.
    """
    items = _drawn(result)
    rows = 0.42 * max(1, len(items)) + 0.3
    with figure(path, 9.2, 5.9 + rows) as fig:
        layout = fig.add_gridspec(2, 1, height_ratios=(5.2, rows))
        plan = fig.add_subplot(layout[0])
        _draw_plan(plan, items, "silence" if result.description is None else "no sources")
        room = _room(result, len(result.timeline) - len(items))
        plan.set_title(room, fontweight="normal", fontsize=9, parse_math=False)
        _draw_timeline(fig.add_subplot(layout[1]), result, items)
        name = _drawable(Path(result.source).name)
        fig.suptitle(name, x=0.012, ha="left", fontsize=11, fontweight="bold", parse_math=False)
    return Path(path)


def _drawn(result: SceneResult) -> list[TimelineSource]:
    """The loudest sources, by onset."""

    def loudness(index: int) -> float:
        level = result.timeline[index].source.loudness
        return -math.inf if level is None else level

    order = sorted(range(len(result.timeline)), key=loudness, reverse=True)
    return [result.timeline[index] for index in sorted(order[:MOST_SOURCES])]


def _room(result: SceneResult, left_out: int) -> str:
    """Room and background, and that some sources are not drawn."""
    if result.description is None:
        return ""
    room = room_text(result.description)
    lines = textwrap.wrap(_drawable(room[0].upper() + room[1:]), _TITLE_CHARS)
    count = result.description.count_confidence
    if result.description.doubtful and count is not None:
        lines.append(f"The model is only {100 * count:.0f} % sure of how many sources there are")
    if left_out:
        lines.append(f"The {MOST_SOURCES} loudest sources; {left_out} more are not drawn")
    return "\n".join(lines)


def _draw_plan(axis: Axes, items: Sequence[TimelineSource], empty: str) -> None:
    step, outer = _rings([item.source.distance for item in items])
    marks = _marks(items, outer)
    _draw_floor(axis, step, outer)
    for mark in marks:
        _draw_mark(axis, mark)
    _draw_labels(axis, marks, outer)
    if not marks:
        axis.text(0, 0.25 * outer, empty, ha="center", color=MUTED)
    axis.set_xlim(-2.1 * outer, 2.1 * outer)
    axis.set_ylim(-1.14 * outer, 1.14 * outer)
    axis.set_aspect("equal")
    axis.axis("off")


def _rings(distances: Sequence[float | None]) -> tuple[float, float]:
    """Metres between rings, and of the outermost one: three to five rings hold every source."""
    most = max([2.0, *(distance for distance in distances if distance is not None)])
    steps = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
    step = next((step for step in steps if most <= 5 * step), most / 4)
    return step, step * math.ceil(1.08 * most / step)


def _marks(items: Sequence[TimelineSource], outer: float) -> list[_Mark]:
    """A marker for each source, none over another."""
    marks = [_mark(number, item, outer) for number, item in enumerate(items, 1)]
    for mark, bearing in zip((mark for mark in marks if mark.pole), _POLE_BEARINGS):
        mark.bearing = bearing
    _move_apart(marks, outer)
    return marks


def _mark(number: int, item: TimelineSource, outer: float) -> _Mark:
    source = item.source
    known = source.direction is not None and source.distance is not None
    azimuth, elevation = source.direction or (180.0, 0.0)
    distance = 0.92 * outer if source.distance is None else source.distance
    radius = distance * math.cos(math.radians(elevation))
    slack = 0.0 if abs(elevation) == 90 else 180.0
    if source.zone is not None and slack:
        slack = 0.4 * grid_of(source.zone).step
    return _Mark(number, item, azimuth, max(radius, _NO_ROOM * outer), elevation, slack, known)


def _place(bearing: float, radius: float) -> NDArray[np.float64]:
    """Right and up on the page, metres: the front is up, azimuth is counter-clockwise."""
    angle = math.radians(bearing)
    return radius * np.array([-math.sin(angle), math.cos(angle)])


def _move_apart(marks: Sequence[_Mark], outer: float) -> None:
    """Turns markers that cover each other a little aside, within their zones; what is left goes outwards."""
    middle = [mark.bearing for mark in marks]
    pairs = [(i, j) for i in range(len(marks)) for j in range(i)]
    for turn in range(160):
        for i, j in pairs:
            one, other = marks[i], marks[j]
            if np.linalg.norm(one.place - other.place) >= _APART * outer:
                continue
            if turn >= 40:
                # Those beside the listener stay.
                outward = one if other.pole or one.radius > other.radius else other
                outward.radius += 0.02 * outer
                continue
            for mark, start, sign in ((one, middle[i], 1.0), (other, middle[j], -1.0)):
                # Small circles need large turns.
                away = sign * min(20.0, 1.5 * outer / mark.radius)
                limit = start - mark.slack, start + mark.slack
                mark.bearing = float(np.clip(mark.bearing + away, *limit))


def _draw_floor(axis: Axes, step: float, outer: float) -> None:
    """Rings of equal distance, borders of the eight sectors, and the listener."""
    for radius in np.arange(step, outer + step / 2, step):
        last = radius > outer - step / 2
        axis.add_patch(
            Circle((0, 0), radius, fill=False, color=MUTED if last else FAINT, linewidth=0.8)
        )
        x, y = _place(-157.5, radius)
        axis.text(
            x, y, f"{radius:g} m", ha="center", va="center", fontsize=7, color=MUTED, bbox=_BACK
        )
    for bearing in np.arange(22.5, 360, 45):
        axis.plot(*zip(_place(bearing, 0.1 * outer), _place(bearing, outer)), color=FAINT, lw=0.6)
    for name, bearing, turned in (
        ("front", 0, 0),
        ("left", 90, 90),
        ("back", 180, 0),
        ("right", -90, -90),
    ):
        x, y = _place(bearing, 1.08 * outer)
        # Over the lines to labels, which would strike it out.
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": MUTED, "bbox": _BACK}
        axis.text(x, y, name, rotation=turned, zorder=3, **style)
    nose = [_place(25, 0.05 * outer), _place(0, 0.085 * outer), _place(-25, 0.05 * outer)]
    axis.add_patch(Polygon(nose, color=INK, linewidth=0))
    axis.add_patch(Circle((0, 0), 0.055 * outer, color=INK, linewidth=0))


_BACK = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}


def _draw_mark(axis: Axes, mark: _Mark) -> None:
    for zone in sorted(set(mark.item.zones)):
        azimuth, elevation = grid_of(zone).centre(zone)
        if abs(elevation) < 90:
            half = 0.94 * grid_of(zone).step / 2
            bearings = np.linspace(azimuth - half, azimuth + half)
            arc = np.stack([_place(bearing, mark.radius) for bearing in bearings])
            axis.plot(*arc.T, color=mark.colour, alpha=0.3, linewidth=4, solid_capstyle="round")
    x, y = mark.place
    axis.scatter(
        x,
        y,
        s=190 if mark.shape == "o" else 240,
        marker=mark.shape,
        facecolor=mark.colour if mark.known else "white",
        edgecolor="white" if mark.known else mark.colour,
        linewidth=1.0,
        zorder=4,
    )
    # The middle of a triangle is not the middle of its box.
    drop = {"o": 0.0, "^": -2.0, "v": 1.6}[mark.shape]
    axis.annotate(
        str(mark.number),
        (x, y),
        xytext=(0, drop - 0.4),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=7.5,
        fontweight="bold",
        color="white" if mark.known else mark.colour,
        zorder=5,
    )


def _draw_labels(axis: Axes, marks: Sequence[_Mark], outer: float) -> None:
    """Labels in a column on either side, never over each other, with a line to each marker."""
    left = sorted((m for m in marks if m.place[0] < 0), key=lambda m: m.place[0])
    right = sorted((m for m in marks if m.place[0] >= 0), key=lambda m: -m.place[0])
    while len(left) > _SIDE_MOST:
        right.append(left.pop())
    while len(right) > _SIDE_MOST:
        left.append(right.pop())
    for side, column in ((-1, left), (1, right)):
        column.sort(key=lambda mark: mark.place[1], reverse=True)
        texts = [_label_lines(mark) for mark in column]
        heights = [_LINE * outer * (len(lines) + 0.6) for lines in texts]
        centres = spread([float(mark.place[1]) for mark in column], heights, 1.12 * outer)
        for mark, lines, y in zip(column, texts, centres):
            x = side * _COLUMN * outer
            axis.plot(
                [mark.place[0], 0.955 * x, 0.985 * x],
                [mark.place[1], y, y],
                color=mark.colour,
                alpha=0.6,
                linewidth=0.8,
                zorder=2,
            )
            align = "left" if side > 0 else "right"
            axis.text(
                *(x, y, "\n".join(lines)),
                ha=align,
                va="center",
                fontsize=8,
                linespacing=1.25,
                parse_math=False,
            )


def spread(wanted: Sequence[float], heights: Sequence[float], limit: float) -> list[float]:
    """Centres near the wanted ones (falling) of boxes of some heights that do not overlap, within +-limit.

    From the top: each box as low as wanted and at most as high as the one above allows; then from the
    bottom upwards those that fell out. What cannot fit overlaps nobody and leaves the limit at the top.
    """
    centres: list[float] = []
    ceiling = limit
    for centre, height in zip(wanted, heights):
        centres.append(min(centre, ceiling - height / 2))
        ceiling = centres[-1] - height / 2
    floor = -limit
    for i in reversed(range(len(centres))):
        centres[i] = max(centres[i], floor + heights[i] / 2)
        floor = centres[i] + heights[i] / 2
    return centres


def _label_lines(mark: _Mark) -> list[str]:
    source = mark.item.source
    name = textwrap.shorten(_drawable(source.name), 2 * _LABEL_CHARS - 4, placeholder=" ...")
    lines = textwrap.wrap(f"{mark.number}  {name}", _LABEL_CHARS)
    values = []
    if source.zone is None:
        values.append("direction unknown")
    elif abs(mark.elevation) == 90:
        values.append(source.zone)
    elif mark.elevation:
        values.append(f"{abs(mark.elevation):.0f}° {'up' if mark.elevation > 0 else 'down'}")
    values.append("distance unknown" if source.distance is None else f"{source.distance:.1f} m")
    if source.loudness is not None:
        values.append(f"{source.loudness:.0f} dB")
    if len(mark.item.zones) > 1:
        values.append("moves")
    if source.doubtful and source.confidence is not None:
        values.append(f"{100 * source.confidence:.0f} % sure")
    return [*lines, *textwrap.wrap(", ".join(values), _LABEL_CHARS + 2)]


def _drawable(text: str) -> str:
    """The text with a question mark for what the font of the pictures has no sign for."""
    return "".join(c if ord(c) in _signs() else "?" for c in text)


@cache
def _signs() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def _draw_timeline(axis: Axes, result: SceneResult, items: Sequence[TimelineSource]) -> None:
    start, end = result.start_seconds, result.end_seconds
    for window in result.windows:
        if window.silent:
            axis.axvspan(window.start, window.end, color=FAINT, alpha=0.5, linewidth=0)
        if window.start > start:
            axis.axvline(window.start, color=FAINT, linewidth=0.8, zorder=0)
    for row, item in enumerate(items):
        _draw_bar(axis, row, item, start, end)
    axis.set_xlim(start, end)
    axis.set_ylim(max(1, len(items)) - 0.35, -0.75)
    axis.set_yticks(range(len(items)), [str(row + 1) for row in range(len(items))])
    for row, tick in enumerate(axis.get_yticklabels()):
        tick.set_color(PALETTE[row % len(PALETTE)])
        tick.set_fontweight("bold")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    silent = any(window.silent for window in result.windows)
    axis.set_xlabel("time (s)" + (", grey: silence" if silent else ""))


def _draw_bar(axis: Axes, row: int, item: TimelineSource, start: float, end: float) -> None:
    source = item.source
    onset = start if source.onset is None else source.onset
    offset = end if source.offset is None else source.offset
    colour = PALETTE[row % len(PALETTE)]
    # A sound shorter than a pixel is still drawn.
    width = max(offset - onset, (end - start) / 300)
    axis.barh(row, width, left=onset, height=0.26, color=colour, linewidth=0)
    words = _drawable(source.name)
    if source.transcript and _drawable(source.transcript) == source.transcript:
        words += f': "{source.transcript}"'
    level = "" if source.loudness is None else f"  {source.loudness:.0f} dB"
    text = textwrap.shorten(words, _BAR_CHARS, placeholder=" ...") + level
    late = (onset - start) > 0.5 * (end - start)
    axis.annotate(
        text,
        (offset if late else onset, row - 0.13),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right" if late else "left",
        va="bottom",
        fontsize=7.5,
        color=INK,
        annotation_clip=False,
        parse_math=False,
    )
