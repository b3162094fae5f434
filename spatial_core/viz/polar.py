# SPDX-License-Identifier: Apache-2.0
"""The azimuth posterior over time, as a heat map beside a polar rose of its mean."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.projections.polar import PolarAxes

from spatial_core.errors import InputError
from spatial_core.viz.style import DENSITY, FAINT, INK, MUTED, PALETTE, azimuth_ticks, figure

# Density of a posterior that knows nothing, a degree. Scales never end near it, so that ignorance
# looks pale and round instead of dark and busy.
_FLAT = 1 / 360


def draw_posterior(
    path: str | os.PathLike[str],
    azimuth_probs: np.ndarray,
    azimuth_grid: np.ndarray,
    *,
    step: float = 0.16,
    estimate: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    truth: np.ndarray | float | None = None,
    title: str = "Where the sound comes from",
) -> Path:
    """Draws where the posterior lies over time (left) and on average (right).

    Args:
        path: PNG to write.
        azimuth_probs: [n_steps, n] probabilities over the grid; a step of nan has no speech.
        azimuth_grid: [n] azimuths in degrees, counter-clockwise from +x. A grid that holds both -180
            and 180 names one direction twice; the two are added.
        step: seconds between steps.
        estimate: [n_steps] azimuth estimates in degrees, nan where nothing was heard.
        confidence: [n_steps] in [0, 1]; the dots of uncertain steps are paler.
        truth: the true azimuth in degrees, one or [n_steps].
        title: figure title.
    """
    probs, grid = _merge_ends(np.asarray(azimuth_probs, float), np.asarray(azimuth_grid, float))
    steps = probs.shape[0]
    times = np.arange(steps) * step
    if estimate is not None:
        estimate = np.asarray(estimate, float)
    active = np.isfinite(probs).all(axis=1)
    if estimate is not None:
        active &= np.isfinite(estimate)
    with figure(path, 9.2, 3.9) as fig:
        layout = fig.add_gridspec(1, 2, width_ratios=(2.1, 1))
        flat = fig.add_subplot(layout[0])
        _draw_heat(flat, probs, grid, times, step, active)
        if truth is not None:
            line = np.broadcast_to(np.asarray(truth, float), (steps,))
            _draw_truth(flat, times, line, step)
        if estimate is not None:
            _draw_estimates(flat, times, estimate, confidence)
        if flat.get_legend_handles_labels()[0]:
            flat.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, borderaxespad=0.2)
        rose = fig.add_subplot(layout[1], projection="polar")
        assert isinstance(rose, PolarAxes)
        mean = probs[active].mean(axis=0) if active.any() else np.full(len(grid), np.nan)
        _draw_rose(rose, mean, grid, None if truth is None else np.asarray(truth, float))
        share = f"{active.mean():.0%} of {steps * step:.1f} s with speech"
        rose.set_title(f"mean over time\n{share}", fontweight="normal", loc="center", fontsize=9)
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return Path(path)


def _merge_ends(probs: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorts the grid into [-180, 180) and adds up points that name the same direction."""
    if probs.ndim != 2 or grid.ndim != 1 or probs.shape[1] != grid.shape[0]:
        raise InputError(
            "azimuth_probs must be [n_steps, n] over azimuth_grid [n], but their shapes are "
            f"{probs.shape} and {grid.shape}"
        )
    if not probs.shape[0] or grid.shape[0] < 2:
        raise InputError("a posterior needs at least one step and two azimuths to be drawn")
    wrapped = np.round(np.mod(grid + 180.0, 360.0) - 180.0, 6)
    unique, inverse = np.unique(wrapped, return_inverse=True)
    # A step with any nan becomes all nan here: it has no speech.
    members = (inverse[:, None] == np.arange(len(unique))).astype(float)
    return probs @ members, unique


