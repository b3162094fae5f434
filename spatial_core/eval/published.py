# SPDX-License-Identifier: Apache-2.0
"""Published results, to stand beside measured ones: never the same clips, always labelled so."""

from __future__ import annotations

PAPER_LABEL = "PhaseCoder paper, its own set"

# arXiv 2601.21124, Table 5: 512 random geometries of the authors' unseen synthetic set, by number of
# microphones. Angles in degrees, distance in metres, accuracies (within 10 degrees) in percent.
PAPER_BY_MICROPHONES: dict[str, dict[str, float]] = {
    mics: dict(
        zip(
            ("azimuth_mae", "elevation_mae", "distance_mae", "acc_at_10", "elevation_acc_at_10"),
            values,
        )
    )
    for mics, values in {
        "3": (80.24, 33.31, 1.13, 14.6, 10.6),
        "4": (10.27, 6.41, 0.76, 85.7, 65.7),
        "5": (5.67, 3.62, 0.75, 93.4, 76.3),
        "6": (4.15, 2.62, 0.73, 95.7, 98.0),
        "7": (3.34, 2.18, 0.72, 96.8, 98.7),
        "8": (3.03, 2.07, 0.71, 97.1, 98.7),
    }.items()
}
