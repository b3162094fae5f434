# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math

import numpy as np
import pytest

from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray, preset
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.rir import PyroomSimulator
from spatial_core.sim.rooms import RoomConfig
from spatial_core.sim.scene import (
    SceneConfig,
    SceneSpec,
    sample_scene,
    simulate_scenes,
    vary_scene,
)


def scenes(config: SceneConfig, count: int, seed: int = 0) -> list[SceneSpec]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, config) for _ in range(count)]


def test_default_scenes_follow_the_recipe() -> None:
    drawn = scenes(SceneConfig(), 400)
    assert {spec.num_mics for spec in drawn} == {3, 4, 5, 6, 7, 8}
    speech = np.mean([spec.speech for spec in drawn])
    assert 0.91 < speech < 0.99
    assert 0.91 < np.mean([spec.distractor for spec in drawn]) < 0.98
    for spec in drawn:
        sides = np.asarray(spec.room.dimensions)
        points = np.concatenate(
            [spec.array_positions, spec.source[None], spec.distractor_source[None]]
        )
        assert np.all(points > 0.0999) and np.all(points < sides - 0.0999)
        gaps = np.linalg.norm(spec.array_positions[:, None] - spec.array_positions, axis=-1)
        assert gaps[np.triu_indices(spec.num_mics, 1)].min() >= 0.01
        assert gaps.max() <= 0.18
        for source in (spec.source, spec.distractor_source):
            assert np.linalg.norm(source - spec.centroid) >= 0.1
            assert np.linalg.norm(source - spec.array_positions, axis=1).min() >= 0.02
        assert -10 <= spec.gain_db <= 10 and 20 <= spec.sensor_noise_db <= 60
        if spec.distractor:
            assert -5 <= spec.snr_db <= 15
        else:
            assert spec.snr_db == math.inf


def test_labels_are_angles_about_the_centroid() -> None:
    for spec in scenes(SceneConfig(speech_dropout=0.0), 50):
        labels = spec.labels()
        x, y, z = spec.source - spec.array_positions.mean(axis=0)
        turn = math.radians(spec.yaw)
        x, y = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
        assert labels["azimuth"] == pytest.approx(math.degrees(math.atan2(y, x)), abs=1e-9)
        assert labels["elevation"] == pytest.approx(
            math.degrees(math.asin(z / math.sqrt(x * x + y * y + z * z))), abs=1e-9
        )
        assert labels["distance"] == pytest.approx(math.sqrt(x * x + y * y + z * z), abs=1e-12)
        back = spec.to_room_azimuth(labels["azimuth"])
        ahead = spec.source - spec.centroid
        assert math.cos(math.radians(back) - math.atan2(ahead[1], ahead[0])) > 1 - 1e-12
        np.testing.assert_allclose(spec.mic_positions().mean(axis=0), 0, atol=1e-12)
        # Turning the frame keeps every distance between source and microphones.
        source = spec.to_array_frame(spec.source)
        np.testing.assert_allclose(
            np.linalg.norm(source - spec.mic_positions(), axis=1),
            np.linalg.norm(spec.source - spec.array_positions, axis=1),
        )


def test_dropped_speech_has_zero_labels() -> None:
    (spec,) = scenes(SceneConfig(speech_dropout=1.0), 1)
    assert spec.labels() == {"azimuth": 0.0, "elevation": 0.0, "distance": 0.0, "speech": False}


def test_directions_are_spread_over_the_circle() -> None:
    azimuths = [s.labels()["azimuth"] for s in scenes(SceneConfig(speech_dropout=0.0), 480)]
    counts, _ = np.histogram(azimuths, bins=8, range=(-180, 180))
    assert counts.min() > 32 and counts.max() < 88  # 60 expected, standard deviation 7


