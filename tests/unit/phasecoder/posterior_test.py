# SPDX-License-Identifier: Apache-2.0
"""Soft targets and decoding: what goes in comes out, across the wrap and at the poles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phasecoder import posterior
from phasecoder.plus import ELEVATION_CELLS, azimuth_cells
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
    logits = jnp.log(posterior.with_absence(target, np.ones(len(el), bool)) + 1e-9)
    answer = posterior.decode_sphere(
        {
            "sphere_logits": logits,
            "distance_logits": jnp.zeros((len(el), 13)),
            "token": jnp.zeros((len(el), 256)),
        },
        azimuth_cells(),
        ELEVATION_CELLS,
        1.0,
    )
    assert np.max(np.abs(posterior.wrap(answer["azimuth"] - ANGLES))) < 0.7
    # 11.25-degree rows against a 6-degree bump, cut at 20 degrees.
    assert np.max(np.abs(answer["elevation"] - el)) < 2.0
    assert np.min(answer["speech_probability"]) > 0.99


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
