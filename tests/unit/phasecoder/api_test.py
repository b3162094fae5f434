# SPDX-License-Identifier: Apache-2.0
"""localize: the right direction from delays, silence as silence, ambiguity said, misuse refused.

The model here is a plane-wave fit in NumPy: an independent, exact answer for the clean signals that
the tests make, so that what is tested is everything around the network.
"""

from __future__ import annotations

import numpy as np
import pytest

from phasecoder import api
from phasecoder.ambiguity import Ambiguity
from spatial_core.audio.io import write_wav
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray, preset
from spatial_core.geometry.coords import azimuth_error, rotate_z
from tests.unit.phasecoder.plane_wave import RATE, PlaneWave, plane_wave

TRIANGLE = MicArray(np.array([[0.05, 0, 0], [-0.03, 0.04, 0], [-0.03, -0.04, 0]]), "triangle")


@pytest.mark.parametrize("name", ["nao_8", "tetrahedron"])
@pytest.mark.parametrize(("azimuth", "elevation"), [(34.0, 12.0), (-171.0, -40.0)])
def test_plane_waves_are_localised_with_their_sign(name, azimuth, elevation):
    result = api.localize(plane_wave(name, azimuth, elevation), name, RATE, model=PlaneWave())
    assert result.overall is not None
    assert azimuth_error(result.overall.azimuth, azimuth) < 3
    assert abs(result.overall.elevation - elevation) < 4
    assert result.overall.elevation_signed and result.elevation_sign is not None
    assert result.overall.share == pytest.approx(1.0)
    assert not result.notes


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_any_sample_rate_gives_the_same_direction_and_says_so(tmp_path, rate):
    write_wav(tmp_path / "a.wav", plane_wave("nao_8", 60, seconds=1.5, rate=rate), rate)
    result = api.localize(tmp_path / "a.wav", "nao_8", model=PlaneWave())
    assert azimuth_error(result.overall.azimuth, 60) < 3
    assert any(f"resampled from {rate} Hz" in note for note in result.notes)
    assert result.duration_seconds == pytest.approx(1.5, abs=0.01)


def test_windows_are_160_ms_apart_and_times_are_their_centres():
    result = api.localize(plane_wave("nao_8", 0, seconds=2.0), "nao_8", RATE, model=PlaneWave())
    np.testing.assert_allclose(result.times, 0.125 + 0.16 * np.arange(11), atol=1e-9)


@pytest.mark.parametrize("hop", [0.05, 0.16, 0.7])
@pytest.mark.parametrize("size", [700, 4001, 50000])
def test_live_blocks_of_any_size_give_the_windows_of_the_whole(hop, size):
    audio = plane_wave("square_4", 20, seconds=1.6)
    whole = api.localize(audio, "square_4", RATE, PlaneWave(), hop)
    blocks = (audio[:, i : i + size] for i in range(0, audio.shape[1], size))
    pieces = list(api.stream(blocks, "square_4", RATE, PlaneWave(), hop))
    np.testing.assert_allclose([p.time for p in pieces], whole.times)
    np.testing.assert_allclose([p.azimuth for p in pieces], whole.azimuth, atol=1e-6)


def test_live_blocks_are_resampled_without_seams():
    audio = plane_wave("nao_8", -50, seconds=2.0, rate=48000)
    blocks = (audio[:, i : i + 1111] for i in range(0, audio.shape[1], 1111))
    pieces = list(api.stream(blocks, "nao_8", 48000, PlaneWave()))
    assert all(azimuth_error(p.azimuth, -50) < 4 for p in pieces[1:-1])


def test_long_audio_reaches_the_model_in_bounded_pieces():
    model = PlaneWave()
    audio = plane_wave("line_4", 70, seconds=15.0)
    result = api.localize(audio, "line_4", RATE, model)
    assert max(shape[0] for shape in model.seen) <= 64
    assert len(result) == 1 + (15 * RATE - 4000) // 2560


def test_silence_is_answered_as_silence():
    audio = plane_wave("nao_8", 10, seconds=3.0)
    audio[:, RATE : 2 * RATE] *= 1e-3  # 60 dB down
    result = api.localize(audio, "nao_8", RATE, model=PlaneWave())
    inside = (result.times > 1.13) & (result.times < 1.87)
    assert inside.sum() >= 3 and not result.speech[inside].any() and result.silent[inside].all()
    assert np.isnan(result.azimuth[inside]).all() and np.isnan(result.confidence[inside]).all()
    assert result.speech[~inside].sum() >= 10
    assert "silence" in result.to_table() and result.to_dict()["windows"][8]["azimuth"] is None


