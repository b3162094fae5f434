# SPDX-License-Identifier: Apache-2.0
"""Token sets: records as bytes, export, resumption, what is refused, and the cache of audio features."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from llm_bridge.tokens import export, record
from llm_bridge.tokens import manifest as manifests
from llm_bridge.tokens.audio_cache import AudioCache
from llm_bridge.tokens.clips import ConversationSource, RecordingSource, Source
from llm_bridge.tokens.export import ExportConfig, export_tokens
from llm_bridge.tokens.record import HEADS, Talker, TokenRecord
from llm_bridge.tokens.token_set import TokenSet
from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.errors import InputError
from tests.unit.llm_bridge.token_clips import CONVERSATION, LevelEncoder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "load", lambda path: LevelEncoder())


def conversations(count: int = 5, **changes: Any) -> dict[str, Source]:
    wanted = {"conversation": CONVERSATION, "count": count, "split": "validation", **changes}
    return {"talk": ConversationSource(**wanted)}


def exported(folder: Path, said: list[str] | None = None, **changes: Any) -> Path:
    config = ExportConfig(sources=conversations(**changes), shard_size=2, threads=2)
    export_tokens(config, folder, (said if said is not None else []).append)
    return folder / "talk"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def example() -> TokenRecord:
    rng = np.random.default_rng(0)
    return TokenRecord(
        key="train-0-0000001",
        tokens=rng.standard_normal((7, 256)).astype(np.float16),
        heads={name: rng.standard_normal(7).astype(np.float32) for name in HEADS},
        talkers=(Talker(0.2, 1.0, -170.5, 3.25, 1.5, "Where is Zoë's umbrella?", "af_bella"),),
        audio=np.round(rng.uniform(-1, 0.99, 17000) * 32768).astype(np.float32) / 32768,
        mixed=np.zeros(17000, np.float32),
        seconds=17000 / SAMPLE_RATE,
        array="4 random microphones",
        seed=2**63,
        rt60=0.4,
    )


def test_a_record_survives_its_bytes() -> None:
    before = example()
    after = record.decode(before.encode())
    for name in ("key", "talkers", "seconds", "array", "seed", "rt60"):
        assert getattr(after, name) == getattr(before, name)
    for name in ("tokens", "audio", "mixed"):
        ours, theirs = getattr(before, name), getattr(after, name)
        assert np.array_equal(ours, theirs) and ours.dtype == theirs.dtype
    assert all(np.array_equal(before.heads[name], after.heads[name]) for name in HEADS)
    assert before.encode() == after.encode()
    assert record.decode_talkers(before.encode()) == (before.key, before.talkers)


@pytest.mark.parametrize("damage", ["empty", "foreign", "cut", "longer", "header"])
def test_bytes_that_are_no_record_are_refused(damage: str) -> None:
    data = example().encode()
    broken = {
        "empty": b"",
        "foreign": b"RIFF" + data[4:],
        "cut": data[:-100],
        "longer": data + b"x",
        "header": data[:20] + b"\xff\xff" + data[22:],
    }[damage]
    with pytest.raises(InputError, match="not a token record"):
        record.decode(broken)


@pytest.mark.usefixtures("quick")
def test_an_exported_set_holds_the_conversations(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    tokens = TokenSet(folder)
    opened = conversations()["talk"].open()
    assert len(tokens) == 5 == len(list(tokens))
    for index in (0, 3, -1):
        made, clip = tokens[index], opened.clip(index % 5)
        assert made.key == clip.key and made.talkers == clip.talkers == tokens.talkers(index)
        assert len(made.tokens) == -(-clip.channels.shape[1] // HOP)
        # 16 bits
        np.testing.assert_allclose(made.audio, clip.audio, atol=1.01 / 65536)
        np.testing.assert_allclose(made.mixed, clip.mixed, atol=1.01 / 65536)
    brief = tokens.without_audio(1)
    assert len(brief.audio) == len(brief.mixed) == 0 and brief.talkers == tokens[1].talkers
    assert np.array_equal(brief.tokens, tokens[1].tokens) and brief.seconds == tokens[1].seconds
    manifest = tokens.manifest
    assert (manifest["hop"], manifest["sample_rate"], manifest["width"]) == (2560, 16000, 256)
    assert (manifest["seed"], manifest["split"], manifest["count"]) == (0, "validation", 5)
    assert manifest["encoder"] == {"name": "level", "digest": tokens.encoder_digest}
    assert [shard["records"] for shard in manifest["shards"].values()] == [2, 2, 1]
    with pytest.raises(IndexError):
        tokens[5]
    with pytest.raises(InputError, match="holds tokens of encoder 'level'"):
        tokens.require_encoder("0" * 64)
    tokens.require_encoder(tokens.encoder_digest)


@pytest.mark.usefixtures("quick")
def test_an_interrupted_export_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = exported(tmp_path / "whole")
    calls: list[int] = []
    original = export.encode_clips

    def failing(encoder: Any, clips: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(encoder, clips)

    monkeypatch.setattr(export, "encode_clips", failing)
    with pytest.raises(KeyboardInterrupt):
        exported(tmp_path / "part")
    part = tmp_path / "part" / "talk"
    # The finished shard and the manifest, and nothing of the one that was interrupted.
    assert sorted(files(part)) == ["manifest.json", "tokens-00000-of-00003.arrayrecord"]
    with pytest.raises(InputError, match="unfinished: 1 of 3 shards"):
        TokenSet(part)
    kept = (part / "tokens-00000-of-00003.arrayrecord").stat().st_mtime_ns
    exported(tmp_path / "part")
    assert (part / "tokens-00000-of-00003.arrayrecord").stat().st_mtime_ns == kept
    assert files(part) == files(whole)


@pytest.mark.usefixtures("quick")
def test_a_damaged_shard_is_refused_and_made_again(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    before = files(folder)
    shard = folder / "tokens-00001-of-00003.arrayrecord"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"tokens-00001.* differs from its checksum"):
        TokenSet(folder)
    shard.write_bytes(b"half")
    with pytest.raises(InputError, match=r"tokens-00001-of-00003.arrayrecord is damaged"):
        TokenSet(folder, verify=False)
    shard.unlink()
    with pytest.raises(InputError, match=r"tokens-00001.* is missing"):
        TokenSet(folder)
    said: list[str] = []
    exported(tmp_path, said)
    assert any("is missing: made again" in line for line in said)
    assert files(folder) == before


@pytest.mark.usefixtures("quick")
def test_other_settings_and_edited_manifests_are_refused(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    with pytest.raises(InputError, match=r"another configuration(.|\n)*max_seconds: 6.0 -> 5.0"):
        exported(tmp_path, conversation=replace(CONVERSATION, max_seconds=5.0))
    with pytest.raises(InputError, match=r"seed: 0 -> 1"):
        exported(tmp_path, seed=1)
    path = folder / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"hop": 2560', '"hop": 4000'))
    with pytest.raises(InputError, match="was edited"):
        TokenSet(folder)
    manifest = manifests._parsed(json.loads(text), path)
    manifests.save(replace(manifest, hop=4000), folder)
    with pytest.raises(InputError, match="a token each 4000 samples at 16000 Hz"):
        TokenSet(folder)
    path.write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        TokenSet(folder)
    path.unlink()
    with pytest.raises(InputError, match="holds no token set"):
        TokenSet(folder)


def recording(path: Path, seconds: float, channels: int = 4, rate: int = SAMPLE_RATE) -> Path:
    rng = np.random.default_rng(0)
    samples = 0.1 * rng.standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


@pytest.mark.usefixtures("quick")
def test_recordings_are_exported_and_long_ones_cut(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    recording(folder / "long.wav", 61.0)
    recording(folder / "short.flac", 1.5, rate=48000)
    source = RecordingSource(paths=folder, array="tetrahedron")
    export_tokens(ExportConfig(sources={"room": source}), tmp_path / "out", lambda line: None)
    tokens = TokenSet(tmp_path / "out" / "room")
    assert [each.key for each in tokens] == ["long@000s", "long@030s", "long@060s", "short"]
    assert [len(each.tokens) for each in tokens] == [188, 188, 7, 10]
    assert not tokens.manifest["labelled"] and tokens[0].talkers == ()
    samples, _ = soundfile.read(folder / "long.wav", dtype="float32")
    # 16 bits
    np.testing.assert_allclose(
        tokens[1].mixed, samples[480000:960000].mean(axis=1), atol=1.01 / 65536
    )
    assert np.array_equal(tokens[1].audio, tokens[1].mixed)
    refused = ExportConfig(sources={"room": replace(source, long_clips="refuse")})
    with pytest.raises(InputError, match=r"long.wav lasts 61.0 s, a clip at most 30 s"):
        export_tokens(refused, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.usefixtures("quick")
def test_recordings_that_cannot_be_encoded_leave_nothing(tmp_path: Path) -> None:
    good = recording(tmp_path / "good.wav", 1.0)
    empty = recording(tmp_path / "empty.wav", 0.0)
    six = recording(tmp_path / "six.wav", 1.0, channels=6)
    for bad, message in (
        (empty, "empty.wav"),
        (six, r"6 channels"),
        (tmp_path / "no.wav", "no.wav"),
    ):
        source = RecordingSource(paths=[good, bad], array="tetrahedron")
        with pytest.raises(InputError, match=message):
            export_tokens(ExportConfig(sources={"room": source}), tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="choose 'split' or 'refuse'"):
        RecordingSource(paths=good, array="tetrahedron", long_clips="cut")


class CountingEncoder:
    """Mean and peak of every 160 ms."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        self.calls += 1
        parts = np.pad(audio, (0, -len(audio) % HOP)).reshape(-1, HOP)
        return np.stack([parts.mean(axis=1), np.abs(parts).max(axis=1)], axis=1)


