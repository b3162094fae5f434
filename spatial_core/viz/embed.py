# SPDX-License-Identifier: Apache-2.0
"""Map of the spatial tokens in two dimensions, coloured by azimuth (PhaseCoder, Fig. 4)."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.projections.polar import PolarAxes

from spatial_core.errors import InputError
from spatial_core.viz.style import CYCLIC, MUTED, figure


def project(tokens: np.ndarray, method: str = "auto", seed: int = 0) -> tuple[np.ndarray, str]:
    """Projects tokens [n, d] to [n, 2]; returns the points and the name of what was done.

    `method` is "umap", "pca" or "auto": UMAP where umap-learn is installed and there are at least 16
    tokens, otherwise PCA, and the name says so. Deterministic for a seed.
    """
    if method not in ("auto", "umap", "pca"):
        raise InputError(f'projection {method!r} is unknown: choose "auto", "umap" or "pca"')
    x = np.asarray(tokens, np.float32)
    if x.ndim != 2 or x.shape[0] < 3 or not np.isfinite(x).all():
        raise InputError(f"a token map needs at least 3 finite tokens [n, d], got shape {x.shape}")
    installed = importlib.util.find_spec("umap") is not None
    if method == "umap" and not installed:
        raise InputError('umap-learn is not installed: install the extra "umap" or use "pca"')
    if method == "pca" or not installed or (method == "auto" and x.shape[0] < 16):
        centred = x - x.mean(axis=0)
        left, scale, _ = np.linalg.svd(centred, full_matrices=False)
        points = np.zeros((x.shape[0], 2))
        kept = min(2, left.shape[1])
        points[:, :kept] = left[:, :kept] * scale[:kept]
        reason = "PCA" if installed else "PCA: umap-learn is not installed"
        return points, reason
    # Imported here: it compiles for seconds and is an optional extra.
    import umap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reducer = umap.UMAP(n_neighbors=min(15, x.shape[0] - 1), random_state=seed, n_jobs=1)
        return np.asarray(reducer.fit_transform(x), float), "UMAP"


def draw_tokens(
    path: str | os.PathLike[str],
    tokens: np.ndarray,
    azimuth: np.ndarray,
    *,
    method: str = "auto",
    seed: int = 0,
    title: str = "Spatial tokens",
) -> Path:
    """Scatters tokens [n, d] in two dimensions, coloured by the true azimuth [n] in degrees.

    See `project` for `method` and `seed`; the title names the projection.
    """
    points, name = project(tokens, method, seed)
    phase = np.mod(np.asarray(azimuth, float), 360.0) / 360.0
    with figure(path, 6.2, 4.6) as fig:
        layout = fig.add_gridspec(1, 2, width_ratios=(3.4, 1))
        axis = fig.add_subplot(layout[0])
        size = float(np.clip(6000 / len(points), 5, 26))
        axis.scatter(points[:, 0], points[:, 1], c=CYCLIC(phase), s=size, linewidth=0, alpha=0.85)
        _bare(axis)
        axis.set_xlabel(f"{name}, {len(points)} tokens", color=MUTED)
        wheel = fig.add_subplot(layout[1], projection="polar")
        assert isinstance(wheel, PolarAxes)
        _draw_wheel(wheel)
        fig.suptitle(f"{title} ({name})", x=0.01, ha="left", fontsize=11, fontweight="bold")
    return Path(path)


def _bare(axis: Axes) -> None:
    """The coordinates of such a map mean nothing: no ticks, a thin frame."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_aspect("equal", adjustable="datalim")
    for side in ("top", "right"):
        axis.spines[side].set_visible(True)


def _draw_wheel(axis: PolarAxes) -> None:
    theta = np.linspace(0, 2 * np.pi, 181)
    values = np.broadcast_to((theta[:-1] + theta[1:]) / 2, (1, 180))
    axis.pcolormesh(
        theta, [0.62, 1.0], values, cmap=CYCLIC, vmin=0, vmax=2 * np.pi, rasterized=True
    )
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.set_thetagrids([0, 90, 180, 270], ["0°", "90°", "180°", "-90°"], fontsize=8)
    axis.grid(False)
    axis.spines["polar"].set_visible(False)
    axis.set_title("azimuth", fontweight="normal", fontsize=9, loc="center")