def test_a_recording_of_faint_noise_has_no_direction():
    audio = 1e-5 * np.random.default_rng(0).normal(size=(8, RATE)).astype(np.float32)
    result = api.localize(audio, "nao_8", RATE, model=PlaneWave())
    assert result.overall is None and result.silent.all()
    assert "only silence" in result.summary()


def test_sound_without_speech_is_told_from_silence():
    result = api.localize(plane_wave("nao_8", 10), "nao_8", RATE, model=PlaneWave(speech=0.2))
    assert result.overall is None and not result.silent.any()
    assert result.state(0) == "no speech" and "no speech" in result.summary()


def test_short_audio_is_padded_and_said_so():
    result = api.localize(plane_wave("nao_8", 80, seconds=0.1), "nao_8", RATE, PlaneWave())
    assert len(result) == 1 and any("100 ms long" in note for note in result.notes)
    assert azimuth_error(result.overall.azimuth, 80) < 6


def test_flat_array_gives_elevation_without_sign():
    result = api.localize(plane_wave("circle_6_1", 25, 40), "circle_6_1", RATE, PlaneWave())
    assert result.elevation_sign is None and result.overall.elevation_signed is False
    assert result.overall.elevation == pytest.approx(40, abs=4)  # the model said -40
    assert azimuth_error(result.overall.azimuth, 25) < 3
    assert any("up and down sound alike" in note for note in result.notes)
    assert "±40" in result.to_table() or "±4" in result.to_table()


def test_three_microphones_are_always_flat():
    result = api.localize(plane_wave(TRIANGLE, 100, 30), TRIANGLE, RATE, PlaneWave())
    assert any("three microphones always lie in one" in note for note in result.notes)
    assert result.overall.elevation_signed is False


def test_upright_flat_array_names_the_mirror_image():
    upright = MicArray(preset("square_4").positions @ _turn_x(90).T, "wall")  # the x-z plane
    result = api.localize(plane_wave(upright, 50, 20), upright, RATE, PlaneWave())
    both = {(round(result.overall.azimuth), round(result.overall.elevation))}
    both.add(tuple(round(x) for x in result.overall.alternative))
    for azimuth, elevation in [(50, 20), (-50, 20)]:
        assert any(abs(a - azimuth) <= 3 and abs(e - elevation) <= 4 for a, e in both)
    assert any("mirror image behind that plane" in note for note in result.notes)


def test_line_gives_the_angle_to_itself_and_no_elevation():
    result = api.localize(plane_wave("line_4", 70), "line_4", RATE, PlaneWave())
    assert result.overall.elevation is None and np.isnan(result.elevation).all()
    assert result.overall.cone_angle == pytest.approx(70, abs=4)
    assert azimuth_error(result.overall.alternative[0], -result.overall.azimuth) < 1e-6


def test_folding_keeps_a_direction_on_the_side_of_most_windows():
    upright = MicArray(preset("square_4").positions @ _turn_x(90).T)
    azimuth, elevation = np.array([40.0, -40.0, 42.0]), np.array([5.0, 5.0, 5.0])
    folded, _ = Ambiguity.of(upright).fold(azimuth, elevation, np.ones(3))
    np.testing.assert_allclose(folded, [40, 40, 42], atol=1e-9)


def test_equal_peaks_above_and_below_give_their_size_not_the_horizon():
    probs = np.zeros((2, 17))
    probs[0, [11, 12, 13]] = probs[0, [5, 4, 3]] = [0.1, 0.3, 0.1]  # +-45 degrees
    probs[1, 8] = 1.0
    size = Ambiguity.of(preset("square_4")).elevation_size(probs)
    np.testing.assert_allclose(size, [45.0, 0.0], atol=1e-9)


def test_dead_channel_is_left_out_and_named():
    audio = plane_wave("nao_8", -30, 10)
    audio[4] = 0.2 + 1e-6 * audio[4]  # a DC offset and the rounding of a loose cable
    result = api.localize(audio, "nao_8", RATE, model=PlaneWave())
    assert azimuth_error(result.overall.azimuth, -30) < 3
    assert any(note.startswith("left out: channel 5") for note in result.notes)


def test_more_than_sixteen_microphones_are_thinned_and_said_so():
    rng = np.random.default_rng(3)
    ball = MicArray(0.1 * rng.normal(size=(24, 3)) / 2, "ball24")
    model = PlaneWave()
    result = api.localize(plane_wave(ball, 120, -20, 0.5), ball, RATE, model)
    assert model.seen[0][1] == 16 and azimuth_error(result.overall.azimuth, 120) < 3
    assert any("16 of the 24 microphones" in note for note in result.notes)


def test_turning_the_array_turns_the_answer():
    audio = plane_wave("nao_8", 10, 5)
    turned = MicArray(rotate_z(preset("nao_8").positions, 75.0))
    result = api.localize(audio, turned, RATE, model=PlaneWave())
    assert azimuth_error(result.overall.azimuth, 85) < 3


