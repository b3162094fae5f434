# SPDX-License-Identifier: Apache-2.0
"""Speech and noise sources: splits, the audible window, determinism, published layouts, errors."""

from __future__ import annotations

import csv
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spatial_core.data import layouts, pcm, sources, synthetic
from spatial_core.errors import InputError

RATE = 16000


def talk(seed: int, seconds: float = 2.0) -> np.ndarray:
    """Noise bursts of 200 to 500 ms with silent pauses between: speech as far as level goes."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(int(seconds * RATE)) * 1e-5
    position = 0
    while position < len(samples):
        burst = int(rng.uniform(0.2, 0.5) * RATE)
        samples[position : position + burst] *= rng.uniform(5e3, 2e4)
        position += burst + int(rng.uniform(0.1, 0.4) * RATE)
    return samples.astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)


def write_table(path: Path, header: list[str], rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("LibriSpeech")
    for speaker in range(100, 110):
        for utterance in range(2):
            name = f"{speaker}-7-{utterance:04d}.flac"
            path = root / "train-clean-100" / str(speaker) / "7" / name
            write(path, talk(speaker * 10 + utterance))
    return root


@pytest.fixture(scope="module")
def esc50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ESC-50")
    rows = []
    for fold in range(1, 6):
        for target, category in enumerate(("dog", "rain")):
            name = f"{fold}-{1000 + fold * 10 + target}-A-{target}.wav"
            rows.append([name, str(fold), str(target), category, "False", "1", "A"])
            write(root / "audio" / name, talk(fold * 7 + target, 1.0))
    header = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    write_table(root / "meta" / "esc50.csv", header, rows)
    return root


@pytest.fixture(scope="module")
def fsd50k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("FSD50K")
    dev = [
        ["64760", "Electric_guitar,Guitar,Music", "/m/1", "train"],
        ["16399", "Speech,Human_voice", "/m/2", "train"],
        ["16401", "Bark,Dog,Animal", "/m/3", "val"],
    ]
    for name, _, _, _ in dev:
        write(root / "FSD50K.dev_audio" / f"{name}.wav", talk(int(name), 0.6))
    write(root / "FSD50K.eval_audio" / "37199.wav", talk(5, 0.6))
    truth = root / "FSD50K.ground_truth"
    write_table(truth / "dev.csv", ["fname", "labels", "mids", "split"], dev)
    write_table(truth / "eval.csv", ["fname", "labels", "mids"], [["37199", "Rain", "/m/4"]])
    return root


def energies(samples: np.ndarray) -> np.ndarray:
    return (samples.astype(np.float64).reshape(-1, 160) ** 2).sum(axis=1)


def check_window(clip: np.ndarray, crop: np.ndarray, active: int) -> None:
    """Half the window's frames are within 25 dB of the 95th percentile of the clip it is from."""
    loud = np.percentile(energies(clip[: len(clip) // 160 * 160]), 95)
    assert np.mean(energies(crop[-active:]) > loud * 10**-2.5) >= 0.5


def test_speakers_are_disjoint_and_complete(librispeech: Path) -> None:
    found = {
        split: set(sources.LibriSpeechFolder(librispeech, split).speakers)
        for split in layouts.SPLITS
    }
    assert {split: len(names) for split, names in found.items()} == {
        "train": 8,
        "validation": 1,
        "test": 1,
    }
    assert len(set.union(*found.values())) == 10
    assert len(sources.LibriSpeechFolder(librispeech, "all").speakers) == 10


def test_librispeech_own_subsets_are_the_splits(tmp_path: Path) -> None:
    for subset, speaker in (("train-clean-100", 1), ("dev-clean", 2), ("test-clean", 3)):
        write(tmp_path / subset / str(speaker) / "9" / f"{speaker}-9-0000.flac", talk(speaker))
    for split, speaker in (("train", "1"), ("validation", "2"), ("test", "3")):
        assert sources.LibriSpeechFolder(tmp_path, split).speakers == (speaker,)


def test_crop_ends_in_audible_speech(librispeech: Path) -> None:
    source = sources.LibriSpeechFolder(librispeech, "all")
    pool = source._clips.pool
    rng = np.random.default_rng(0)
    for _ in range(200):
        crop = source.crop(rng, 12000, 4000)
        assert crop.shape == (12000,) and crop.dtype == np.float32
        # Find the clip again by what the crop must hold of it: clips are different noises.
        tail = np.rint(crop[-13 * 160 :] * 32768).astype(np.int16).tobytes()
        held = [i for i in range(len(pool)) if tail in pool.clip(i).tobytes()]
        assert len(held) == 1
        check_window(pool.clip(held[0]) / 32768, crop, 4000)


def test_before_an_utterance_lies_silence() -> None:
    clip = np.full(8000, 1000, np.int16)
    pool = pcm.PcmPool.from_clips([clip], 25.0)
    crop = pool.read(0, 4000, 12000, looped=False)
    assert not crop[:8000].any() and np.all(crop[8000:] == np.float32(1000 / 32768))


def test_windows_reach_every_audible_place() -> None:
    clip = np.zeros(16000, np.int16)
    clip[8000:12000] = 3000
    pool = pcm.PcmPool.from_clips([clip], 25.0)
    rng = np.random.default_rng(0)
    ends = {pool.draw_end(rng, 0, 4000, 0.5, looped=False) for _ in range(2000)}
    # Half of a 4000-sample window (25 frames, so 13) overlaps the loud part.
    assert min(ends) == 8000 + 13 * 160 and max(ends) == 12000 + 12 * 160
    assert len(ends) == 25


def test_looped_window_counts_frames_across_the_seam() -> None:
    rng = np.random.default_rng(0)
    clip = np.zeros(4800, np.int16)
    clip[4000:] = 3000  # five audible frames at the end of thirty
    pool = pcm.PcmPool.from_clips([clip], 40.0)
    for _ in range(200):
        end = pool.draw_end(rng, 0, 4000, 0.2, looped=True)
        assert end is not None
        crop = pool.read(0, end, 12000, looped=True)
        assert np.mean(energies(crop[-4000:]) > 0) >= 0.2
        np.testing.assert_array_equal(crop[:7200], crop[4800:])


def test_crops_depend_on_the_generator_alone(librispeech: Path) -> None:
    source = sources.LibriSpeechFolder(librispeech, "train")
    wanted = [source.crop(np.random.default_rng(seed), 9000, 4000) for seed in range(32)]
    assert not np.array_equal(wanted[0], wanted[1])
    got: dict[int, np.ndarray] = {}

    def work(seeds: range) -> None:
        for seed in seeds:
            got[seed] = source.crop(np.random.default_rng(seed), 9000, 4000)

    threads = [threading.Thread(target=work, args=(range(k, 32, 4),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(32):
        np.testing.assert_array_equal(got[seed], wanted[seed])


def test_cache_gives_the_same_crops_without_decoding_again(
    librispeech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sources.LibriSpeechFolder(librispeech, "train")
    cached = sources.LibriSpeechFolder(librispeech, "train", cache_dir=tmp_path)
    monkeypatch.setattr(pcm, "_decode_all", lambda *_: pytest.fail("decoded again"))
    again = sources.LibriSpeechFolder(librispeech, "train", cache_dir=tmp_path)
    for source in (cached, again):
        np.testing.assert_array_equal(
            source.crop(np.random.default_rng(3), 8000, 4000),
            plain.crop(np.random.default_rng(3), 8000, 4000),
        )
    next(tmp_path.glob("*.pcm")).write_bytes(b"\0" * 10)
    with pytest.raises(InputError, match="delete it"):
        sources.LibriSpeechFolder(librispeech, "train", cache_dir=tmp_path)


def test_esc50_folds_stay_whole(esc50: Path) -> None:
    assert layouts.detect_noise_layout(esc50) == "esc"
    folds = {
        split: {clip.path.name[0] for clip in layouts.esc(esc50, split)} for split in layouts.SPLITS
    }
    assert folds == {"train": {"1", "2", "3"}, "validation": {"4"}, "test": {"5"}}
    source = sources.NoiseFolder(esc50, split="test")
    assert source.classes == ("dog", "rain")
    crop = source.crop(np.random.default_rng(0), 20000)  # longer than the clips: looped
    assert crop.shape == (20000,) and crop[-4000:].std() > 1e-3


def test_esc10_class_folders(tmp_path: Path) -> None:
    for fold in (1, 2, 3, 4):
        write(tmp_path / "001 - Dog bark" / f"{fold}-30{fold}-A.ogg", talk(fold, 0.5))
        write(tmp_path / "rain" / f"{fold}-40{fold}-A.ogg", talk(fold + 9, 0.5))
    source = sources.NoiseFolder(tmp_path)
    assert source.layout == "esc" and source.classes == ("Dog bark", "rain")
    assert {clip.path.name[0] for clip in layouts.esc(tmp_path, "validation")} == {"3"}


def test_fsd50k_has_its_own_splits_and_leaves_speech_out(fsd50k: Path) -> None:
    assert sources.NoiseFolder(fsd50k).classes == ("Electric_guitar",)
    assert sources.NoiseFolder(fsd50k, split="validation").classes == ("Bark",)
    assert sources.NoiseFolder(fsd50k, split="test").classes == ("Rain",)
    assert sources.NoiseFolder(fsd50k, exclude=()).classes == ("Electric_guitar", "Speech")


def test_flat_folder_divides_files(tmp_path: Path) -> None:
    for index in range(10):
        write(tmp_path / f"{index}.wav", talk(index, 0.3), rate=22050)
    parts = [{c.path for c in layouts.flat(tmp_path, s, (0.6, 0.2, 0.2))} for s in layouts.SPLITS]
    assert [len(part) for part in parts] == [6, 2, 2]
    assert len(set.union(*parts)) == 10
    assert sources.NoiseFolder(tmp_path).layout == "flat"


def test_decoding_resamples_averages_and_scales(tmp_path: Path) -> None:
    time = np.arange(44100) / 44100
    tone = 0.01 * np.sin(2 * np.pi * 1000 * time)
    write(tmp_path / "tone.wav", np.stack([tone, tone], axis=1), rate=44100)
    clip = pcm.decode_mono(tmp_path / "tone.wav")
    assert clip.dtype == np.int16 and len(clip) == RATE
    spectrum = np.abs(np.fft.rfft(clip / 32768.0))
    assert np.argmax(spectrum) == 1000
    assert np.abs(clip).max() == pytest.approx(0.9 * 32767, rel=1e-3)


def test_silent_clips_are_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", talk(1))
    write(tmp_path / "b.wav", np.zeros(RATE))
    source = sources.NoiseFolder(tmp_path, split="all")
    assert source.skipped == 1
    for seed in range(50):
        assert source.crop(np.random.default_rng(seed), 8000)[-4000:].any()


def test_mixture_follows_its_weights(librispeech: Path, esc50: Path) -> None:
    class Constant:
        def __init__(self, value: float) -> None:
            self.classes = self.speakers = (str(value),)
            self.value = value

        def crop(self, rng: np.random.Generator, samples: int, active: int = 0) -> np.ndarray:
            return np.full(samples, self.value, np.float32)

    rng = np.random.default_rng(0)
    speech = sources.MixtureSpeech([Constant(1.0), Constant(2.0)], [3.0, 1.0])
    share = np.mean([speech.crop(rng, 4, 4)[0] == 1.0 for _ in range(4000)])
    assert share == pytest.approx(0.75, abs=0.03)
    noise = sources.MixtureNoise([Constant(1.0), Constant(2.0)], [0.0, 1.0])
    assert all(noise.crop(rng, 4)[0] == 2.0 for _ in range(100))
    assert noise.classes == speech.speakers == ("1.0", "2.0")
    mixed = sources.noise_source([f"2*esc:{esc50}", "synthetic"])
    assert isinstance(mixed, sources.MixtureNoise) and "pink" in mixed.classes
    one = sources.speech_source(f"librispeech:{librispeech}", "test")
    assert isinstance(one, sources.LibriSpeechFolder)


@pytest.mark.parametrize("kind", ["white", "pink", "brown", "fan", "hum"])
def test_synthetic_noise_is_finite_and_level(kind: str) -> None:
    source = synthetic.SyntheticNoise((kind,))
    crop = source.crop(np.random.default_rng(0), 9001)
    assert crop.shape == (9001,) and crop.dtype == np.float32
    assert np.sqrt(np.mean(crop.astype(float) ** 2)) == pytest.approx(0.1, rel=1e-3)
    np.testing.assert_array_equal(crop, source.crop(np.random.default_rng(0), 9001))


@pytest.mark.parametrize(("kind", "slope"), [("white", 0.0), ("pink", -3.01), ("brown", -6.02)])
def test_power_law_noise_falls_as_named(kind: str, slope: float) -> None:
    """Power by octave, against the definition: 0, -3 and -6 dB for each octave of frequency."""
    crop = synthetic.SyntheticNoise((kind,)).crop(np.random.default_rng(1), 1 << 17)
    power = np.abs(np.fft.rfft(crop)) ** 2
    frequency = np.fft.rfftfreq(1 << 17, 1 / RATE)
    level = [
        10 * np.log10(power[(frequency >= low) & (frequency < 2 * low)].mean())
        for low in (125, 250, 500, 1000, 2000, 4000)
    ]
    assert np.polyfit(range(6), level, 1)[0] == pytest.approx(slope, abs=0.15)


def test_babble_needs_talkers(librispeech: Path) -> None:
    talkers = sources.LibriSpeechFolder(librispeech, "train")
    source = synthetic.SyntheticNoise(("white",), talkers)
    assert source.classes == ("white", "babble")
    assert np.isfinite([source.crop(np.random.default_rng(s), 8000).std() for s in range(8)]).all()
    with pytest.raises(InputError, match="grey"):
        synthetic.SyntheticNoise(("grey",))


def test_wrong_folders_say_what_was_expected(tmp_path: Path, librispeech: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        sources.LibriSpeechFolder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no audio files"):
        sources.LibriSpeechFolder(tmp_path)
    with pytest.raises(InputError, match="no audio files"):
        sources.NoiseFolder(tmp_path)
    write(tmp_path / "song.wav", talk(1))
    with pytest.raises(InputError, match="speaker-chapter-utterance"):
        sources.LibriSpeechFolder(tmp_path)
    with pytest.raises(InputError, match=r"esc50\.csv"):
        sources.NoiseFolder(tmp_path, "esc")
    with pytest.raises(InputError, match=r"dev\.csv"):
        sources.NoiseFolder(tmp_path, "fsd50k")
    with pytest.raises(InputError, match="layout 'wav' is unknown"):
        sources.NoiseFolder(tmp_path, "wav")
    with pytest.raises(InputError, match="1 files cannot be divided"):
        sources.NoiseFolder(tmp_path)
    with pytest.raises(InputError, match="split 'dev' is unknown"):
        sources.LibriSpeechFolder(librispeech, "dev")
    with pytest.raises(InputError, match="sum to 1"):
        sources.LibriSpeechFolder(librispeech, split_fractions=(0.5, 0.1, 0.1))


def test_missing_and_broken_files_are_named(tmp_path: Path, esc50: Path) -> None:
    table = tmp_path / "meta" / "esc50.csv"
    write_table(table, ["filename", "fold", "category"], [["1-1-A-0.wav", "1", "dog"]])
    with pytest.raises(InputError, match=r"1-1-A-0\.wav.*missing"):
        sources.NoiseFolder(tmp_path, split="all")
    write_table(table, ["filename", "fold"], [["1-1-A-0.wav", "1"]])
    with pytest.raises(InputError, match="no column category"):
        sources.NoiseFolder(tmp_path, split="all")
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "broken.wav").write_bytes(b"RIFF, but not much of it")
    with pytest.raises(InputError, match=r"broken\.wav: cannot be decoded"):
        pcm.decode_mono(tmp_path / "audio" / "broken.wav")


def test_no_audible_window_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "1-1-0000.flac", talk(1, 0.3))
    source = sources.LibriSpeechFolder(tmp_path, "all")
    with pytest.raises(InputError, match="no clip is audible"):
        source.crop(np.random.default_rng(0), 48000, 48000)
    with pytest.raises(InputError, match="does not fit"):
        source.crop(np.random.default_rng(0), 100, 4000)


@pytest.mark.parametrize("text", ["", "two words", "x*embedded", "librispeech", "mp3:/x"])
def test_bad_source_names(text: str) -> None:
    with pytest.raises(InputError):
        sources.speech_source(text)
    with pytest.raises(InputError):
        sources.noise_source([text])


def test_source_names() -> None:
    spec = sources.SourceSpec.parse("0.5*librispeech:/data/Libri Speech")
    assert spec == sources.SourceSpec("librispeech", "/data/Libri Speech", 0.5)
    assert sources.SourceSpec.parse("embedded") == sources.SourceSpec("embedded")
    with pytest.raises(InputError, match="no source"):
        sources.speech_source([])


def test_a_folder_too_large_for_memory_asks_for_a_cache(
    librispeech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pcm, "MEMORY_LIMIT", 1000)
    with pytest.raises(InputError, match="cache_dir"):
        sources.LibriSpeechFolder(librispeech)
