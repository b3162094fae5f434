# SPDX-License-Identifier: Apache-2.0
"""Metrics of localization: per-example errors, their summaries, and the groups they are shown by.

Angles are degrees, azimuths compare the short way round, distances are metres. Only examples with
speech have direction and distance errors (PhaseCoder, section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spatial_core.errors import InputError
from spatial_core.eval.bootstrap import Interval, Resamples, mean_interval, median_interval
from spatial_core.geometry.arrays import FLATNESS
from spatial_core.geometry.bins import AZIMUTH
from spatial_core.geometry.coords import azimuth_error, to_cartesian

TOLERANCE = 10.0  # degrees, of acc_at_10 and of the event that a confidence is the probability of
SHAPES = ("linear", "planar", "volumetric")
REQUIRED = ("azimuth", "elevation", "distance", "speech_probability", "confidence")


@dataclass(frozen=True)
class Metric:
    """A summary of a per-example quantity: its mean or its median, times `scale`."""

    key: str
    label: str
    source: str
    unit: str
    statistic: str = "mean"

    @property
    def scale(self) -> float:
        """Shares are shown in percent."""
        return 100.0 if self.unit == "%" else 1.0


METRICS: tuple[Metric, ...] = (
    Metric("azimuth_mae", "azimuth MAE", "azimuth_error", "°"),
    Metric("azimuth_median", "azimuth median", "azimuth_error", "°", "median"),
    Metric("exact_class", "exact_class", "exact_class", "%"),
    Metric("acc_at_10", "acc_at_10", "acc_at_10", "%"),
    Metric("elevation_mae", "elevation MAE", "elevation_error", "°"),
    Metric("elevation_median", "elevation median", "elevation_error", "°", "median"),
    Metric("elevation_acc_at_10", "elevation acc_at_10", "elevation_acc_at_10", "%"),
    Metric(
        "elevation_mae_ambiguous", "elevation MAE, flat arrays", "elevation_error_ambiguous", "°"
    ),
    Metric("direction_mae", "3-D angle MAE", "direction_error", "°"),
    Metric("resolvable_mae", "3-D angle MAE up to mirror or cone", "resolvable_error", "°"),
    Metric("distance_mae", "distance MAE", "distance_error", " m"),
    Metric("distance_median", "distance median", "distance_error", " m", "median"),
    Metric("speech_accuracy", "speech / no speech", "speech_correct", "%"),
    Metric("speech_recall", "speech heard", "speech_heard", "%"),
    Metric("no_speech_recall", "no speech noticed", "no_speech_noticed", "%"),
)


def check_prediction(name: str, prediction: Mapping[str, np.ndarray], size: int) -> None:
    """InputError unless a localizer's answer has every required key, [size], and usable values.

    A localizer always names its best direction, also where it hears no speech (that it says through
    speech_probability). Its distance may be nan: it does not estimate one.
    """
    for key in REQUIRED:
        if key not in prediction:
            raise InputError(f"localizer {name!r} gave no {key!r}: it must give {list(REQUIRED)}")
        value = np.asarray(prediction[key])
        if value.shape != (size,):
            raise InputError(
                f"localizer {name!r}: {key} has shape {value.shape} for a batch of {size}"
            )
        if key != "distance" and not np.isfinite(value).all():
            row = int(np.flatnonzero(~np.isfinite(value))[0])
            raise InputError(f"localizer {name!r}: {key} of example {row} is {value[row]}")
    for key in ("speech_probability", "confidence"):
        value = np.asarray(prediction[key])
        if size and not (0 <= value.min() and value.max() <= 1 + 1e-6):
            raise InputError(f"localizer {name!r}: {key} must lie in 0..1, got {value.max():g}")


def array_shapes(mic_positions: np.ndarray, mic_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape of each array of a batch, and the direction that matters for it.

    Args:
        mic_positions: [b, m, 3] metres.
        mic_mask: [b, m] bool.

    Returns:
        index into SHAPES [b], by the same rule as `MicArray.shape`; and the unit vectors [b, 3]: a
        line's direction, a plane's normal (for volumetric arrays the thinnest direction).
    """
    mask = np.asarray(mic_mask, bool)[..., None]
    positions = np.where(mask, np.asarray(mic_positions, np.float64), 0.0)
    centred = np.where(mask, positions - positions.sum(1, keepdims=True) / mask.sum(1)[:, None], 0)
    # The singular values of the positions are the square roots of this 3 x 3 matrix's eigenvalues.
    squares, vectors = np.linalg.eigh(np.einsum("bmi,bmj->bij", centred, centred))
    extent = np.sqrt(np.maximum(squares, 0.0))
    linear = extent[:, 1] < FLATNESS * extent[:, 2]
    planar = ~linear & (extent[:, 0] < FLATNESS * extent[:, 2])
    index = np.where(linear, 0, np.where(planar, 1, 2))
    return index, np.where(linear[:, None], vectors[:, :, 2], vectors[:, :, 0])


def resolvable_error(
    shape: np.ndarray, axis: np.ndarray, truth: np.ndarray, estimate: np.ndarray
) -> np.ndarray:
    """Angle between directions as far as the array can tell them apart, degrees [b].

    truth, estimate: unit vectors [b, 3]; shape, axis: see `array_shapes`. A planar array cannot tell
    a direction from its mirror image: the nearer of the two counts. A linear one measures only the
    angle to its line: the difference of these angles counts.
    """
    plain = _angle(truth, estimate)
    height = np.sum(truth * axis, -1, keepdims=True)
    mirrored = np.minimum(plain, _angle(truth - 2 * height * axis, estimate))
    along = np.abs(_angle(truth, axis) - _angle(estimate, axis))
    return np.choose(shape, [along, mirrored, plain])


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    cross = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.degrees(np.arctan2(cross, np.sum(a * b, axis=-1)))


