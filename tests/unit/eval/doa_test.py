# SPDX-License-Identifier: Apache-2.0
"""Metrics: wrap-around, classes, ambiguity of flat arrays, groups."""

from __future__ import annotations

import numpy as np
import pytest

from spatial_core.errors import InputError
from spatial_core.eval.bootstrap import draw
from spatial_core.eval.doa import (
    METRICS,
    SHAPES,
    array_shapes,
    check_prediction,
    groupings,
    per_example,
    resolvable_error,
    summarise,
)
from spatial_core.geometry.arrays import PRESETS, MicArray, preset
from spatial_core.geometry.coords import to_cartesian


def scenes(azimuth, elevation=0.0, *, positions=None, speech=True, rt60=0.3, snr_db=np.inf):
    azimuth = np.atleast_1d(np.asarray(azimuth, float))
    size = len(azimuth)
    mics = preset("tetrahedron").centred if positions is None else positions
    return {
        "azimuth": azimuth,
        "elevation": np.broadcast_to(np.asarray(elevation, float), size),
        "distance": np.full(size, 2.0),
        "speech": np.broadcast_to(speech, size),
        "rt60": np.broadcast_to(np.asarray(rt60, float), size),
        "snr_db": np.broadcast_to(np.asarray(snr_db, float), size),
        "num_mics": np.full(size, len(mics)),
        "example_id": np.arange(size),
        "mic_positions": np.broadcast_to(mics, (size, *mics.shape)),
        "mic_mask": np.ones((size, len(mics)), bool),
    }


def answers(azimuth, elevation=0.0, distance=2.0, speech_probability=1.0, confidence=0.5):
    azimuth = np.atleast_1d(np.asarray(azimuth, float))
    return {
        "azimuth": azimuth,
        "elevation": np.broadcast_to(np.asarray(elevation, float), azimuth.shape),
        "distance": np.broadcast_to(np.asarray(distance, float), azimuth.shape),
        "speech_probability": np.broadcast_to(np.asarray(speech_probability, float), azimuth.shape),
        "confidence": np.broadcast_to(np.asarray(confidence, float), azimuth.shape),
    }


def test_azimuth_errors_go_the_short_way_round():
    values = per_example(scenes([179, -179, 0, 90]), answers([-179, 179, 170, -90]))
    np.testing.assert_allclose(values["azimuth_error"], [2, 2, 170, 180])
    np.testing.assert_array_equal(values["acc_at_10"], [1, 1, 0, 0])


def test_exact_class_joins_both_ends_and_differs_from_acc_at_10():
    # 179 lies in the class at 180, -179 in the one at -180: one direction, one class.
    # 4 and 6 are two degrees apart but in the classes at 0 and 10; 6 and 14 share one.
    values = per_example(scenes([179, 4, 6, 174]), answers([-179, 6, 14, -176]))
    np.testing.assert_array_equal(values["exact_class"], [1, 0, 1, 0])
    np.testing.assert_array_equal(values["acc_at_10"], [1, 1, 1, 1])


def test_only_speech_has_directions_and_the_decision_is_scored_on_everything():
    truth = scenes([10, 20, 30, 40], speech=np.array([True, True, False, False]))
    values = per_example(truth, answers([10, 25, 90, 90], speech_probability=[0.9, 0.2, 0.1, 0.8]))
    assert np.isfinite(values["azimuth_error"]).tolist() == [True, True, False, False]
    assert values["speech_correct"].tolist() == [1, 0, 1, 0]
    scores = summarise(values, np.arange(4), draw(np.arange(4), 0))
    assert scores["azimuth_mae"].value == 2.5
    assert scores["azimuth_mae"].count == 2
    assert scores["speech_accuracy"].value == 50
    assert scores["speech_recall"].value == 50
    assert scores["no_speech_recall"].value == 50


def test_every_metric_has_a_source():
    values = per_example(scenes([1.0]), answers([2.0]))
    assert {metric.source for metric in METRICS} <= set(values)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_shapes_agree_with_the_array_class_also_when_padded(name):
    array = preset(name)
    padded = np.vstack([array.centred + 0.3, np.full((3, 3), 7.0)])  # uncentred, garbage padding
    mask = np.arange(len(padded)) < array.num_mics
    index, axis = array_shapes(padded[None], mask[None])
    assert SHAPES[index[0]] == array.shape
    if array.shape != "volumetric":
        expected = array.axes[0 if array.shape == "linear" else 2]
        assert abs(axis[0] @ expected) == pytest.approx(1)


