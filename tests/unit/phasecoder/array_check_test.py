# SPDX-License-Identifier: Apache-2.0
"""The array check against recordings whose fault is known: simulated delays, noise and rooms."""

from __future__ import annotations

import time

import numpy as np
import pyroomacoustics as pra
import pytest

from phasecoder.array_check import check_array
from phasecoder.array_fit import undetectable_swaps
from phasecoder.array_report import ArrayReport
from spatial_core.audio.io import Audio, resample
from spatial_core.geometry.arrays import PRESETS, MicArray, preset
from spatial_core.geometry.coords import azimuth_error, to_cartesian

RATE = 16_000
# What is said of every array of that shape, recording or not.
KNOWN_LIMITS = ("All microphones lie", "this array is symmetric", "fewer than 3 usable")


def talk(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Noise with the slope and the syllables of speech: four bursts a second, pauses between."""
    count = int(seconds * RATE)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / RATE)
    spectrum *= (frequency > 100) / (1 + (frequency / 800) ** 1.5)
    syllables = np.repeat(rng.uniform(0, 1, int(4 * seconds) + 1) ** 2, RATE // 4)[:count]
    return np.fft.irfft(spectrum, count) * np.convolve(syllables, np.hanning(800), "same")


def delayed(signal: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """The signal [t] delayed by each of `seconds` [m], exactly (band-limited), as [m, t]."""
    count = len(signal)
    spectrum = np.fft.rfft(signal, 2 * count)
    frequency = np.fft.rfftfreq(2 * count, 1 / RATE)
    shifted = spectrum * np.exp(-2j * np.pi * frequency * seconds[:, None])
    return np.fft.irfft(shifted, axis=1)[:, :count]


def add_noise(rng: np.random.Generator, x: np.ndarray, snr_db: float) -> np.ndarray:
    noise = rng.standard_normal(x.shape) * np.sqrt(np.mean(x**2)) * 10 ** (-snr_db / 20)
    return (0.05 * (x + noise) / np.std(x)).astype(np.float32)


def free_field(
    array: MicArray, azimuth: float, elevation: float = 10.0, seconds: float = 4.0, seed: int = 0
) -> np.ndarray:
    """A talker 1.5 m away, without a room, 20 dB over the microphones' own noise."""
    rng = np.random.default_rng(seed)
    source = to_cartesian(azimuth, elevation, 1.5)
    arrival = np.linalg.norm(array.centred - source, axis=1) / 343.0
    return add_noise(rng, delayed(talk(rng, seconds), arrival), 20.0)


def in_room(array: MicArray, seed: int, seconds: float = 4.0) -> np.ndarray:
    """A talker in a reverberant room (RT60 0.2 to 0.6 s) by pyroomacoustics, 20 dB SNR."""
    rng = np.random.default_rng(seed)
    size = rng.uniform([3, 3, 2.4], [8, 8, 3.5])
    absorption, order = pra.inverse_sabine(rng.uniform(0.2, 0.6), size)
    room = pra.ShoeBox(
        size, fs=RATE, materials=pra.Material(min(absorption, 0.95)), max_order=min(order, 12)
    )
    centre = size * rng.uniform(0.35, 0.65, 3)
    room.add_source(size * rng.uniform(0.1, 0.25, 3), signal=talk(rng, seconds))
    room.add_microphone_array((array.centred + centre).T)
    room.simulate()
    return add_noise(rng, room.mic_array.signals[:, : int(seconds * RATE)], 20.0)


def check(array: MicArray, samples: np.ndarray, rate: int = RATE) -> ArrayReport:
    return check_array(array, Audio(samples, rate, rate, "room.wav"))


def alarms(report: ArrayReport) -> list[str]:
    """Findings that accuse the recording or the coordinates."""
    return [
        text
        for level, text in report.findings
        if level == "error" or (level == "warn" and not any(w in text for w in KNOWN_LIMITS))
    ]


@pytest.mark.parametrize("name", PRESETS)
def test_a_correct_recording_raises_no_alarm(name: str) -> None:
    array = preset(name)
    report = check(array, free_field(array, -50.0))
    assert alarms(report) == []
    assert report.ok
    assert report.suspects == ()
    assert all(abs(lag.lag_ms) <= lag.limit_ms + 0.05 for lag in report.lags)
    assert len(report.lags) == array.num_mics * (array.num_mics - 1) // 2
    assert report.direction is not None
    if array.shape != "linear":
        assert azimuth_error(report.direction[0], -50.0) < 8


@pytest.mark.parametrize("seed", range(3))
def test_a_correct_recording_in_a_room_raises_no_alarm(seed: int) -> None:
    array = preset("nao_8")
    assert alarms(check(array, in_room(array, seed))) == []


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [("nao_8", 0, 4), ("nao_8", 6, 7), ("circle_6_1", 1, 2), ("line_4", 2, 3), ("square_4", 0, 1)],
)
def test_swapped_channels_are_named(name: str, first: int, second: int) -> None:
    array = preset(name)
    x = free_field(array, 35.0)
    x[[first, second]] = x[[second, first]]
    report = check(array, x)
    assert any(f"channels {first + 1} and {second + 1}" in text for text in alarms(report))
    assert any("swapped" in text for text in alarms(report))
    assert not report.ok