def _edges(grid: np.ndarray) -> np.ndarray:
    """Cell edges half-way between neighbours on the circle, [n + 1], rising over 360 degrees."""
    after = np.append(grid[1:], grid[0] + 360.0)
    upper = (grid + after) / 2
    return np.append(upper[-1] - 360.0, upper)


def _draw_heat(
    axis: Axes,
    probs: np.ndarray,
    grid: np.ndarray,
    times: np.ndarray,
    step: float,
    active: np.ndarray,
) -> None:
    edges = _edges(grid)
    density = probs / np.diff(edges)
    top = max(float(np.nanquantile(density[active], 0.995)) if active.any() else 0.0, _FLAT * 4)
    time_edges = np.append(times, times[-1] + step)
    # The cells are drawn twice, one turn apart, because the outermost one straddles +-180 degrees.
    for turn in (-360.0, 0.0, 360.0):
        axis.pcolormesh(
            time_edges,
            edges + turn,
            np.ma.masked_invalid(np.where(active, density.T, np.nan)),
            cmap=DENSITY,
            vmin=0,
            vmax=top,
            rasterized=True,
        )
    for start in times[~active]:
        axis.axvspan(start, start + step, color=FAINT, linewidth=0, alpha=0.7)
    azimuth_ticks(axis, "y", 45)
    axis.set_xlim(time_edges[0], time_edges[-1])
    axis.set_xlabel("time (s)" + ("" if active.all() else ", grey: no speech"))
    axis.set_ylabel("azimuth (counter-clockwise from +x)")


def _draw_truth(axis: Axes, times: np.ndarray, truth: np.ndarray, step: float) -> None:
    # Break the line where it wraps, so that no stroke crosses the whole axis.
    broken = truth.astype(float).copy()
    broken[1:][np.abs(np.diff(truth)) > 180] = np.nan
    axis.plot(
        np.append(times, times[-1] + step),
        np.append(broken, broken[-1]),
        color=INK,
        linewidth=1.1,
        linestyle=(0, (5, 3)),
        label="truth",
    )


def _draw_estimates(
    axis: Axes, times: np.ndarray, estimate: np.ndarray, confidence: np.ndarray | None
) -> None:
    alpha = np.ones(len(times)) if confidence is None else np.clip(confidence, 0.15, 1.0)
    keep = np.isfinite(estimate)
    if not keep.any():  # matplotlib cannot blend an empty list of opacities
        return
    half = (times[1] - times[0]) / 2 if len(times) > 1 else 0.0
    axis.scatter(
        times[keep] + half,
        estimate[keep],
        s=16,
        color=PALETTE[1],
        alpha=np.nan_to_num(alpha, nan=0.15)[keep],
        edgecolor="white",
        linewidth=0.4,
        zorder=3,
        label="estimate" if confidence is None else "estimate (paler: less certain)",
    )


def _draw_rose(
    axis: PolarAxes, mean: np.ndarray, grid: np.ndarray, truth: np.ndarray | None
) -> None:
    edges = _edges(grid)
    width = np.deg2rad(np.diff(edges))
    density = np.nan_to_num(mean) / np.diff(edges)
    axis.bar(
        np.deg2rad((edges[1:] + edges[:-1]) / 2),
        density,
        width=width,
        color=PALETTE[0],
        alpha=0.85,
        linewidth=0,
    )
    top = max(float(density.max()) * 1.05, _FLAT * 2)
    axis.set_ylim(0, top)
    axis.set_yticks([])
    axis.set_theta_zero_location("E")
    axis.set_theta_direction(1)
    axis.set_thetagrids(
        np.arange(0, 360, 45),
        ["0°\n+x", "45°", "90° +y", "135°", "180°", "-135°", "-90°", "-45°"],
        fontsize=8,
    )
    axis.tick_params(axis="x", pad=1)
    axis.spines["polar"].set_color(MUTED)
    if truth is not None and truth.ndim == 0:
        axis.plot(
            np.deg2rad([truth, truth]), [0, top], color=INK, linewidth=1.1, linestyle=(0, (5, 3))
        )
