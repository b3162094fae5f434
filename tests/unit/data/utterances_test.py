# SPDX-License-Identifier: Apache-2.0
"""Whole utterances with transcripts: the embedded corpus, and folders in LibriSpeech's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spatial_core.corpus.embedded import read_manifest
from spatial_core.data.utterances import EmbeddedUtterances, load_utterances
from spatial_core.errors import InputError


def librispeech(root: Path, transcripts: bool = True) -> Path:
    """Three speakers of two utterances each, as LibriSpeech is unpacked."""
    rng = np.random.default_rng(0)
    for speaker in (84, 174, 251):
        folder = root / "dev-clean" / str(speaker) / "121"
        folder.mkdir(parents=True)
        lines = []
        for number in range(2):
            key = f"{speaker}-121-{number:04d}"
            samples = 0.1 * rng.standard_normal(16000 + 160 * number)
            soundfile.write(folder / f"{key}.flac", samples, 16000)
            lines.append(f"{key} GO AND SAY {'TWO' if number else 'ONE'}, MISTER {speaker}'S SON")
        if transcripts:
            (folder / f"{speaker}-121.trans.txt").write_text("\n".join(lines) + "\n")
    return root


def test_embedded_utterances_are_those_of_the_manifest() -> None:
    source = EmbeddedUtterances("validation")
    texts = {
        clip["key"]: clip["text"]
        for entry in read_manifest("speech")["files"]
        if entry["split"] == "validation"
        for clip in entry["clips"]
    }
    assert {item.key: item.text for item in source.items} == texts
    audio = source.audio(3)
    assert audio.dtype == np.float32 and len(audio) == source.items[3].samples
    assert 0.01 < np.abs(audio).max() <= 1
    others = EmbeddedUtterances("test")
    assert not {item.speaker for item in source.items} & {item.speaker for item in others.items}
    assert source.fingerprint != others.fingerprint


def test_librispeech_transcripts_are_read_from_its_own_lists(tmp_path: Path) -> None:
    source = load_utterances(f"librispeech:{librispeech(tmp_path)}", "all")
    item = source.items[1]
    assert (item.key, item.speaker, item.samples) == ("174-121-0001", "174", 16160)
    assert item.text == "Go and say two, mister 174's son"
    assert len(source.audio(1)) == 16160
    train, test = (load_utterances(f"librispeech:{tmp_path}", s) for s in ("train", "test"))
    assert not {i.speaker for i in train.items} & {i.speaker for i in test.items}


def test_punctuated_transcripts_of_librispeech_pc_are_preferred(tmp_path: Path) -> None:
    librispeech(tmp_path)
    lines = [
        {"audio_filepath": f"dev-clean/84/121/84-121-000{i}.flac", "duration": 1.0, "text": text}
        for i, text in enumerate(["Go, and say one!", "Go; say two."])
    ]
    (tmp_path / "dev-clean.json").write_text("\n".join(json.dumps(line) for line in lines))
    source = load_utterances(f"librispeech:{tmp_path}", "all")
    assert [item.text for item in source.items] == ["Go, and say one!", "Go; say two."]
    assert source.skipped == 4  # type: ignore[attr-defined]


def test_a_folder_without_transcripts_is_refused(tmp_path: Path) -> None:
    librispeech(tmp_path, transcripts=False)
    with pytest.raises(InputError, match=r"none of the 6 utterances .* has a transcript"):
        load_utterances(f"librispeech:{tmp_path}", "all")
    (tmp_path / "notes.json").write_text("[1, 2]\n")
    with pytest.raises(InputError, match=r"notes.json, line 1"):
        load_utterances(f"librispeech:{tmp_path}", "all")
    with pytest.raises(InputError, match="use embedded or librispeech"):
        load_utterances("esc:/data", "all")