def test_dc_offset_changes_nothing():
    audio = plane_wave("nao_8", 45, 10)
    offset = np.linspace(-0.3, 0.3, 8, dtype=np.float32)[:, None]
    plain = api.localize(audio, "nao_8", RATE, model=PlaneWave())
    shifted = api.localize(audio + offset, "nao_8", RATE, model=PlaneWave())
    np.testing.assert_allclose(shifted.azimuth, plain.azimuth, atol=0.5)


def test_integers_are_scaled_and_clipping_is_noted():
    audio = np.clip(np.round(plane_wave("nao_8", 45) * 6 * 32767), -32768, 32767).astype(np.int16)
    result = api.localize(audio, "nao_8", RATE, model=PlaneWave())
    assert azimuth_error(result.overall.azimuth, 45) < 5
    assert any("clipped" in note for note in result.notes)


def test_two_talkers_are_noticed_as_disagreement():
    audio = np.concatenate([plane_wave("nao_8", 20), plane_wave("nao_8", -110)], axis=1)
    result = api.localize(audio, "nao_8", RATE, model=PlaneWave())
    assert result.overall.share < 0.6
    assert any("several talkers" in note for note in result.notes)


@pytest.mark.parametrize("fault", ["swapped", "inverted", "late", "unit"])
def test_delays_that_contradict_the_array_name_the_next_step(tmp_path, fault):
    audio, array = plane_wave("nao_8", 35, 10, seconds=3.0), preset("nao_8")
    if fault == "swapped":
        audio[[1, 6]] = audio[[6, 1]]
    elif fault == "inverted":
        audio[2] *= -1
    elif fault == "late":
        audio[3] = np.roll(audio[3], 160)
    else:
        array = MicArray(array.positions * 10)
    array.to_json(tmp_path / "my array.json")
    write_wav(tmp_path / "a.wav", audio, RATE)
    result = api.localize(tmp_path / "a.wav", tmp_path / "my array.json", model=PlaneWave())
    (note,) = [note for note in result.notes if "do not fit this array" in note]
    assert f"`phasecoder array check '{tmp_path}/my array.json' {tmp_path}/a.wav`" in note
    assert {"swapped": "channels 2 and 7", "unit": "times smaller"}.get(fault, fault) in note


def test_the_loudest_stretch_is_what_the_array_is_judged_by():
    """Half a minute of faint noise about 5 s of sound with two channels swapped."""
    audio = 1e-4 * np.random.default_rng(0).normal(size=(8, 30 * RATE)).astype(np.float32)
    audio[:, 14 * RATE : 19 * RATE] += plane_wave("nao_8", 35, 10, seconds=5.0)
    audio[[1, 6]] = audio[[6, 1]]
    result = api.localize(audio, "nao_8", RATE, PlaneWave())
    assert any("channels 2 and 7 are swapped" in note for note in result.notes)
    assert any("`phasecoder array check nao_8`" in note for note in result.notes)


def test_a_moving_talker_is_followed_without_context_and_averaged_with_it():
    steps = [-60, -30, 0, 30, 60]
    audio = np.concatenate(
        [plane_wave("nao_8", a, seconds=0.8, seed=a + 99) for a in steps], axis=1
    )
    result = api.localize(audio, "nao_8", RATE, PlaneWave())
    inside = (result.times % 0.8 > 0.13) & (
        result.times % 0.8 < 0.67
    )  # one direction in the window
    truth = np.array(steps)[(result.times / 0.8).astype(int)]
    assert inside.sum() > 10
    assert np.all(azimuth_error(result.azimuth, truth)[inside] < 3)
    together = api.localize(audio, "nao_8", RATE, PlaneWave(), context=4.0)
    assert azimuth_error(together.azimuth, truth)[inside].max() > 20


def test_with_context_scattered_windows_give_one_direction_at_every_time():
    class Scattered(PlaneWave):
        """Right in two windows of three, else anywhere."""

        def predict(self, batch):
            answer = super().predict(batch)
            rng = np.random.default_rng(0)
            wrong = np.arange(len(answer["azimuth"])) % 3 == 2
            answer["azimuth"][wrong] = rng.uniform(-180, 180, wrong.sum())
            return answer

    audio = plane_wave("nao_8", -70, seconds=4.0)
    alone = api.localize(audio, "nao_8", RATE, Scattered())
    together = api.localize(audio, "nao_8", RATE, Scattered(), context=2.0)
    assert azimuth_error(alone.azimuth, -70).max() > 20
    assert azimuth_error(together.azimuth, -70).max() < 3
    assert len(together) == len(alone)
    assert azimuth_error(together.overall.azimuth, -70) < 3
    assert together.overall.share == pytest.approx(2 / 3, abs=0.1)


