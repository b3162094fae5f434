# SPDX-License-Identifier: Apache-2.0
"""One look for every figure: quiet axes, colour-blind-safe colours, Agg canvas, no global state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

# Okabe & Ito (2008), in an order in which neighbours differ in lightness as well as in hue.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK = "#262626"
MUTED = "#7A7A7A"
FAINT = "#DADADA"

# Directions need a colormap that closes on itself. Lightness rises and falls once around, hue differs
# between the two flanks, so that opposite directions stay apart also without colour vision.
CYCLIC = LinearSegmentedColormap.from_list(
    "azimuth", ["#F2C230", "#D9583F", "#6B2D7E", "#23408E", "#2C9AA8", "#8CC86A", "#F2C230"]
)
# White to dark blue for densities and probabilities.
DENSITY = LinearSegmentedColormap.from_list(
    "density", ["#FFFFFF", "#D6E6F2", "#8FBEDD", "#3E8CC0", "#0B5A94", "#062F52"]
)

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 8.0,
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "savefig.facecolor": "white",
}


@contextmanager
def figure(path: str | os.PathLike[str], width: float, height: float) -> Iterator[Figure]:
    """Yields a figure of width x height inches and writes it to `path` as a PNG when the block ends.

    Folders are made as needed. pyplot is never touched, so that figures can be drawn from any thread
    and on a machine without a display.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_RC):
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        fig = Figure(figsize=(width, height), layout=layout)
        FigureCanvasAgg(fig)
        yield fig
        fig.savefig(target, dpi=160)


def azimuth_ticks(axis: Axes, which: str = "x", step: int = 90) -> None:
    """Labels an axis that runs over azimuths from -180 to 180 degrees."""
    ticks = list(range(-180, 181, step))
    labels = [f"{t}°" for t in ticks]
    if which == "x":
        axis.set_xlim(-180, 180)
        axis.set_xticks(ticks, labels)
    else:
        axis.set_ylim(-180, 180)
        axis.set_yticks(ticks, labels)
