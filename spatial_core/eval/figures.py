# SPDX-License-Identifier: Apache-2.0
"""The figures of an evaluation report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spatial_core.eval.names import file_name
from spatial_core.eval.published import PAPER_BY_MICROPHONES, PAPER_LABEL
from spatial_core.eval.scenes import draw_pictures
from spatial_core.viz.embed import draw_tokens
from spatial_core.viz.tables import draw_confusion, draw_groups, draw_reliability

if TYPE_CHECKING:
    from spatial_core.eval.report import EvalReport

_PANELS = {"azimuth_mae": "azimuth MAE (degrees)", "acc_at_10": "azimuth within 10° (%)"}
_GROUPS = {
    "num_mics": ("microphones", "Error over the number of microphones"),
    "rt60": ("reverberation time (RT60)", "Error over reverberation"),
    "snr_db": ("speech to distractor", "Error over the signal-to-noise ratio"),
}
# More points than this hide each other, and UMAP would take minutes.
_MOST_TOKENS = 2000


def write_figures(report: EvalReport, directory: Path, projection: str) -> dict[str, Path]:
    """Draws all figures that the report has data for; returns caption -> path."""
    figures: dict[str, Path] = {}
    for grouping in report.groups:
        if grouping.key in _GROUPS and len(grouping.labels) > 1:
            xlabel, title = _GROUPS[grouping.key]
            figures[title] = draw_groups(
                directory / f"error_over_{grouping.key}.png",
                grouping.labels,
                _panels(report, grouping.key, grouping.labels),
                xlabel=xlabel,
                title=title,
                counts=[int(np.sum(grouping.index == i)) for i in range(len(grouping.labels))],
            )
    speech = np.asarray(report.truth["speech"], bool)
    azimuth = np.asarray(report.truth["azimuth"])[speech]
    if not speech.any():
        return figures
    caption = "Azimuth, estimate against truth"
    figures[caption] = draw_confusion(
        directory / "azimuth_confusion.png",
        azimuth,
        {name: p["azimuth"][speech] for name, p in report.predictions.items()},
        title=caption,
    )
    caption = "Is the confidence true?"
    calibrations = {name: result.calibration for name, result in report.results.items()}
    figures[caption] = draw_reliability(
        directory / "reliability.png",
        {name: (c.confidence, c.accuracy, c.count) for name, c in calibrations.items()},
        title=caption,
    )
    for name, prediction in report.predictions.items():
        if "token" in prediction and len(azimuth) >= 3:
            caption = f"{name}: spatial tokens by azimuth"
            figures[caption] = draw_tokens(
                directory / f"tokens_{file_name(name)}.png",
                prediction["token"][speech][:_MOST_TOKENS],
                azimuth[:_MOST_TOKENS],
                method=projection,
                title=caption,
            )
    for picture in report.pictures:
        figures |= draw_pictures(picture, directory)
    return figures


def _panels(
    report: EvalReport, key: str, labels: tuple[str, ...]
) -> dict[str, dict[str, np.ndarray]]:
    panels: dict[str, dict[str, np.ndarray]] = {}
    for metric, label in _PANELS.items():
        series = {}
        for name, result in report.results.items():
            scores = [group[metric] for group in result.groups[key]]
            series[name] = np.array([[s.value, s.low, s.high] for s in scores])
        if report.show_paper and key == "num_mics":
            values = [PAPER_BY_MICROPHONES.get(label, {}).get(metric, np.nan) for label in labels]
            series[PAPER_LABEL] = np.repeat(np.array(values)[:, None], 3, axis=1)
        panels[label] = series
    return panels