@pytest.mark.parametrize("bad", ["silence", "copies", "nan"])
def test_what_is_wrong_with_a_recording_is_said_before_the_model_is_loaded(bad, monkeypatch):
    monkeypatch.setattr(api, "load", lambda model: pytest.fail("the model was loaded"))
    audio = plane_wave("nao_8", 0, seconds=0.5)
    if bad == "silence":
        audio[:] = 0
    elif bad == "copies":
        audio[:] = audio[0]
    else:
        audio[2, 100] = np.nan
    with pytest.raises(InputError, match=r"digital silence|identical|is nan"):
        api.localize(audio, "nao_8", RATE)


def _spoilt(kind):
    audio = plane_wave("nao_8", 0, seconds=0.5)
    if kind == "nan":
        audio[3, 4321] = np.nan
    elif kind == "zero":
        audio[:] = 0
    elif kind == "constant":
        audio[:] = np.linspace(0.1, 0.2, 8)[:, None]
    elif kind == "mono copied":
        audio[:] = audio[0]
    elif kind == "one live":
        audio[1:] = 0
    elif kind == "one channel":
        audio = audio[:1]
    elif kind == "flat":
        audio = audio[0]
    elif kind == "transposed":
        audio = audio.T
    elif kind == "mismatch":
        audio = audio[:6]
    elif kind == "empty":
        audio = audio[:, :0]
    elif kind == "bool":
        audio = audio > 0
    return audio


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", r"0\.270 s of channel 4 is nan"),
        ("zero", "digital silence"),
        ("constant", "zero or constant"),
        ("mono copied", "one microphone copied"),
        ("one live", "only 1 of 8 channels"),
        ("one channel", "has one channel"),
        ("flat", "has one channel"),
        ("transposed", "looks like"),
        ("mismatch", "has 6 channels, but array 'nao_8' has 8"),
        ("empty", "holds no samples"),
        ("bool", "must be float or signed integer"),
    ],
)
def test_audio_that_cannot_give_a_direction_is_refused(kind, message):
    with pytest.raises(InputError, match=message):
        api.localize(_spoilt(kind), "nao_8", RATE, model=PlaneWave())


def test_a_rate_that_contradicts_the_file_is_refused(tmp_path):
    write_wav(tmp_path / "a.wav", plane_wave("nao_8", 20, rate=48000), 48000)
    with pytest.raises(InputError, match=r"has 48000 Hz, not sample_rate=16000: leave"):
        api.localize(tmp_path / "a.wav", "nao_8", 16000, PlaneWave())
    with pytest.raises(InputError, match="not sample_rate=44100"):
        list(api.stream(tmp_path / "a.wav", "nao_8", 44100, PlaneWave()))
    result = api.localize(tmp_path / "a.wav", "nao_8", sample_rate=48000, model=PlaneWave())
    assert azimuth_error(result.overall.azimuth, 20) < 3


def test_arrays_of_samples_need_their_rate():
    with pytest.raises(InputError, match="needs sample_rate"):
        api.localize(plane_wave("nao_8", 0), "nao_8", model=PlaneWave())


@pytest.mark.parametrize("hop", [0.0, -1.0, 1e6])
def test_impossible_hops_are_refused(hop):
    with pytest.raises(InputError, match="hop_seconds"):
        api.localize(plane_wave("nao_8", 0), "nao_8", RATE, PlaneWave(), hop)


def test_truncated_file_is_refused(tmp_path):
    write_wav(tmp_path / "a.wav", plane_wave("nao_8", 0, seconds=2.0), RATE)
    blob = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "b.wav").write_bytes(blob[: len(blob) // 2])
    with pytest.raises(InputError, match="truncated"):
        api.localize(tmp_path / "b.wav", "nao_8", model=PlaneWave())


def test_package_gives_localize_without_loading_jax():
    import subprocess
    import sys

    code = "import sys, phasecoder; assert 'jax' not in sys.modules; phasecoder.localize"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def _turn_x(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def test_a_long_file_takes_the_memory_of_a_block(tmp_path):
    import tracemalloc

    rng = np.random.default_rng(0)
    write_wav(tmp_path / "a.wav", 0.1 * rng.normal(size=(4, 180 * RATE)), RATE)  # 46 MB decoded

    class Deaf:
        def predict(self, batch):
            return {"azimuth": np.zeros(len(batch["audio"]), np.float32)}

    tracemalloc.start()
    result = api.localize(tmp_path / "a.wav", "tetrahedron", model=Deaf())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(result) == 1 + (180 * RATE - 4000) // 2560
    assert peak < 40e6