def test_a_swap_in_a_room_is_named() -> None:
    array = preset("circle_6_1")
    x = in_room(array, 1)
    x[[0, 3]] = x[[3, 0]]
    assert any("channels 1 and 4" in text and "swapped" in text for text in alarms(check(array, x)))


def test_three_channels_in_a_ring_are_put_in_order() -> None:
    array = preset("nao_8")
    x = free_field(array, 100.0)
    x[[1, 4, 6]] = x[[4, 6, 1]]
    (text,) = alarms(check(array, x))
    assert "channels 2, 5 and 7 are out of order" in text
    assert "rows 1, 5, 3, 4, 7, 6, 2, 8" in text


@pytest.mark.parametrize("name", ["nao_8", "respeaker_4mic", "line_4"])
def test_an_inverted_channel_is_named(name: str) -> None:
    array = preset(name)
    x = free_field(array, 20.0)
    x[1] *= -1
    (text,) = alarms(check(array, x))
    assert text.startswith("channel 2 is inverted")


def test_a_late_channel_is_named_with_its_delay() -> None:
    array = preset("tetrahedron")
    x = free_field(array, 20.0)
    x[2] = np.roll(x[2], 320)
    report = check(array, x)
    (text,) = alarms(report)
    assert text.startswith("channel 3 is 20.")
    assert "late" in text
    assert report.suspects == (2,)
    x[2] = np.roll(x[2], -640)
    assert "early" in alarms(check(array, x))[0]


def test_two_devices_are_told_apart() -> None:
    array = preset("nao_8")
    x = free_field(array, 20.0)
    x[5:] = np.roll(x[5:], -100, axis=1)
    assert check(array, x).suspects == (5, 6, 7)


def test_a_drifting_clock_is_named() -> None:
    array = preset("square_4")
    x = free_field(array, 20.0, seconds=12.0)
    t = np.arange(x.shape[1])
    x[0] = np.interp(t * (1 + 150e-6), t, x[0])
    (text,) = alarms(check(array, x))
    assert text.startswith("channel 1 is")
    drift = float(text.split("drifts by ")[1].split(" ")[0])
    assert drift == pytest.approx(-150, abs=30)


def test_a_walking_talker_is_not_drift() -> None:
    array = preset("square_4")
    parts = [free_field(array, azimuth, seconds=1.0, seed=3) for azimuth in range(0, 120, 10)]
    assert alarms(check(array, np.concatenate(parts, axis=1))) == []


def test_unrelated_dead_and_copied_channels_are_named() -> None:
    array = preset("nao_8")
    x = free_field(array, 20.0)
    x[1] = np.random.default_rng(1).standard_normal(x.shape[1]) * x[1].std()
    x[2] = 0.0
    x[4] = x[3]
    report = check(array, x)
    texts = " / ".join(alarms(report))
    assert "channel 2 does not carry the same sound" in texts
    assert "dead: channel 3" in texts
    assert "identical: channels 4 and 5" in texts
    assert report.suspects == (1, 2, 3, 4)


