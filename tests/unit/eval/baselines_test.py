# SPDX-License-Identifier: Apache-2.0
"""Baselines on plane waves of known direction, and our SRP-PHAT against pyroomacoustics'."""

from __future__ import annotations

import numpy as np
import pytest

from spatial_core.errors import InputError
from spatial_core.eval.baselines import PyroomNormMusic, PyroomSrpPhat, SteeredResponse
from spatial_core.eval.doa import check_prediction
from spatial_core.eval.steered import fibonacci_sphere
from spatial_core.geometry.coords import great_circle, to_spherical
from tests.unit.eval.scenes import free_field, plane_wave


def angle(prediction, batch):
    return great_circle(
        prediction["azimuth"], prediction["elevation"], batch["azimuth"], batch["elevation"]
    )


def test_steered_response_is_finer_than_its_grid():
    batch = free_field(24)
    prediction = SteeredResponse().predict(batch)
    check_prediction("steered", prediction, 24)
    error = angle(prediction, batch)
    assert error.mean() < 0.15
    assert error.max() < 0.6
    assert np.isnan(prediction["distance"]).all()
    assert prediction["confidence"].min() > 0.8


@pytest.mark.parametrize("localizer", [PyroomSrpPhat(), PyroomNormMusic()])
def test_pyroomacoustics_conventions(localizer):
    # Directions on every side and both signs of elevation: within the grid's spacing of 4 degrees.
    batch = free_field(4, seed=3)
    prediction = localizer.predict(batch)
    check_prediction("pyroom", prediction, 4)
    assert angle(prediction, batch).max() < 4
    assert prediction["confidence"].min() > 0.8


def test_our_map_is_pyroomacoustics_map():
    batch = free_field(2, noise=1.0, seed=5)
    theirs = PyroomSrpPhat(directions=300)
    ours = SteeredResponse(nfft=512)
    for i in range(2):
        count = int(batch["num_mics"][i])
        grid = theirs.locate(batch["audio"][i, :count], batch["mic_positions"][i, :count]).grid
        pairs = count * (count - 1) / 2
        coherence = (np.asarray(grid.values) - count / pairs) / 2
        row = {k: v[i : i + 1] for k, v in batch.items()}
        mapped = ours.power_map(row, np.asarray(grid.cartesian).T)[0]
        # What is left is the linear interpolation between eighths of a sample.
        assert np.abs(mapped - coherence).max() < 0.005
        assert np.corrcoef(mapped, coherence)[0, 1] > 0.9999


def test_fibonacci_sphere_covers_evenly():
    grid = fibonacci_sphere(2562)
    np.testing.assert_allclose(np.linalg.norm(grid, axis=1), 1, rtol=1e-6)
    probes = fibonacci_sphere(199)
    nearest = np.degrees(np.arccos(np.clip((probes @ grid.T).max(axis=1), -1, 1)))
    assert nearest.max() < 3.5


def test_padding_and_garbage_in_masked_channels_change_nothing():
    alone = free_field(3, max_mics=5, mics=5, seed=7)
    padded = {k: v.copy() for k, v in alone.items()}
    rng = np.random.default_rng(0)
    padded["audio"] = np.concatenate(
        [alone["audio"], rng.normal(size=(3, 3, 4000)).astype(np.float32)], axis=1
    )
    padded["mic_positions"] = np.concatenate(
        [alone["mic_positions"], rng.normal(size=(3, 3, 3)).astype(np.float32)], axis=1
    )
    padded["mic_mask"] = np.concatenate([alone["mic_mask"], np.zeros((3, 3), bool)], axis=1)
    one, other = SteeredResponse().predict(alone), SteeredResponse().predict(padded)
    np.testing.assert_allclose(one["azimuth"], other["azimuth"], atol=1e-3)
    np.testing.assert_allclose(one["elevation"], other["elevation"], atol=1e-3)
    np.testing.assert_allclose(one["confidence"], other["confidence"], atol=1e-5)


def test_an_answer_does_not_depend_on_the_rest_of_the_batch():
    batch = free_field(6, seed=9)
    together = SteeredResponse().predict(batch)["azimuth"]
    single = [
        SteeredResponse().predict({k: v[i : i + 1] for k, v in batch.items()})["azimuth"][0]
        for i in range(6)
    ]
    np.testing.assert_allclose(together, single, atol=0.02)


@pytest.mark.parametrize("elevation", [90.0, -90.0, 85.0])
def test_straight_up_and_down(elevation):
    rng = np.random.default_rng(2)
    positions = 0.05 * rng.uniform(-1, 1, (6, 3))
    batch = free_field(1, mics=6, max_mics=6)
    batch["mic_positions"][0] = positions - positions.mean(axis=0)
    batch["audio"][0] = plane_wave(batch["mic_positions"][0], 30.0, elevation, rng)
    prediction = SteeredResponse().predict(batch)
    assert great_circle(prediction["azimuth"], prediction["elevation"], 30.0, elevation)[0] < 0.5


def test_two_microphones_find_their_cone():
    rng = np.random.default_rng(3)
    batch = free_field(1, mics=2, max_mics=2)
    batch["mic_positions"][0] = [[0.1, 0, 0], [-0.1, 0, 0]]
    batch["audio"][0] = plane_wave(batch["mic_positions"][0], 60.0, 0.0, rng)
    prediction = SteeredResponse().predict(batch)
    found = np.radians(prediction["azimuth"][0]), np.radians(prediction["elevation"][0])
    to_line = np.degrees(np.arccos(np.cos(found[1]) * np.cos(found[0])))
    assert to_line == pytest.approx(60, abs=0.5)


def test_silence_gets_an_answer_without_confidence():
    batch = free_field(2)
    batch["audio"][:] = 0
    prediction = SteeredResponse().predict(batch)
    check_prediction("steered", prediction, 2)
    assert prediction["confidence"].max() < 0.05


def test_confidence_falls_with_noise():
    means = [
        SteeredResponse().predict(free_field(12, noise=n, seed=1))["confidence"].mean()
        for n in (0.1, 1.0, 4.0)
    ]
    assert means[0] > means[1] > means[2]


def test_impossible_settings_are_refused():
    batch = free_field(1)
    with pytest.raises(InputError, match="band"):
        SteeredResponse(band=(7000.0, 300.0)).predict(batch)
    with pytest.raises(InputError, match="smaller nfft"):
        SteeredResponse(nfft=8192).predict(batch)
    batch["mic_mask"][:] = np.arange(8) < 1
    with pytest.raises(InputError, match="2 microphones"):
        SteeredResponse().predict(batch)


def test_refinement_ends_at_the_peak_of_the_map():
    batch = free_field(1, seed=11)
    prediction = SteeredResponse().predict(batch)
    grid = fibonacci_sphere(40_000)
    power = SteeredResponse().power_map(batch, grid)[0]
    azimuth, elevation, _ = to_spherical(grid[int(power.argmax())])
    assert great_circle(prediction["azimuth"], prediction["elevation"], azimuth, elevation)[0] < 1.0
