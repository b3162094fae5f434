# SPDX-License-Identifier: Apache-2.0
"""The figures of an evaluation of descriptions: how far off directions are, and what more sources cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sciphi.metrics import BY_KEY, Metric
from sciphi.scores import POS, Scores
from spatial_core.viz.style import MARKERS, MUTED, PALETTE, figure

_SHOWN = ("count", "xyz", "zone", "tuple")


def write_figures(results: Mapping[str, Scores], directory: Path) -> dict[str, Path]:
    """Draws what there are scores for; returns caption -> path."""
    figures: dict[str, Path] = {}
    if any(len(scores.angles) for scores in results.values()):
        figures["Sources whose direction is within so many degrees of the unrounded truth"] = (
            draw_within(directory / "directions.png", results)
        )
    figures["By number of true sources"] = draw_counts(directory / "sources.png", results)
    return figures


def draw_within(path: Path, results: Mapping[str, Scores]) -> Path:
    """Share of the matched sources whose direction is off by at most x degrees."""
    grid = np.arange(0.0, 181.0, 1.0)
    with figure(path, 5.6, 3.8) as fig:
        axis = fig.subplots()
        # Of random directions on the sphere, this share is within x degrees.
        axis.plot(
            grid,
            50 * (1 - np.cos(np.radians(grid))),
            color=MUTED,
            linewidth=0.9,
            linestyle=(0, (4, 3)),
            label="any direction, all alike",
        )
        for index, (name, scores) in enumerate(results.items()):
            if len(scores.angles):
                within = np.searchsorted(np.sort(scores.angles), grid, side="right")
                axis.plot(
                    grid,
                    100 * within / len(scores.angles),
                    color=PALETTE[index % len(PALETTE)],
                    linewidth=1.8,
                    zorder=9 - index,
                    label=name,
                )
        axis.set(
            xlim=(0, 180), ylim=(0, 100), xlabel="angle to the true direction at most (degrees)"
        )
        axis.set(ylabel="matched sources (%)", xticks=range(0, 181, 30))
        axis.set_title("How far off directions are")
        axis.grid(True)
        axis.legend(loc="lower right")
    return path


def draw_counts(path: Path, results: Mapping[str, Scores]) -> Path:
    """A panel for each of four metrics, a line for each system, over the number of true sources."""
    with figure(path, 8.4, 5.6) as fig:
        panels = fig.subplots(2, 2, sharex=True)
        for axis, key in zip(panels.flat, _SHOWN):
            metric = BY_KEY[key]
            for index, (name, scores) in enumerate(results.items()):
                counts = list(scores.counts)
                axis.plot(
                    counts,
                    [metric.scale * scores.counts[n][POS][key] for n in counts],
                    color=PALETTE[index % len(PALETTE)],
                    marker=MARKERS[index % len(MARKERS)],
                    markersize=5 if index else 7,
                    linewidth=1.2 if index else 2.0,
                    label=name,
                    zorder=9 - index,
                    clip_on=False,
                )
            axis.set_title(_panel_title(metric))
            axis.set_ylim(0, {"count": 102, "xyz": 102, "tuple": 1.02}.get(key))
            axis.grid(True)
        for axis in panels[1]:
            axis.set(
                xlabel="true sources",
                xticks=sorted({n for s in results.values() for n in s.counts}),
            )
        handles, labels = panels[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower left", ncols=3)
    return path


def _panel_title(metric: Metric) -> str:
    names = {"count": "Right count", "xyz": "Zone of 26 right", "zone": "Zone error"}
    unit = metric.unit.strip()
    return names.get(metric.key, metric.title) + (f" ({unit})" if unit else "")