def test_a_weak_channel_is_named() -> None:
    array = preset("square_4")
    x = free_field(array, 20.0)
    x[3] *= 0.1
    (text,) = alarms(check(array, x))
    assert text.startswith("channel 4: 20 dB weaker")


@pytest.mark.parametrize("name", ["nao_8", "circle_6_1", "tetrahedron", "respeaker_4mic"])
@pytest.mark.parametrize("factor", [10.0, 30.0])
def test_a_unit_that_the_delays_refute_as_too_large_is_an_error(name: str, factor: float) -> None:
    """7 cm given as 0.7 m: from 20 degrees of elevation its delays cannot be a tenth."""
    array = preset(name)
    report = check(MicArray(array.positions * factor), free_field(array, 20.0, 20.0))
    (text,) = [text for level, text in report.findings if level == "error"]
    assert "are in the wrong unit (too large)" in text
    assert f"{100 * factor * array.aperture:.1f} cm across" in text
    said = float(text.split("about ")[1].split(" cm")[0])
    assert 0.6 * array.aperture < said / 100 < 1.1 * array.aperture


def test_a_line_that_may_hear_its_talker_broadside_is_only_suspected() -> None:
    """A sound bar faces its talker: no delay refutes it."""
    array = preset("line_4")
    report = check(MicArray(array.positions * 10), free_field(array, 85.0))
    assert report.ok
    assert any("unless the sound came from broadside" in text for text in alarms(report))


@pytest.mark.parametrize("name", ["nao_8", "circle_6_1", "tetrahedron", "square_4"])
def test_a_unit_that_the_delays_refute_as_too_small_is_an_error(name: str) -> None:
    array = preset(name)
    report = check(MicArray(array.positions / 10), free_field(array, 20.0))
    (text,) = [text for level, text in report.findings if level == "error"]
    assert "wrong unit (too small)" in text
    assert report.suspects == ()


def test_without_a_recording_40_cm_are_asked_about() -> None:
    array = preset("respeaker_4mic")
    (text,) = alarms(check_array(MicArray(array.positions * 10)))
    assert text.startswith("0.65 m across")
    assert "is it centimetres?" in text
    assert alarms(check_array(MicArray(array.positions * 6))) == []  # 39 cm


def test_wrong_coordinates_do_not_fit() -> None:
    array = preset("nao_8")
    wrong = MicArray(np.random.default_rng(0).permutation(array.positions))
    assert not check(wrong, free_field(array, 20.0)).ok


def test_a_mirrored_array_fits_as_well_and_the_report_says_so() -> None:
    array = preset("nao_8")
    mirrored = MicArray(array.positions * [1, -1, 1])
    report = check(mirrored, free_field(array, 60.0))
    assert alarms(report) == []
    assert report.direction is not None
    assert azimuth_error(report.direction[0], -60.0) < 8
    assert any("mirror image" in text for _, text in report.findings)


def test_swaps_that_no_recording_shows() -> None:
    """Exchanging two corners of a regular tetrahedron mirrors it; of a square, only the diagonals."""
    assert len(undetectable_swaps(preset("tetrahedron"))) == 6
    assert undetectable_swaps(preset("square_4")) == [(0, 2), (1, 3)]
    # the head is symmetric left to right, but one pair of channels alone is not
    assert undetectable_swaps(preset("nao_8")) == []


def test_recordings_that_cannot_be_compared_become_findings() -> None:
    array = preset("square_4")
    x = free_field(array, 20.0)
    assert "1 channel" in alarms(check(array, x[:1]))[0]
    assert "4 microphones" in alarms(check(array, x[:3]))[0]
    assert "is zero" in alarms(check(array, 0 * x))[0]
    assert "0.256 s" in alarms(check(array, x[:, :3000]))[0]
    noise = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    assert "no sound that reaches several channels" in alarms(check(array, 0.01 * noise))[0]


