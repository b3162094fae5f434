# SPDX-License-Identifier: Apache-2.0
"""The paper's own figures, to stand beside measured ones: never the same clips, always labelled so.

Sci-Phi, arXiv 2510.05542: POS, 10,000 simulated scenes of 1 to 4 sources, and real room responses
(FOA-MEIR). Its label metrics are CLAP text similarities; WER, label and TupleScore use its own formulas.
Keys and units are those of `sciphi.metrics` (shares from 0 to 1).
"""

from __future__ import annotations

PAPER_LABEL = "paper"

_KEYS = "volume rt60 noise count tuple label wer xyz xy z zone distance iou loudness c50".split()
_PERCENT = ("count", "xyz", "xy", "z")
_ROWS: dict[str, tuple[float | None, ...]] = {
    "Sci-Phi, simulated": (
        *(0.590, 0.092, 0.662, 91.5, 0.783, 0.674, 0.449, 82.9, 85.1, 92.0),
        *(8.4, 0.258, 0.802, 1.25, 1.35),
    ),
    "Sci-Phi, real responses": (
        *(None, 0.333, None, 75.2, 0.765, 0.691, 0.371, 77.4, 84.4, 87.5),
        *(12.0, 0.292, 0.737, 1.98, 2.20),
    ),
    "spatial encoder only, simulated": (
        *(0.564, 0.097, 0.647, 87.1, 0.699, 0.553, 1.189, 81.7, 84.3, 91.0),
        *(9.5, 0.269, 0.760, 1.63, 1.51),
    ),
    "spectral encoder only, simulated": (
        *(0.868, 0.654, 0.631, 25.0, 0.562, 0.285, 0.464, 9.1, 15.8, 46.5),
        *(75.5, 0.417, 0.589, 7.89, 6.46),
    ),
}
COUNT_BY_SOURCES = {1: 0.997, 2: 0.964, 3: 0.888, 4: 0.809}
"""Share of right counts by number of sources, simulated: their plain mean is the headline."""


def table() -> dict[str, dict[str, float]]:
    """Rows of the paper's tables by name, values by the keys of `sciphi.metrics.METRICS`."""
    return {
        name: {
            key: value / 100 if key in _PERCENT else value
            for key, value in zip(_KEYS, values, strict=True)
            if value is not None
        }
        for name, values in _ROWS.items()
    }
