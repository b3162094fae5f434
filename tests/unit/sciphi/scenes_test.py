# SPDX-License-Identifier: Apache-2.0
"""Scenes hold what their truth says: counts, times, levels, directions, backgrounds, splits."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from sciphi.records import FOA_RATE, Scene
from sciphi.rooms import make_room
from sciphi.scenes import FoaSceneConfig, FoaScenes
from sciphi.synthesis import background_of, endless
from spatial_core.audio import ambisonics, levels
from spatial_core.errors import InputError
from spatial_core.geometry.coords import great_circle, to_spherical
from spatial_core.sim.rooms import RoomSpec

CONFIG = FoaSceneConfig(seconds=5.0, scenes_per_room=8, sensor_noise=(-120.0, -120.0))
ALONE = replace(CONFIG, max_sources=1, background_share=0.0)


@pytest.fixture(scope="module")
def mixed() -> list[Scene]:
    return [scene for scene in map(FoaScenes(CONFIG, 0, "train"), range(24))]


@pytest.fixture(scope="module")
def alone() -> list[Scene]:
    return [scene for scene in map(FoaScenes(ALONE, 0, "train"), range(12))]


@contextlib.contextmanager
def anechoic() -> Iterator[None]:
    """Rooms without reflections."""
    with pytest.MonkeyPatch.context() as patch:
        walls = RoomSpec((12.0, 10.0, 6.0), (1.0,) * 6)
        patch.setattr("sciphi.rooms.sample_room", lambda rng, config: walls)
        yield


@pytest.fixture(scope="module")
def free() -> list[Scene]:
    with anechoic():
        return [scene for scene in map(FoaScenes(ALONE, 0, "train"), range(12))]


def test_a_scene_is_a_pure_function_of_its_address(mixed: list[Scene]) -> None:
    again = FoaScenes(CONFIG, 0, "train")
    for index in (17, 3, 20):  # in another order
        scene = again(index)
        np.testing.assert_array_equal(scene.foa, mixed[index].foa)
        assert scene.truth == mixed[index].truth and scene.key == mixed[index].key
    assert FoaScenes(CONFIG, 1, "train")(3).truth != mixed[3].truth


def test_counts_are_balanced_and_sources_differ(mixed: list[Scene]) -> None:
    assert Counter(len(scene.truth.sources) for scene in mixed) == {1: 6, 2: 6, 3: 6, 4: 6}
    for scene in mixed:
        truth = scene.truth
        places = {(source.azimuth, source.elevation) for source in truth.sources}
        labels = [source.label for source in truth.sources if source.kind == "event"]
        said = [source.transcript for source in truth.sources if source.kind == "speech"]
        assert len(places) == len(truth.sources)
        assert len(set(labels)) == len(labels) and len(set(said)) == len(said)
        assert truth.background not in labels
        assert [source.onset for source in truth.sources] == sorted(
            source.onset for source in truth.sources
        )
    kinds = Counter(source.kind for scene in mixed for source in scene.truth.sources)
    assert 0.3 < kinds["speech"] / kinds.total() < 0.7  # 60 draws of a half


def test_audio_is_four_channels_within_full_scale(mixed: list[Scene]) -> None:
    for scene in mixed:
        assert scene.foa.shape == (4, 5 * FOA_RATE) and np.abs(scene.foa).max() <= 0.98
        assert np.isfinite(scene.foa).all()
        assert all(source.offset <= 5.0 for source in scene.truth.sources)


def test_speech_tells_its_words_and_events_their_caption(mixed: list[Scene]) -> None:
    for source in (source for scene in mixed for source in scene.truth.sources):
        if source.kind == "speech":
            assert source.label in ("English female speech", "English male speech")
            assert source.label.endswith(source.category) and source.transcript
        else:
            assert source.transcript is None and source.label.startswith(
                ("a ", "an ", "the ", "fingers", "harmonics")
            )


def test_levels_are_those_of_the_audio(alone: list[Scene]) -> None:
    for scene in alone:
        (source,) = scene.truth.sources
        part = scene.foa[0, round(source.onset * FOA_RATE) : round(source.offset * FOA_RATE)]
        # 0.02 dB: the sensor's noise, and rounding to samples
        assert levels.a_weighted_db(part, FOA_RATE) == pytest.approx(source.loudness, abs=0.02)


def test_nothing_is_heard_before_the_onset(alone: list[Scene]) -> None:
    for scene in alone:
        (source,) = scene.truth.sources
        onset = round(source.onset * FOA_RATE)
        if onset > 2000:
            before = levels.rms_db(scene.foa[0, : onset - 240])
            assert before < source.loudness - 50


def test_a_lone_source_is_where_its_truth_says(free: list[Scene], alone: list[Scene]) -> None:
    """Within 2 degrees without walls; with them the mean intensity of most scenes still points that way."""
    for scene in free:
        (source,) = scene.truth.sources
        found = ambisonics.intensity_direction(scene.foa)
        assert great_circle(*found, source.azimuth, source.elevation) < 2
    errors = []
    for scene in alone:
        (source,) = scene.truth.sources
        found = ambisonics.intensity_direction(scene.foa)
        errors.append(great_circle(*found, source.azimuth, source.elevation))
    assert np.median(errors) < 20


def test_turning_a_scene_turns_its_truth(free: list[Scene]) -> None:
    turn = (70.0, 20.0, -35.0)
    for scene in free[:4]:
        (source,) = scene.truth.sources
        here = ambisonics.encode_plane_wave(source.azimuth, source.elevation)[[3, 1, 2]]
        azimuth, elevation, _ = to_spherical(ambisonics.rotation(*turn) @ here)
        found = ambisonics.intensity_direction(ambisonics.rotate(scene.foa, *turn))
        assert great_circle(*found, azimuth, elevation) < 2


def test_distance_is_time_and_level() -> None:
    """The direct sound of a place d metres off has 1 / d of the amplitude, d / 343 s late."""
    with anechoic():
        room = make_room(CONFIG.room, 0, "train", 0)
    for rirs, distance in zip(room.rirs, room.distance):
        assert abs(int(np.abs(rirs[0]).argmax()) - distance / 343 * FOA_RATE) <= 1
        assert rirs[0].sum() * distance == pytest.approx(1, abs=1e-3)
    assert np.all(room.c50 == 60) and room.rt60 < 0.02


def test_a_background_comes_from_everywhere() -> None:
    """Isotropic noise has 1/3 of W's power in each of X, Y and Z, and next to no net flow."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(4 * FOA_RATE).astype(np.float32)
    for index in range(3):
        room = make_room(CONFIG.room, 0, "train", index)
        heard = background_of(rng, noise, room, 5 * FOA_RATE, -40.0)
        assert levels.a_weighted_db(heard[0], FOA_RATE) == pytest.approx(-40, abs=0.1)
        assert ambisonics.diffuseness(heard) > 0.8
        power = np.mean(np.square(heard, dtype=np.float64), axis=1)
        assert 10 * np.log10(power[1:] / power[0]) == pytest.approx(-4.8, abs=2.5)