def test_options_of_a_fixed_device() -> None:
    array = preset("respeaker_4mic")
    config = SceneConfig(
        array=array, max_rt60=0.5, max_source_distance=2.0, distractor=False, random_yaw=False
    )
    drawn = scenes(config, 30)
    for spec in drawn:
        np.testing.assert_allclose(spec.mic_positions(), array.centred, atol=1e-12)
        assert spec.distractor_source is None and not spec.distractor and spec.snr_db == math.inf
        assert np.linalg.norm(spec.source - spec.centroid) <= 2.0
        assert spec.room.decay().rt60() <= 0.5
    turned = scenes(SceneConfig(array=array), 5)
    for spec in turned:  # turned in the room, but not in its own frame
        np.testing.assert_allclose(spec.mic_positions(), array.centred, atol=1e-12)
    assert config.padded_mics == 4 and SceneConfig().padded_mics == 8
    assert {s.num_mics for s in scenes(SceneConfig(min_mics=4), 40)} == {4, 5, 6, 7, 8}


def test_jitter_and_mismatch_are_hidden_from_the_labels() -> None:
    (spec,) = scenes(SceneConfig(position_jitter_m=0.003, gain_mismatch_db=1.0), 1)
    moved = np.linalg.norm(spec.true_positions - spec.array_positions, axis=1)
    assert 0 < moved.max() < 0.03 and np.ptp(spec.channel_gains_db) > 0
    (plain,) = scenes(SceneConfig(), 1)
    np.testing.assert_array_equal(plain.true_positions, plain.array_positions)
    assert not plain.channel_gains_db.any()


def test_varied_scene_keeps_the_room_and_draws_new_levels() -> None:
    rng = np.random.default_rng(4)
    config = SceneConfig()
    spec = sample_scene(rng, config)
    other = vary_scene(rng, spec, config)
    assert other.room is spec.room and other.source is spec.source and other.yaw == spec.yaw
    assert (other.gain_db, other.seed) != (spec.gain_db, spec.seed)


def test_same_seed_same_scene_and_json_round_trip() -> None:
    a, b = scenes(SceneConfig(), 3, seed=9), scenes(SceneConfig(), 3, seed=9)
    for x, y in zip(a, b):
        assert x.to_dict() == y.to_dict()
        back = SceneSpec.from_dict(json.loads(json.dumps(x.to_dict())))
        assert back.to_dict() == x.to_dict() and back.room == x.room
        np.testing.assert_array_equal(back.source, x.source)


def test_impossible_scenes_are_refused() -> None:
    rng = np.random.default_rng(0)
    large = MicArray(np.array([[0.0, 0, 0], [4.9, 0, 0], [0, 0.1, 0]]), "long")
    small_rooms = RoomConfig(max_dimensions=(3.0, 3.0, 2.5))
    with pytest.raises(InputError, match="no place for an array of"):
        sample_scene(rng, SceneConfig(array=large, room=small_rooms))
    with pytest.raises(InputError, match="no place"):
        sample_scene(rng, SceneConfig(min_source_distance=20.0))
    with pytest.raises(InputError, match="do not fit into a ball"):
        sample_scene(rng, SceneConfig(min_mics=64, max_mics=64, array_diameter=(0.03, 0.03)))
    for wrong in (
        {"min_mics": 1},
        {"min_mics": 9},
        {"array_diameter": (70.0, 180.0)},
        {"max_source_distance": 0.05},
        {"speech_dropout": 5.0},
        {"max_rt60": 0.05},
    ):
        with pytest.raises(InputError):
            SceneConfig(**wrong)  # type: ignore[arg-type]


def test_simulated_scenes_match_single_simulations() -> None:
    specs = scenes(SceneConfig(), 3)
    specs.append(scenes(SceneConfig(distractor=False), 1)[0])
    simulator = FastSimulator(taps=2000)
    rirs, distractors = simulate_scenes(simulator, specs, 8)
    assert rirs.shape == (4, 8, 2000) and distractors is not None
    for spec, rir, other in zip(specs, rirs, distractors):
        m = spec.num_mics
        alone = simulator.simulate(spec.room, spec.source, spec.true_positions, spec.seed)
        np.testing.assert_array_equal(rir[:m], alone)
        assert not rir[m:].any()
        assert bool(other.any()) == (spec.distractor_source is not None)
    clean, none = simulate_scenes(PyroomSimulator(taps=500, max_order=1), specs[3:], 8)
    assert none is None and clean.shape == (1, 8, 500)
    with pytest.raises(InputError, match="room for 2 only"):
        simulate_scenes(simulator, specs, 2)
