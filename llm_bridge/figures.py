# SPDX-License-Identifier: Apache-2.0
"""The figures of a bridge's evaluation: where it says that talkers are, and which questions it can answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from llm_bridge.metrics import Scores, YesNo
from llm_bridge.qa.book import KINDS, kind_title
from spatial_core.geometry.coords import azimuth_error
from spatial_core.viz.style import FAINT, MARKERS, MUTED, PALETTE, azimuth_ticks, figure

_MOST_POINTS = 2000


def write_figures(results: Mapping[str, Scores], directory: Path) -> dict[str, Path]:
    """Draws what there are scores for; returns caption -> path."""
    figures: dict[str, Path] = {}
    places = {name: s.task1.azimuths for name, s in results.items() if s.task1 is not None}
    places = {name: azimuths for name, azimuths in places.items() if len(azimuths)}
    colors = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(results)}
    if places:
        figures["Task 1: azimuth in the answer against the true one"] = draw_azimuths(
            directory / "task1_azimuth.png", places
        )
        figures["Task 1: talkers placed within so many degrees"] = draw_within(
            directory / "task1_within.png", places, colors
        )
    kinds = {name: s.task2 for name, s in results.items() if s.task2 is not None}
    if kinds:
        figures["Task 2: right answers by kind of question"] = draw_kinds(
            directory / "task2_kinds.png", kinds
        )
    return figures


def draw_azimuths(path: Path, places: Mapping[str, np.ndarray]) -> Path:
    """A dot for each talker, a panel for each who answers; places: [n, 2] truth and answer, degrees."""
    columns = min(3, len(places))
    rows = -(-len(places) // columns)
    with figure(path, 3.1 * columns + 0.4, 3.2 * rows + 0.5) as fig:
        axes = fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axis, (name, azimuths) in zip(axes.flat, places.items()):
            error = azimuth_error(azimuths[:, 0], azimuths[:, 1])
            shown = azimuths[:_MOST_POINTS]
            axis.plot([-180, 180], [-180, 180], color=FAINT, linewidth=4, zorder=0)
            axis.scatter(*shown.T, s=9, color=PALETTE[0], alpha=0.45, linewidth=0)
            azimuth_ticks(axis, "x")
            azimuth_ticks(axis, "y")
            axis.set_aspect("equal")
            axis.set_title(f"{name}\nmean error {error.mean():.1f}°", fontweight="normal")
            axis.grid(True)
            axis.set(xlabel="true azimuth", ylabel="azimuth in the answer")
            axis.label_outer(remove_inner_ticks=False)
        for axis in axes.flat[len(places) :]:
            axis.set_visible(False)
        fig.suptitle("Where it says the talkers are", x=0.01, ha="left", fontweight="bold")
    return path


def draw_within(path: Path, places: Mapping[str, np.ndarray], colors: Mapping[str, str]) -> Path:
    """Share of the talkers whose azimuth is off by at most x degrees."""
    grid = np.arange(0.0, 181.0, 1.0)
    with figure(path, 5.6, 3.8) as fig:
        axis = fig.subplots()
        for name, azimuths in places.items():
            error = np.sort(azimuth_error(azimuths[:, 0], azimuths[:, 1]))
            share = 100 * np.searchsorted(error, grid, side="right") / len(error)
            axis.plot(grid, share, color=colors[name], linewidth=1.8, label=name)
        axis.plot([0, 180], [0, 100], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axis.set(xlim=(0, 180), ylim=(0, 100), xlabel="azimuth error at most (degrees)")
        axis.set(ylabel="talkers that were answered (%)", xticks=range(0, 181, 30))
        axis.set_title("How far off")
        axis.grid(True)
        axis.legend(loc="lower right")
    return path


def draw_kinds(path: Path, kinds: Mapping[str, YesNo]) -> Path:
    """A row for each kind of question, a mark for each who answers; chance is the line at 50%."""
    names = [kind for kind in sorted(KINDS[2]) if any(kind in one.kinds for one in kinds.values())]
    rows = np.arange(len(names) + 1)[::-1]
    with figure(path, 7.2, 0.36 * len(rows) + 1.7) as fig:
        axis = fig.subplots()
        axis.axvline(50, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        for index, (name, one) in enumerate(kinds.items()):
            tallies = [one.kinds.get(kind) for kind in names]
            share = [np.nan if t is None else 100 * t.share for t in tallies]
            axis.scatter(
                [*share, 100 * one.accuracy.value],
                rows + 0.1 * ((len(kinds) - 1) / 2 - index),
                s=46 if index == 0 else 24,
                color=PALETTE[index % len(PALETTE)],
                marker=MARKERS[index % len(MARKERS)],
                label=name,
                zorder=5 - index,
                clip_on=False,
            )
        axis.set_yticks(rows, [*map(kind_title, names), "All"])
        axis.set(xlim=(0, 100), ylim=(-0.6, len(rows) - 0.4), xlabel="right answers (%)")
        axis.set_title("Yes or no, by kind of question")
        axis.grid(axis="x")
        fig.legend(loc="outside lower left", ncols=2)
    return path
