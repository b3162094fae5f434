# SPDX-License-Identifier: Apache-2.0
"""The corpus in the package: what its manifests promise, its splits, and its rendering plan."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any

import numpy as np
import pytest

from spatial_core.corpus import clips, embedded, plan
from spatial_core.data import sources

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module", params=["speech", "noise"])
def part(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def entries(part: str) -> list[dict[str, Any]]:
    """Every clip of a manifest with its file's facts."""
    found = []
    for entry in embedded.read_manifest(part)["files"]:
        facts = {k: v for k, v in entry.items() if k != "clips"}
        found += [{**facts, **clip} for clip in entry["clips"]]
    return found


def test_files_are_the_ones_that_the_manifest_names(part: str) -> None:
    folder = resources.files("spatial_core.corpus") / part
    files = embedded.read_manifest(part)["files"]
    for entry in files:
        content = (folder / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["file"]
    present = {f.name for f in folder.iterdir() if f.name.endswith(".ogg")}
    assert present == {entry["file"] for entry in files}


def test_every_clip_belongs_to_one_split(part: str) -> None:
    keys = [clip["key"] for clip in entries(part)]
    assert len(set(keys)) == len(keys)
    assert {clip["split"] for clip in entries(part)} == set(SPLITS)
    assert embedded.read_manifest(part)["licence"] in ("Apache-2.0", "CC0-1.0")


def test_voices_and_sentences_are_disjoint_by_split() -> None:
    spoken = entries("speech")
    for field in ("label", "text"):
        sets = [{clip[field] for clip in spoken if clip["split"] == split} for split in SPLITS]
        assert len(set.union(*sets)) == sum(len(one) for one in sets), field
    voices = {clip["label"]: clip for clip in spoken}
    assert len(voices) == 54
    for split, count in (("train", 40), ("validation", 6), ("test", 8)):
        own = [clip for clip in voices.values() if clip["split"] == split]
        women = sum(clip["sex"] == "female" for clip in own)
        native = sum(clip["tongue"].startswith("en") for clip in own)
        assert len(own) == count
        assert 0.4 <= women / count <= 0.6 and 0.4 <= native / count <= 0.6


def test_clips_are_loud_and_cut_to_the_sound() -> None:
    for loaded in (embedded.load("speech", "validation")[0], embedded.load("noise", "test")[0]):
        for clip in loaded:
            assert clip.dtype == np.int16 and len(clip) >= 1600
            assert 0.25 < np.abs(clip.astype(float)).max() / 32768 <= 1.0
    for clip in embedded.load("speech", "validation")[0]:
        assert 0.8 < len(clip) / 16000 < 8.0


@pytest.mark.parametrize("split", ["validation", "test"])
def test_sources_give_audible_windows(split: str) -> None:
    speech, noise = sources.EmbeddedSpeech(split), sources.EmbeddedNoise(split)
    assert speech.skipped == noise.skipped == 0
    rng = np.random.default_rng(0)
    for _ in range(300):
        assert speech.crop(rng, 12000, 4000)[-4000:].std() > 3e-3
        assert noise.crop(rng, 12000)[-4000:].std() > 3e-5
    wanted = speech.crop(np.random.default_rng(7), 9000, 4000)
    again = sources.speech_source("embedded", split).crop(np.random.default_rng(7), 9000, 4000)
    np.testing.assert_array_equal(wanted, again)


def test_plan_is_balanced_from_the_start_and_speaks_no_sentence_in_two_splits() -> None:
    sentences = resources.files("spatial_core.corpus").joinpath("sentences.txt").read_text("utf-8")
    lines = [line for line in sentences.splitlines() if line]
    assert len(set(lines)) == len(lines) >= 240
    voices = [clip["label"] for clip in entries("speech")]
    spoken = plan.plan_utterances(sorted(set(voices)), lines, seed=1)
    assert len({u.voice for u in spoken[:54]}) == 54
    splits: dict[str, set[str]] = {}
    for utterance in spoken:
        splits.setdefault(utterance.text, set()).add(utterance.split)
    assert all(len(found) == 1 for found in splits.values())
    assert [u.wav for u in spoken] == [
        u.wav for u in plan.plan_utterances(sorted(set(voices)), lines, seed=1)
    ]


def test_trimming_keeps_the_sound_and_its_margin() -> None:
    samples = np.zeros(16000, np.float32)
    samples[4000:8000] = 0.5
    kept = clips.trim_silence(samples, 45.0, pad=480)
    assert np.count_nonzero(kept) == 4000 and len(kept) == 25 * 160 + 2 * 480
    assert len(clips.trim_silence(np.zeros(1000, np.float32), 45.0, pad=0)) == 0
