# SPDX-License-Identifier: Apache-2.0
"""Soft targets and decoding: what goes in comes out, across the wrap and at the poles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phasecoder import posterior
from phasecoder.plus import (
    ELEVATION_CELLS,
    azimuth_cells,
    coarse_direction,
    zoom_answer,
    zoom_target,
)
from phasecoder.task import PhaseCoderTask, config_from_json, nearest_class
from spatial_core.errors import InputError
from spatial_core.geometry.bins import AZIMUTH, DISTANCE, ELEVATION

ANGLES = np.array([-180.0, -177.3, -94.9, -0.1, 0.0, 3.3, 45.0, 88.0, 175.5, 179.9], np.float32)


def test_azimuth_survives_encoding_and_decoding():
    target = posterior.circular_target(ANGLES, posterior.AZIMUTH_POINTS, 6.0)
    error = np.abs(
        posterior.wrap(posterior.circular_peak(target, posterior.AZIMUTH_POINTS) - ANGLES)
    )
    assert np.max(error) < 0.6  # the rest of a 6-degree bump cut at the neighbourhood's edge


@pytest.mark.parametrize("elevation", [-60.0, -12.0, 0.0, 7.0, 50.0])
def test_sphere_target_decodes_to_its_direction(elevation: float):
    el = np.full_like(ANGLES, elevation)
    target = posterior.sphere_target(ANGLES, el, azimuth_cells(), ELEVATION_CELLS, 6.0)
    np.testing.assert_allclose(target.sum(-1), 1.0, atol=1e-5)
    sphere = jnp.log(posterior.with_absence(target, np.ones(len(el), bool)) + 1e-9)
    found = coarse_direction(sphere)
    assert np.max(np.abs(posterior.wrap(found[:, 0] - ANGLES))) < 0.7
    # 11.25-degree rows against a 6-degree bump.
    assert np.max(np.abs(found[:, 1] - el)) < 2.0


@pytest.mark.parametrize("elevation", [-70.0, 0.0, 35.0])
@pytest.mark.parametrize("miss", [(0.0, 0.0), (6.0, -5.0), (-7.0, 8.0)])
def test_zoom_recovers_what_the_coarse_answer_missed(elevation: float, miss: tuple[float, float]):
    el = np.full_like(ANGLES, elevation)
    off = miss[0] / np.cos(np.radians(elevation))
    centre = jnp.stack([posterior.wrap(ANGLES + off), el + miss[1]], axis=-1)
    target, inside = zoom_target(centre, ANGLES, el, 2.5)
    assert np.all(inside)
    answer = zoom_answer(centre, jnp.log(target + 1e-9))
    # The bump is cut by the window's edge, most where the miss is largest and meridians converge.
    turn = np.abs(posterior.wrap(answer[:, 0] - ANGLES)) * np.cos(np.radians(elevation))
    assert np.max(turn) < 0.9
    assert np.max(np.abs(answer[:, 1] - el)) < 0.9


def test_zoom_says_when_the_truth_is_outside_its_window():
    centre = jnp.array([[170.0, 0.0], [170.0, 0.0], [0.0, 40.0]])
    truth = np.array([-179.0, -170.0, 0.0], np.float32), np.array([0.0, 0.0, 20.0], np.float32)
    _, inside = zoom_target(centre, *truth, 2.5)
    assert inside.tolist() == [True, False, False]


def test_decoded_answer_is_the_zooms_with_the_posteriors_confidence():
    target = posterior.sphere_target(ANGLES, 0 * ANGLES, azimuth_cells(), ELEVATION_CELLS, 3.0)
    speech = np.arange(len(ANGLES)) % 2 == 0
    logits = {
        "sphere_logits": jnp.log(posterior.with_absence(target, speech) + 1e-9),
        "zoom_answer": jnp.stack([ANGLES, 0 * ANGLES], axis=-1),
        "distance_logits": jnp.zeros((len(ANGLES), 13)).at[:, 4].set(50.0),
        "token": jnp.zeros((len(ANGLES), 256)),
    }
    answer = posterior.decode_sphere(logits, azimuth_cells(), ELEVATION_CELLS, 1.0)
    np.testing.assert_allclose(answer["azimuth"], ANGLES)
    np.testing.assert_array_equal(answer["speech_probability"] > 0.5, speech)
    assert np.min(answer["confidence"][speech]) > 0.95
    np.testing.assert_allclose(answer["distance"], DISTANCE.centres[4], rtol=1e-5)


def test_zenith_spreads_over_all_azimuths():
    target = posterior.sphere_target(
        np.zeros(1, np.float32), np.full(1, 90.0, np.float32), azimuth_cells(), ELEVATION_CELLS, 6.0
    )
    marginal = np.asarray(target).reshape(72, 17).sum(1)
    np.testing.assert_allclose(marginal, 1 / 72, atol=1e-4)


def test_absence_takes_all_the_weight():
    target = posterior.with_absence(jnp.full((2, 4), 0.25), jnp.array([True, False]))
    np.testing.assert_allclose(target, [[0.25] * 4 + [0], [0, 0, 0, 0, 1]])


def test_both_ends_of_azimuth_are_one_direction():
    logits = jnp.full((1, 38), -20.0).at[0, 0].set(3.0).at[0, 36].set(3.0)
    merged = jax.nn.softmax(posterior.merge_ends(logits))
    assert merged.shape == (1, 37)
    assert merged[0, 0] > 0.999
    assert abs(float(posterior.circular_peak(merged[:, :-1], posterior.AZIMUTH_POINTS)[0])) == 180


def test_confidence_is_the_mass_within_ten_degrees():
    points = azimuth_cells()
    probs = np.full((1, 72), 1 / 72, np.float32)
    got = posterior.mass_within(probs, points, np.array([points[10]], np.float32), 10.0)
    assert float(got[0]) == pytest.approx(20 / 360, rel=1e-5)


def test_nearest_class_agrees_with_the_grids():
    rng = np.random.default_rng(0)
    for grid in (AZIMUTH, ELEVATION, DISTANCE):
        values = rng.uniform(grid.low, grid.high, 500).astype(np.float32)
        speech = rng.uniform(size=500) > 0.1
        np.testing.assert_array_equal(
            nearest_class(grid, values, speech), grid.encode(values, speech)
        )


def test_unknown_family_and_field_are_refused():
    with pytest.raises(InputError, match="tiny"):
        config_from_json({"family": "tiny"})
    with pytest.raises(InputError, match="depth"):
        config_from_json({"family": "plus", "depth": 3})
    with pytest.raises(InputError, match="targets"):
        PhaseCoderTask(targets="hard")