def test_three_microphones_are_flat_however_they_stand():
    mics = np.random.default_rng(0).normal(size=(50, 3, 3))
    index, _ = array_shapes(mics, np.ones((50, 3), bool))
    assert set(SHAPES[i] for i in index) <= {"planar", "linear"}


def test_elevation_of_flat_arrays_is_kept_apart():
    flat = per_example(
        scenes([0], 30, positions=preset("square_4").centred), answers([0], elevation=-30)
    )
    assert np.isnan(flat["elevation_error"][0])
    assert flat["elevation_error_ambiguous"][0] == 60
    assert flat["direction_error"][0] == pytest.approx(60)
    # The mirror image in the plane is the best that any method can know.
    assert flat["resolvable_error"][0] == pytest.approx(0, abs=1e-9)
    solid = per_example(scenes([0], 30), answers([0], elevation=-30))
    assert solid["elevation_error"][0] == 60
    assert solid["resolvable_error"][0] == pytest.approx(60)


def test_resolvable_error_of_a_tilted_plane_follows_the_array_s_mirror():
    rng = np.random.default_rng(1)
    array = MicArray(rng.normal(size=(3, 3)) * 0.05)
    azimuth, elevation = rng.uniform(-180, 180, 20), rng.uniform(-80, 80, 20)
    truth = to_cartesian(azimuth, elevation)
    normal = np.cross(*(array.positions[1:] - array.positions[0]))
    normal /= np.linalg.norm(normal)
    mirrored = truth - 2 * np.outer(truth @ normal, normal)
    shape, axis = array_shapes(array.centred[None], np.ones((1, 3), bool))
    error = resolvable_error(np.repeat(shape, 20), np.repeat(axis, 20, 0), truth, mirrored)
    np.testing.assert_allclose(error, 0, atol=1e-6)


def test_a_line_measures_only_the_angle_to_itself():
    line = preset("line_4").centred
    values = per_example(scenes([60, 60], positions=line), answers([-60, 0], elevation=[0, 45]))
    # -60 is on the same cone about x; (0, 45) is 45 degrees off the line instead of 60.
    np.testing.assert_allclose(values["resolvable_error"], [0, 15], atol=1e-6)


def test_groups_cover_each_example_with_speech_once():
    truth = scenes(
        np.zeros(9),
        rt60=[0.1, 0.25, 0.39, 0.4, 0.6, 0.9, 0.3, 0.3, 0.3],
        snr_db=[-5, -0.1, 0, 5, 10, 15, 15.0000005, np.inf, -9],
        speech=np.arange(9) != 6,
    )
    by_key = {g.key: g for g in groupings(truth)}

    def labels(key):
        group = by_key[key]
        return [group.labels[i] if i >= 0 else None for i in group.index]

    assert labels("rt60") == [
        "< 0.25 s",
        "0.25 - 0.4 s",
        "0.25 - 0.4 s",
        "0.4 - 0.6 s",
        "> 0.6 s",
        "> 0.6 s",
        None,
        "0.25 - 0.4 s",
        "0.25 - 0.4 s",
    ]
    assert labels("snr_db") == [
        "-5..0 dB",
        "-5..0 dB",
        "0..5 dB",
        "5..10 dB",
        "10..15 dB",
        "10..15 dB",
        None,
        "clean",
        "< -5 dB",
    ]
    assert by_key["num_mics"].labels == ("4",)
    assert by_key["array_shape"].labels == ("volumetric",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"azimuth": np.array([np.nan, 1.0])}, "azimuth of example 0 is nan"),
        ({"confidence": np.array([0.5, 1.5])}, "confidence must lie in 0..1"),
        ({"elevation": np.zeros(3)}, r"elevation has shape \(3,\)"),
    ],
)
def test_unusable_answers_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        check_prediction("x", answers([0.0, 1.0]) | change, 2)


def test_a_missing_key_is_named_and_a_missing_distance_is_fine():
    good = answers([0.0], distance=np.nan)
    check_prediction("x", good, 1)
    good.pop("confidence")
    with pytest.raises(InputError, match="'confidence'"):
        check_prediction("x", good, 1)
