# SPDX-License-Identifier: Apache-2.0
"""Audio files: what is read is what was written, and what cannot be trusted is refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from spatial_core.audio.io import encode_mp3, load_audio, resample, write_wav
from spatial_core.errors import InputError

RATE = 48_000


def noise(channels: int = 4, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal((channels, int(seconds * rate)))).astype(np.float32)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    write_wav(tmp_path / "a.wav", noise(), RATE)
    return tmp_path / "a.wav"


def data_offset(content: bytes) -> int:
    """Index of the first byte of the data chunk's size."""
    return content.index(b"data") + 4


def test_float_wav_round_trip_is_exact(wav: Path) -> None:
    audio = load_audio(wav, sample_rate=None)
    np.testing.assert_array_equal(audio.samples, noise())
    assert (audio.sample_rate, audio.source_rate, audio.num_channels) == (RATE, RATE, 4)
    assert audio.seconds == 0.5
    assert audio.samples.dtype == np.float32
    assert audio.warnings == ()


def test_resampled_reading_equals_resampling_afterwards(wav: Path) -> None:
    audio = load_audio(wav)
    assert (audio.sample_rate, audio.source_rate) == (16_000, RATE)
    np.testing.assert_allclose(audio.samples, resample(noise(), RATE, 16_000), atol=1e-6)


def test_long_files_are_resampled_in_blocks_without_seams(tmp_path: Path) -> None:
    x = noise(2, 5.0, 44_100)
    write_wav(tmp_path / "a.wav", x, 44_100)
    np.testing.assert_allclose(
        load_audio(tmp_path / "a.wav").samples, resample(x, 44_100, 16_000), atol=1e-5
    )


def test_resampling_agrees_with_scipy_and_keeps_delays() -> None:
    """A 1 kHz tone, 7 samples late in the second channel: same wave, same delay, at 16 kHz."""
    t = np.arange(RATE) / RATE
    late = 7 / RATE
    x = np.stack([np.sin(2 * np.pi * 1000 * t), np.sin(2 * np.pi * 1000 * (t - late))])
    y = resample(x, RATE, 16_000)
    inner = slice(2000, 14_000)
    np.testing.assert_allclose(y[:, inner], resample_poly(x, 1, 3, axis=1)[:, inner], atol=2e-3)
    t = np.arange(16_000) / 16_000
    np.testing.assert_allclose(y[1, inner], np.sin(2 * np.pi * 1000 * (t - late))[inner], atol=1e-3)


@pytest.mark.parametrize("suffix", ["flac", "ogg", "aiff"])
def test_other_formats_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(2).T, RATE)
    assert load_audio(path).samples.shape == (2, 8000)


def test_truncated_wav_says_how_much_is_missing(wav: Path) -> None:
    content = wav.read_bytes()
    start = data_offset(content) + 4
    wav.write_bytes(content[: start + (len(content) - start) // 5])
    with pytest.raises(InputError, match=r"promises 0\.50 s, 0\.40 s of that are missing"):
        load_audio(wav)


@pytest.mark.parametrize("keep", [4, 12, 30])
def test_wav_cut_in_its_header_is_refused(wav: Path, keep: int) -> None:
    wav.write_bytes(wav.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"truncated|decoded"):
        load_audio(wav)


def test_truncated_rf64_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise().T, RATE, format="RF64")
    assert load_audio(path).samples.shape == (4, 8000)
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(InputError, match="are missing"):
        load_audio(path)


def test_truncated_flac_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, noise().T, RATE)
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(InputError, match=r"decoded|missing"):
        load_audio(path)


def test_truncated_ogg_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, noise(2, 3.0).T, RATE)
    assert load_audio(path).warnings == ()
    path.write_bytes(path.read_bytes()[:30_000])
    assert "cut off" in load_audio(path).warnings[0]


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_streamed_wav_is_read_whole_with_a_warning(wav: Path, size: int) -> None:
    content = bytearray(wav.read_bytes())
    at = data_offset(bytes(content))
    content[at : at + 4] = struct.pack("<I", size)
    wav.write_bytes(bytes(content))
    audio = load_audio(wav, sample_rate=None)
    np.testing.assert_array_equal(audio.samples, noise())
    assert "stream" in audio.warnings[0]


def test_missing_folder_empty_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_audio(tmp_path / "none.wav")
    with pytest.raises(InputError, match="is a folder"):
        load_audio(tmp_path)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(InputError, match="0 bytes"):
        load_audio(tmp_path / "empty.wav")
    (tmp_path / "text.wav").write_text("hello " * 100)
    with pytest.raises(InputError, match="cannot be decoded"):
        load_audio(tmp_path / "text.wav")


def test_wav_without_samples_is_refused(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.zeros((2, 0)), RATE)
    with pytest.raises(InputError, match="no audio"):
        load_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    x = noise()
    x[2, 12_000] = value
    write_wav(tmp_path / "a.wav", x, RATE)
    with pytest.raises(InputError, match="channel 3"):
        load_audio(tmp_path / "a.wav")


def test_bounds_are_checked_before_decoding(wav: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at most 0 s"):
        load_audio(wav, max_seconds=0.1)
    soundfile.write(tmp_path / "wide.wav", np.zeros((10, 65)), RATE)
    with pytest.raises(InputError, match="65 channels"):
        load_audio(tmp_path / "wide.wav")
    soundfile.write(tmp_path / "slow.wav", np.zeros((10, 2)), 100)
    with pytest.raises(InputError, match="100 Hz"):
        load_audio(tmp_path / "slow.wav")


def test_mono_and_silence_can_be_read(tmp_path: Path) -> None:
    """Whether they can be localised is for the channel checks to say."""
    write_wav(tmp_path / "a.wav", np.zeros(1000), 16_000)
    assert load_audio(tmp_path / "a.wav").samples.shape == (1, 1000)


def test_writing_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"peak 1\.5"):
        write_wav(tmp_path / "a.wav", np.full((1, 10), 1.5), subtype="PCM_16")
    with pytest.raises(InputError, match="channels, samples"):
        write_wav(tmp_path / "a.wav", np.zeros((1, 2, 3)))


def test_an_mp3_for_ears_sounds_like_what_went_in() -> None:
    """A tone comes back at its frequency, its level within half a decibel; phases are not kept."""
    time = np.arange(16000) / 16000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time).astype(np.float32)
    heard, rate = soundfile.read(io.BytesIO(encode_mp3(np.stack([tone, 0 * tone]))))
    assert rate == 16000 and heard.shape[1] == 2
    middle = heard[4000:12000, 0]
    assert np.argmax(np.abs(np.fft.rfft(middle))) * 2 == pytest.approx(440, abs=2)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.06)
    with pytest.raises(InputError, match="one or two channels"):
        encode_mp3(np.zeros((3, 100)))
