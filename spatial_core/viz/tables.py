# SPDX-License-Identifier: Apache-2.0
"""Figures of an evaluation: error over groups, azimuth confusion, reliability of the confidence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from spatial_core.viz.style import (
    DENSITY,
    FAINT,
    INK,
    MARKERS,
    MUTED,
    PALETTE,
    azimuth_ticks,
    figure,
)

# Clips per column of the confusion below which shares would be noise.
_FEW_PER_COLUMN = 12


def draw_groups(
    path: str | os.PathLike[str],
    labels: Sequence[str],
    panels: Mapping[str, Mapping[str, np.ndarray]],
    *,
    xlabel: str,
    title: str,
    counts: Sequence[int] | None = None,
    logarithmic: Sequence[str] = (),
) -> Path:
    """One panel per metric, one line per localizer, with 95% intervals, over groups of examples.

    Args:
        path: PNG to write.
        labels: name of each of the g groups, in order.
        panels: metric label -> localizer name -> [g, 3] value, low, high (nan where there is none).
        xlabel: what the groups are.
        title: figure title.
        counts: examples in each group, written under the group names.
        logarithmic: the metric labels whose axis is logarithmic.
    """
    position = np.arange(len(labels), dtype=float)
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    ticks = [str(label) for label in labels]
    if counts is not None:
        ticks = [f"{label}\n" + rf"$n$={count}" for label, count in zip(ticks, counts)]
    with figure(path, 4.1 * len(panels), 3.7) as fig:
        axes = fig.subplots(1, len(panels), squeeze=False)[0]
        for axis, (metric, series) in zip(axes, panels.items()):
            for index, name in enumerate(names):
                if name not in series:
                    continue
                value, low, high = np.asarray(series[name], float).T
                # A small sideways step keeps the intervals of several localizers apart.
                x = position + 0.07 * (index - (len(names) - 1) / 2)
                axis.errorbar(
                    x,
                    value,
                    yerr=np.abs(np.stack([value - low, high - value])),
                    color=PALETTE[index % len(PALETTE)],
                    marker=MARKERS[index % len(MARKERS)],
                    markersize=4.5,
                    linewidth=1.3,
                    elinewidth=0.9,
                    capsize=2,
                    clip_on=False,
                    label=name,
                )
            if metric in logarithmic:
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter("{x:g}")
            else:
                axis.set_ylim(bottom=0)
            axis.set_xticks(position, ticks)
            axis.set_xlim(-0.5, len(labels) - 0.5)
            axis.set_xlabel(xlabel)
            axis.set_title(metric, fontweight="normal")
            axis.grid(axis="y")
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        handles, texts = axes[0].get_legend_handles_labels()
        fig.legend(handles, texts, loc="outside lower left", ncols=min(4, len(names)))
    return Path(path)


def draw_confusion(
    path: str | os.PathLike[str],
    truth: np.ndarray,
    estimates: Mapping[str, np.ndarray],
    *,
    title: str,
    step: float = 10.0,
) -> Path:
    """Density of the estimated azimuth for each true azimuth, one square per localizer.

    Args:
        path: PNG to write.
        truth: [n] true azimuths in degrees.
        estimates: localizer name -> [n] estimated azimuths in degrees.
        title: figure title.
        step: width of a cell in degrees; each column (true azimuth) is normalised to 1. With too
            few clips for that, every clip is a dot.
    """
    edges = np.arange(-180.0, 180.0 + step / 2, step)
    columns = 2 if len(estimates) == 4 else min(3, len(estimates))
    rows = -(-len(estimates) // columns)
    with figure(path, 3.2 * columns + 0.8, 3.2 * rows + 0.7) as fig:
        axes = fig.subplots(rows, columns, squeeze=False)
        image = None
        for axis, (name, estimate) in zip(axes.flat, estimates.items()):
            if len(truth) < _FEW_PER_COLUMN * (len(edges) - 1):
                axis.scatter(truth, estimate, s=9, color=PALETTE[0], alpha=0.5, linewidth=0)
            else:
                counts, _, _ = np.histogram2d(truth, estimate, [edges, edges])
                share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
                # A logarithmic scale: the eye should be able to find the few far misses.
                shown = np.ma.masked_less(share.T, 0.005)
                norm = LogNorm(0.005, 1.0)
                image = axis.pcolormesh(
                    edges, edges, shown, cmap=DENSITY, norm=norm, rasterized=True
                )
            azimuth_ticks(axis, "x")
            azimuth_ticks(axis, "y")
            axis.set_aspect("equal")
            axis.set_title(name, fontweight="normal")
            axis.grid(True)
        for axis in axes.flat[len(estimates) :]:
            axis.set_visible(False)
        for axis in axes.flat:
            axis.set(xlabel="true azimuth", ylabel="estimated azimuth")
            axis.label_outer(remove_inner_ticks=False)
        if image is not None:
            bar = fig.colorbar(image, ax=axes, shrink=0.8, aspect=30, pad=0.02)
            bar.set_ticks([0.01, 0.1, 1.0], labels=["1%", "10%", "100%"])
            bar.set_label("share of the clips from that direction")
            bar.outline.set_visible(False)  # type: ignore[operator]
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return Path(path)


def draw_reliability(
    path: str | os.PathLike[str],
    tables: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    *,
    title: str,
    outcome: str = "azimuth error ≤ 10°",
) -> Path:
    """Reliability diagram: what share of the clips came true, for each level of stated confidence.

    Args:
        path: PNG to write.
        tables: localizer name -> (confidence, accuracy, count), each [bins]: mean confidence and share
            of correct clips in each bin of confidence; bins of count 0 are left out.
        title: figure title.
        outcome: the event of which the confidence is the probability.
    """
    with figure(path, 4.4, 5.6) as fig:
        above, below = fig.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        above.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        above.annotate(
            "says what it knows",
            (0.03, 0.03),
            (0.045, 0.095),
            rotation=45,
            rotation_mode="anchor",
            color=MUTED,
            fontsize=8,
        )
        for index, (name, table) in enumerate(tables.items()):
            confidence, accuracy, count = (np.asarray(part, float) for part in table)
            _draw_reliability_line(above, name, index, confidence, accuracy, count)
            width = 1.0 / len(count)
            centres = (np.arange(len(count)) + 0.5) * width
            below.step(
                np.r_[0, centres - width / 2, 1],
                np.r_[0, count, 0] / max(count.sum(), 1),
                where="post",
                color=PALETTE[index % len(PALETTE)],
                linewidth=1.1,
            )
        above.set_xlim(0, 1)
        above.set_ylim(0, 1)
        above.grid(True)
        above.set_ylabel(f"share with {outcome}")
        above.legend(loc="upper left")
        below.set_ylim(bottom=0)
        below.set_ylabel("share of clips")
        below.set_xlabel("stated confidence")
        below.grid(axis="y", color=FAINT)
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    return Path(path)


def _draw_reliability_line(
    axis: Axes,
    name: str,
    index: int,
    confidence: np.ndarray,
    accuracy: np.ndarray,
    count: np.ndarray,
) -> None:
    keep = count > 0
    area = 12 + 90 * count[keep] / max(count.sum(), 1)
    color = PALETTE[index % len(PALETTE)]
    axis.plot(confidence[keep], accuracy[keep], color=color, linewidth=1.2)
    axis.scatter(
        confidence[keep],
        accuracy[keep],
        s=area,
        color=color,
        marker=MARKERS[index % len(MARKERS)],
        label=name,
        clip_on=False,
        zorder=3,
    )
