# SPDX-License-Identifier: Apache-2.0
"""The paper's own figures, to stand beside measured ones: never the same clips, always labelled so.

PhaseCoder, arXiv 2601.21124, tables 3 and 6: Gemma 3n E4B, 512 questions a task (1,024 in table 6).
"""

from __future__ import annotations

PAPER_LABEL = "paper"

# Columns: azimuth, elevation (degrees), distance (m) of Task 1; accuracy (%) of Task 2; azimuth,
# elevation, distance of Task 3; accuracy (%) of Task 4.
_NUMBERS = (
    "task1_azimuth",
    "task1_elevation",
    "task1_distance",
    "task2_accuracy",
    "task3_azimuth",
    "task3_elevation",
    "task3_distance",
    "task4_accuracy",
)
_ROWS: dict[str, tuple[float | None, ...]] = {
    "Gemma 3n fine-tuned, synthetic": (4.75, 3.15, 0.75, 76.76, 5.25, 3.32, 0.73, 44.92),
    "encoder's own heads, synthetic": (3.08, 2.05, 0.71, None, 3.09, 2.05, 0.71, None),
    "Gemma 3n before, synthetic": (74.28, 83.87, 1.45, 48.44, 89.38, 38.25, 1.48, 39.65),
    "Gemini 3 Flash, synthetic": (91.83, 36.37, 1.44, 47.85, 89.85, 37.12, 1.49, 40.63),
    "Gemma 3n fine-tuned, RSL2019": (11.92, 8.68, 1.28, 73.83, 20.11, 10.05, 1.51, 52.73),
    "chance": (90.0, 60.0, 2.0, 50.0, 90.0, 60.0, 2.0, 33.0),
}
# Word error rates of Tasks 3 and 4 in percent: (mean, median).
_WORDS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "Gemma 3n fine-tuned, synthetic": ((10.63, 0.0), (8.77, 0.0)),
    "Gemma 3n before, synthetic": ((6.40, 0.0), (23.71, 8.33)),
    "Gemini 3 Flash, synthetic": ((8.91, 0.0), (5.20, 0.0)),
    "Gemma 3n fine-tuned, RSL2019": ((51.80, 42.86), (48.41, 42.86)),
    "chance": ((100.0, 100.0), (100.0, 100.0)),
}


def table_3() -> dict[str, dict[str, float]]:
    """Rows of table 3, by name; `words3_mean` and so on are word error rates in percent."""
    rows: dict[str, dict[str, float]] = {}
    for name, values in _ROWS.items():
        row = {key: value for key, value in zip(_NUMBERS, values) if value is not None}
        for task, rates in zip((3, 4), _WORDS.get(name, ())):
            row[f"words{task}_mean"], row[f"words{task}_median"] = rates
        rows[name] = row
    return rows


# Kind of Task 2 -> (right, asked).
TABLE_6: dict[str, tuple[int, int]] = {
    "multi_azimuth_outside": (63, 87),
    "multi_azimuth_within": (83, 111),
    "multi_distance_closer": (64, 101),
    "multi_distance_further": (56, 84),
    "single_azimuth_back": (84, 103),
    "single_azimuth_front": (81, 102),
    "single_azimuth_left": (85, 103),
    "single_azimuth_right": (88, 103),
    "single_distance_closer": (99, 123),
    "single_distance_further": (83, 107),
}
TABLE_6_YES, TABLE_6_NO = (409, 512), (377, 512)