@pytest.fixture
def tokens(tmp_path: Path, quick: None) -> Iterator[TokenSet]:
    yield TokenSet(exported(tmp_path))


def test_audio_features_are_computed_once(
    tokens: TokenSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_bridge.tokens.audio_cache.SHARD_SIZE", 2)
    encoder = CountingEncoder()

    def cache(digest: str = "1", **options: Any) -> AudioCache:
        return AudioCache(
            tokens,
            lambda: encoder,
            name="mean, of two",
            digest=digest,
            progress=lambda _: None,
            **options,
        )

    made = cache()
    assert made.directory == tokens.directory / "audio-mean-of-two-dry"
    assert encoder.calls == len(made) == 5 and made.width == 2
    for index in (0, 1, 4, -1):
        wanted = encoder(tokens[index].audio).astype(np.float16)
        assert made[index].dtype == np.float16 and np.array_equal(made[index], wanted)
        assert len(made[index]) == len(tokens[index].tokens)
    calls = encoder.calls
    again = AudioCache(tokens, lambda: pytest.fail("not needed"), name="mean, of two", digest="1")
    assert np.array_equal(again[3], made[3])
    before = np.array(made[3])
    (made.directory / "features-00001-of-00003.f16").write_bytes(b"half")
    assert np.array_equal(cache()[3], before) and encoder.calls == calls + 2
    assert np.array_equal(cache(source="mixed")[2], encoder(tokens[2].mixed).astype(np.float16))
    with pytest.raises(InputError, match=r"holds other features(.|\n)*digest 1.*digest 2"):
        cache("2")


def test_audio_features_of_another_grid_are_refused(tokens: TokenSet) -> None:
    with pytest.raises(InputError, match="one vector per 2560 samples"):
        AudioCache(tokens, lambda: lambda audio: np.ones((3, 4)), name="x", digest="1")
    assert not (tokens.directory / "audio-x-dry").exists()


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="sources is empty"):
        ExportConfig(sources={})
    with pytest.raises(InputError, match="not the name of a folder"):
        ExportConfig(sources={"../up": conversations()["talk"]})
    with pytest.raises(InputError, match="count is 0"):
        conversations(0)
    with pytest.raises(InputError, match="shard_size is 0"):
        ExportConfig(sources=conversations(), shard_size=0)