def per_example(
    truth: Mapping[str, np.ndarray], prediction: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Every per-example quantity of METRICS, float64 [b]; nan where it is not defined.

    Directions and distances are defined where there is speech. Elevation errors of linear and
    planar arrays, whose elevation is ambiguous, stand under a name of their own.
    """
    speech = np.asarray(truth["speech"], bool)
    value = {k: np.asarray(prediction[k], np.float64) for k in REQUIRED}
    true = {k: np.asarray(truth[k], np.float64) for k in ("azimuth", "elevation", "distance")}
    azimuth = azimuth_error(value["azimuth"], true["azimuth"])
    elevation = np.abs(value["elevation"] - true["elevation"])
    shape, axis = array_shapes(truth["mic_positions"], truth["mic_mask"])
    flat = SHAPES.index("volumetric") != shape
    # Both ends of the azimuth grid are one direction: 36 different classes.
    classes = AZIMUTH.points - 1
    same = AZIMUTH.encode(value["azimuth"]) % classes == AZIMUTH.encode(true["azimuth"]) % classes
    hears = value["speech_probability"] >= 0.5
    directions = (
        to_cartesian(true["azimuth"], true["elevation"]),
        to_cartesian(value["azimuth"], value["elevation"]),
    )

    def where(rows: np.ndarray, quantity: np.ndarray) -> np.ndarray:
        return np.where(rows, quantity, np.nan)

    return {
        "azimuth_error": where(speech, azimuth),
        "exact_class": where(speech, same),
        "acc_at_10": where(speech, azimuth <= TOLERANCE),
        "elevation_error": where(speech & ~flat, elevation),
        "elevation_acc_at_10": where(speech & ~flat, elevation <= TOLERANCE),
        "elevation_error_ambiguous": where(speech & flat, elevation),
        "direction_error": where(speech, _angle(*directions)),
        "resolvable_error": where(speech, resolvable_error(shape, axis, *directions)),
        "distance_error": where(speech, np.abs(value["distance"] - true["distance"])),
        "speech_correct": (hears == speech).astype(np.float64),
        "speech_heard": where(speech, hears),
        "no_speech_noticed": where(~speech, ~hears),
    }


def summarise(
    examples: Mapping[str, np.ndarray], rows: np.ndarray, resamples: Resamples
) -> dict[str, Interval]:
    """Every metric over the chosen examples, in its unit.

    examples: from `per_example`. rows: indices of the chosen examples. resamples: drawn for their
    clusters, in the same order.
    """
    scores = {}
    for metric in METRICS:
        values = examples[metric.source][rows] * metric.scale
        interval = median_interval if metric.statistic == "median" else mean_interval
        scores[metric.key] = interval(values, resamples)
    return scores


@dataclass(frozen=True)
class Grouping:
    """A way to divide examples: key, heading, labels, and the label index of each example [n].

    Index -1 belongs to no group.
    """

    key: str
    title: str
    labels: tuple[str, ...]
    index: np.ndarray


_RT60_EDGES = (0.25, 0.4, 0.6)
_RT60_LABELS = ("< 0.25 s", "0.25 - 0.4 s", "0.4 - 0.6 s", "> 0.6 s")
_SNR_EDGES = (-5.0, 0.0, 5.0, 10.0, 15.0)
_SNR_LABELS = ("< -5 dB", "-5..0 dB", "0..5 dB", "5..10 dB", "10..15 dB", "> 15 dB", "clean")


def groupings(truth: Mapping[str, np.ndarray]) -> list[Grouping]:
    """The groups that a report shows, over the examples with speech; empty ones are dropped.

    By number of microphones, measured RT60, SNR of speech to distractor (clean: no distractor) and
    shape of the array. A bin holds its lower edge; "10..15 dB" holds 15 as well.
    """
    speech = np.asarray(truth["speech"], bool)
    counts, mics = np.unique(np.asarray(truth["num_mics"]), return_inverse=True)
    rt60, snr = np.asarray(truth["rt60"], float), np.asarray(truth["snr_db"], float)
    rt60_index = np.where(np.isfinite(rt60), np.digitize(rt60, _RT60_EDGES), -1)
    # Labels such as 15.0000002 dB come from float32: they belong to the bin that ends at 15.
    snr_index = np.digitize(np.round(snr, 4), _SNR_EDGES)
    snr_index = np.where(np.round(snr, 4) == _SNR_EDGES[-1], 4, snr_index)
    snr_index = np.where(np.isposinf(snr), len(_SNR_LABELS) - 1, snr_index)
    shape, _ = array_shapes(truth["mic_positions"], truth["mic_mask"])
    made = (
        ("num_mics", "number of microphones", [str(c) for c in counts], mics),
        ("rt60", "reverberation time (RT60)", _RT60_LABELS, rt60_index),
        ("snr_db", "SNR of speech to distractor", _SNR_LABELS, snr_index),
        ("array_shape", "shape of the array", SHAPES, shape),
    )
    return [_filled(key, title, labels, index, speech) for key, title, labels, index in made]


def _filled(
    key: str, title: str, labels: Sequence[str], index: np.ndarray, speech: np.ndarray
) -> Grouping:
    """Drops labels that no example with speech has."""
    index = np.where(speech, index, -1)
    used = [i for i in range(len(labels)) if np.any(index == i)]
    renumbered = np.full(index.shape, -1)
    for new, old in enumerate(used):
        renumbered[index == old] = new
    return Grouping(key, title, tuple(labels[i] for i in used), renumbered)