def test_all_places_at_once_are_the_sum_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one circular convolution against 64 plain ones of the same loop from its own moment."""
    room = make_room(replace(CONFIG.room, positions=5), 0, "train", 1)
    samples = 20_000
    clip = np.random.default_rng(1).standard_normal(9000).astype(np.float32)
    monkeypatch.setattr("sciphi.synthesis.random_filter", lambda rng, dry: dry)
    found = background_of(np.random.default_rng(2), clip, room, samples, -30.0)
    rng, expected, size = np.random.default_rng(2), np.zeros((4, samples)), 20_000
    loop = np.tile(endless(clip, size), 4)
    for rirs, distance in zip(room.rirs, room.distance):
        shift = int(rng.integers(size))
        heard = loop[2 * size - shift - rirs.shape[1] + 1 : 3 * size - shift]
        for channel in range(4):
            expected[channel] += distance * np.convolve(heard, rirs[channel], "valid")
    expected *= 10 ** ((-30 - levels.a_weighted_db(expected[0], FOA_RATE)) / 20)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_an_endless_loop_has_no_seam() -> None:
    tone = np.sin(2 * np.pi * 50 * np.arange(30_000) / FOA_RATE).astype(np.float32)
    loop = endless(tone, 70_000)
    around = np.concatenate([loop[-2000:], loop[:2000]])
    assert len(loop) == 70_000
    # A jump would be as large as the tone; its own steps are 0.013, the crossfade may add its own.
    assert np.abs(np.diff(around)).max() < 0.03


def test_loud_scenes_are_turned_down_with_their_truth() -> None:
    """One source alone to half of full scale; a noisy scene as a whole, so that it is not clipped."""
    config = replace(ALONE, loudness=(0.0, 0.0))
    noisy = replace(config, sensor_noise=(0.0, 0.0))
    for index in range(3):
        scene, other = FoaScenes(config, 0, "train")(index), FoaScenes(noisy, 0, "train")(index)
        (source,), (same,) = scene.truth.sources, other.truth.sources
        part = scene.foa[0, round(source.onset * FOA_RATE) : round(source.offset * FOA_RATE)]
        assert np.abs(scene.foa).max() == pytest.approx(0.5, abs=1e-3)
        assert source.loudness < -3
        assert levels.a_weighted_db(part, FOA_RATE) == pytest.approx(source.loudness, abs=0.02)
        assert np.abs(other.foa).max() == pytest.approx(0.98, abs=1e-3)
        # White noise of RMS 1 has peaks of some 4.5.
        assert same.loudness - source.loudness == pytest.approx(20 * np.log10(0.98 / 4.8), abs=1)


def test_splits_share_no_room_voice_sentence_or_clip() -> None:
    opened = [FoaScenes(CONFIG, 0, split) for split in ("train", "validation", "test")]
    for what in (
        lambda each: {sound.group for sound in each.speech.items},
        lambda each: {sound.transcript for sound in each.speech.items},
        lambda each: {sound.key for sound in each.speech.items},
        lambda each: {sound.key for sound in each.events.items},
        lambda each: {sound.key for sound in each.backgrounds.items},
        lambda each: {each.room(0).spec},
    ):
        sets = [what(each) for each in opened]
        assert all(sets) and len(set.union(*sets)) == sum(map(len, sets))
    assert len({each.categories for each in opened}) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seconds": 0.5}, "seconds=0.5"),
        ({"min_sources": 3, "max_sources": 2}, "min_sources=3"),
        ({"max_sources": 65}, "64 places"),
        ({"speech_share": 1.5}, "speech_share=1.5"),
        ({"loudness": (-20.0, -40.0)}, "lower one first"),
        ({"scenes_per_room": 0}, "scenes_per_room=0"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        FoaSceneConfig(**change)


def test_scenes_without_material_are_refused() -> None:
    with pytest.raises(InputError, match="no speech of embedded"):
        FoaScenes(replace(CONFIG, seconds=1.0), 0, "train")
    with pytest.raises(InputError, match="events of the scenes hold no sound"):
        FoaScenes(replace(CONFIG, speech="embedded", events=()), 0, "train")
    with pytest.raises(InputError, match="split 'trian'"):
        FoaScenes(CONFIG, 0, "trian")