def test_a_talker_under_the_noise_is_no_evidence_against_a_channel() -> None:
    """Noise 13 dB over a reverberant talker leaves chance peaks only: nothing can be told of them."""
    array = preset("nao_8")
    for seed in (1, 2):
        x = in_room(array, seed, seconds=2.5)
        noise = np.random.default_rng([7, seed]).standard_normal(x.shape).astype(np.float32)
        report = check(array, 0.5 * (x + 4.5 * x.std() * noise))
        assert report.ok, report.findings
        assert "clearly enough" in alarms(report)[0]


def test_two_microphones_test_synchrony_only() -> None:
    array = MicArray(np.array([[0.0, 0, 0], [0.1, 0, 0]]))
    report = check(array, free_field(array, 20.0))
    assert alarms(report) == []
    assert any("fewer than 3" in text for _, text in report.findings)


def test_without_a_recording_only_the_geometry_is_judged() -> None:
    report = check_array(preset("square_4"))
    assert report.ok
    assert report.lags == []
    large = check_array(MicArray(np.array([[0.0, 0, 0], [3.0, 0, 0]])))
    assert any('"unit": "cm"' in text for _, text in large.findings)


def test_the_sample_rate_is_respected() -> None:
    """The same samples taken as 8 kHz have twice the delays: too large for the array."""
    array = preset("square_4")
    assert not check(array, free_field(array, 0.0), rate=4_000).ok


@pytest.mark.parametrize("name", ["nao_8", "square_4"])
@pytest.mark.parametrize("swap", [False, True])
def test_findings_are_the_same_at_every_sample_rate(name: str, swap: bool) -> None:
    array = preset(name)
    x = free_field(array, 35.0)
    if swap:
        x[[0, 1]] = x[[1, 0]]
    reports = [check(array, resample(x, RATE, rate), rate) for rate in (RATE, 44_100, 48_000)]
    texts = [
        [(level, text.split("; the delays")[0]) for level, text in r.findings] for r in reports
    ]
    assert texts[0] == texts[1] == texts[2]
    lags = np.array([[lag.lag_ms for lag in report.lags] for report in reports])
    np.testing.assert_allclose(lags[1:], lags[[0, 0]], atol=2e-3)  # a sample is 21e-3 at 48 kHz


def test_sixteen_channels_at_48_khz_take_seconds() -> None:
    """10 s of 120 pairs: about 1.2 s of CPU time; the limit leaves room for a slow machine."""
    ball = np.random.default_rng(5).standard_normal((16, 3))
    array = MicArray(0.05 * ball / np.linalg.norm(ball, axis=1, keepdims=True))
    x = resample(free_field(array, 35.0, seconds=10.0), RATE, 48_000)
    before = time.process_time()
    report = check(array, x, 48_000)
    assert time.process_time() - before < 5.0
    assert alarms(report) == []
    assert len(report.lags) == 120


def test_report_texts_and_values() -> None:
    array = preset("square_4")
    x = free_field(array, 0.0)
    x[1] *= -1
    report = check(array, x)
    text = report.to_text()
    assert "ERROR" in text
    assert "1 - 2" in text
    values = report.to_dict()
    assert values["ok"] is False
    assert values["suspect_channels"] == [2]
    assert len(values["delays"]) == 6
    assert {f["level"] for f in values["findings"]} >= {"error", "warn", "ok"}


@pytest.mark.slow
def test_rates_over_random_scenes() -> None:
    """100 random arrays of 3 to 8 in random rooms: false alarms, late and inverted channels."""
    false_alarms, missed = [], []
    for seed in range(100):
        rng = np.random.default_rng([9, seed])
        mics = int(rng.integers(3, 9))
        array = MicArray(rng.uniform(-0.06, 0.06, (mics, 3)))
        x = in_room(array, seed)
        false_alarms += alarms(check(array, x))
        channel = int(rng.integers(mics))
        late, inverted = x.copy(), x.copy()
        late[channel] = np.roll(late[channel], int(rng.integers(30, 1000)))
        inverted[channel] *= -1
        if channel not in check(array, late).suspects:
            missed.append(("late", seed))
        if channel not in check(array, inverted).suspects:
            missed.append(("inverted", seed))
    assert len(false_alarms) <= 2, false_alarms
    assert len(missed) <= 6, missed
