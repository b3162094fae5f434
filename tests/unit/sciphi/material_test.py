# SPDX-License-Identifier: Apache-2.0
"""What sounds in scenes: captions of every class, transcripts, folders in published layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from sciphi.material import (
    USES,
    caption_of,
    captions,
    categories,
    open_events,
    open_speech,
)
from sciphi.records import FOA_RATE
from spatial_core.corpus import embedded
from spatial_core.errors import InputError

ESC_10 = (
    "baby_cry chainsaw clock_tick dog_bark fire_crackling helicopter person_sneeze rain rooster sea_waves"
).split()


def write_tone(path: Path, seconds: float = 1.0, rate: int = 16_000, silence: float = 0.0) -> None:
    time = np.arange(round(seconds * rate)) / rate
    quiet = np.zeros(round(silence * rate))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate([quiet, 0.3 * np.sin(2500 * time), quiet]), rate)


def test_every_embedded_clip_and_every_class_of_esc_10_has_a_readable_caption() -> None:
    known, clips = captions()
    files = embedded.read_manifest("noise")["files"]
    named = [(clip["label"], clip["key"]) for entry in files for clip in entry["clips"]]
    assert {label for label, _ in named} | set(ESC_10) <= known.keys()
    for label, key in [*named, *((label, "") for label in ESC_10)]:
        caption = caption_of(label, key)
        assert caption.use in USES
        assert caption.caption == caption.caption.strip() and "_" not in caption.caption
        assert caption.caption[0].islower() and len(caption.caption) < 40
    # Nothing in the file is for nothing.
    assert all(any(key.startswith(name) for _, key in named) for name in clips)


def test_a_clip_is_called_by_its_own_name_first() -> None:
    assert caption_of("drum", "drum_cowbell").caption == "a cowbell"
    assert caption_of("drum", "drum_tom_hi_hard").caption == "a tom-tom drum"
    assert (
        caption_of("dog").caption == caption_of("dog_bark", "1-100032-A").caption == "a dog barking"
    )
    assert caption_of("Glass_breaking").caption == "glass breaking"
    assert caption_of("Glass_breaking").use == "event"


def test_embedded_speech_knows_its_words_and_its_speaker() -> None:
    speech = open_speech("embedded", "validation", 9.0)
    sexes = {entry["label"]: entry["sex"] for entry in embedded.read_manifest("speech")["files"]}
    said = {sentence.key: sentence for sentence in embedded.sentences("validation")}
    assert len(speech.items) == len(said)
    for number, sound in enumerate(speech.items):
        assert sound.transcript == said[sound.key].text
        assert sound.label == f"English {sexes[sound.group]} speech"
        audio = speech.audio(number)
        seconds = len(said[sound.key].samples) / 16_000
        # Silence at the ends is cut off.
        assert 0.6 * seconds < len(audio) / FOA_RATE <= seconds
        assert np.abs(audio).max() == pytest.approx(0.9, abs=0.01)


def test_sounds_are_events_or_backgrounds_or_both() -> None:
    events = open_events("embedded", "train")
    backgrounds = open_events("embedded", "train", use="background")
    assert {sound.key for sound in backgrounds.items} >= {"ambi_haunted_hum", "ambi_lunar_land"}
    both = {sound.key for sound in events.items} & {sound.key for sound in backgrounds.items}
    assert both == {"ambi_choir", "ambi_piano"}
    assert {sound.category for sound in events.items} <= set(categories("embedded", "embedded"))
    assert "rain" not in categories("embedded", "embedded")


def test_a_folder_of_esc_is_read_at_full_bandwidth_and_trimmed(tmp_path: Path) -> None:
    for fold in range(1, 5):
        write_tone(tmp_path / "dog_bark" / f"{fold}-1000-A.wav", 0.5, 44_100, silence=0.4)
        write_tone(tmp_path / "rain" / f"{fold}-2000-A.wav", 1.0, 44_100)
    spec = f"esc:{tmp_path}"
    events = open_events(spec, "train")
    assert [sound.label for sound in events.items] == ["a dog barking", "a dog barking"]
    assert len(events.audio(0)) / FOA_RATE == pytest.approx(0.5, abs=0.03)
    rain = open_events(("embedded", spec), "test", use="background").items
    assert {"rain falling", "the steam of a sauna"} <= {sound.label for sound in rain}
    assert categories((), spec) == ("animal",)


def librispeech(root: Path) -> None:
    for speaker in range(10, 20):
        write_tone(root / "dev-clean" / f"{speaker}" / "7" / f"{speaker}-7-0000.flac", 2.0)
        write_tone(root / "dev-clean" / f"{speaker}" / "7" / f"{speaker}-7-0001.flac", 8.0)


def test_librispeech_tells_words_and_sex_where_it_has_them(tmp_path: Path) -> None:
    librispeech(tmp_path)
    spec = f"librispeech:{tmp_path}"
    with pytest.raises(InputError, match=r"neither transcripts nor a SPEAKERS.TXT"):
        open_speech(spec, "train", 5.0)
    rows = [f"{n} | {'F' if n % 2 else 'M'} | dev-clean | 8.0 | Someone" for n in range(10, 20)]
    (tmp_path / "SPEAKERS.TXT").write_text(";ID |SEX| SUBSET\n" + "\n".join(rows), "utf-8")
    silent = open_speech(spec, "train", 5.0)
    assert len(silent.items) == 8  # of ten speakers; the utterance that is short enough
    for sound in silent.items:
        sex = "female" if int(sound.group) % 2 else "male"
        assert sound.label == f"English {sex} speech" and sound.transcript is None
    for speaker in range(10, 20):
        folder = tmp_path / "dev-clean" / f"{speaker}" / "7"
        lines = [f"{speaker}-7-000{n} HELLO THERE {speaker}" for n in range(2)]
        (folder / f"{speaker}-7.trans.txt").write_text("\n".join(lines), "utf-8")
    told = open_speech(spec, "train", 5.0)
    assert {sound.transcript for sound in told.items} == {
        f"Hello there {sound.group}" for sound in told.items
    }
    (tmp_path / "SPEAKERS.TXT").unlink()
    assert {sound.label for sound in open_speech(spec, "train", 5.0).items} == {"English speech"}
    with pytest.raises(InputError, match=r"as short as 1 s"):
        open_speech(spec, "train", 1.0)


@pytest.mark.parametrize("spec", ["synthetic", "esc", "librispeech:/x"])
def test_other_sources_of_sounds_are_refused(spec: str) -> None:
    with pytest.raises(InputError, match="are unknown"):
        open_events(spec, "train")


def test_other_sources_of_speech_are_refused() -> None:
    with pytest.raises(InputError, match="speech of 'esc' is unknown"):
        open_speech("esc:/x", "train", 5.0)
