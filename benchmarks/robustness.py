# SPDX-License-Identifier: Apache-2.0
"""What the encoder promises about geometry, measured: turning, size, microphone count, a real baffle.

    python benchmarks/robustness.py --out=runs/robustness
    python benchmarks/robustness.py --eigenmike=em32_rir.wav --eigenmike_direction=76.5,-17

All scenes come from the test split (rooms, arrays and voices that no training saw), one talker,
without distractor. --eigenmike is a measured response of the 32 capsules of an Eigenmike em32, a
rigid sphere of 4.2 cm radius: sound bends around it, which the free-field model does not know.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import scipy.signal
from absl import app, flags
from em32 import EM32, EM32_RADIUS

from phasecoder.pretrained import Encoder, load, window_batch
from spatial_core.audio.io import load_audio
from spatial_core.data.pipeline import SceneStream
from spatial_core.data.sources import speech_source
from spatial_core.eval.steered import SteeredResponse
from spatial_core.geometry.coords import azimuth_error, rotate_z, to_cartesian
from spatial_core.sim.scene import SceneConfig

_MODEL = flags.DEFINE_string(
    "model", None, "A run's folder or a release; default: the shipped one."
)
_SPEECH = flags.DEFINE_string("speech", "embedded", "Speech source, as SceneStream.speech.")
_CLIPS = flags.DEFINE_integer("clips", 512, "Clips of each row.")
_EIGENMIKE = flags.DEFINE_string("eigenmike", None, "A measured response, 32 channels.")
_DIRECTION = flags.DEFINE_list("eigenmike_direction", ["76.5", "-17"], "Its azimuth, elevation.")
_OUT = flags.DEFINE_string("out", "runs/robustness", "Folder for robustness.json.")


def scenes(**changes) -> list[dict[str, np.ndarray]]:
    """Held-out batches of the paper's recipe without distractor, with ``changes`` to its scenes."""
    settings = {"distractor": False, "speech_dropout": 0.0, **changes}
    stream = SceneStream(
        scene=SceneConfig(**settings),
        speech=_SPEECH.value,
        split="test",
        batch_size=64,
        crops_per_rir=1,
        max_mics=settings.get("max_mics", 8),
    )
    return [stream.batch(step) for step in range(max(_CLIPS.value // 64, 1))]


def errors(localizer, batches) -> np.ndarray:
    """Absolute azimuth errors in degrees over all batches."""
    parts = [azimuth_error(localizer.predict(b)["azimuth"], b["azimuth"]) for b in batches]
    return np.concatenate(parts)


def row(values: np.ndarray) -> dict[str, float]:
    """Median, mean and share within 10 degrees."""
    return {
        "median": round(float(np.median(values)), 2),
        "mae": round(float(np.mean(values)), 2),
        "acc_at_10": round(float(np.mean(values <= 10)), 4),
    }


def compare(title: str, encoder: Encoder, batches) -> dict:
    """One row of a table: the encoder beside SRP-PHAT on the same clips."""
    result = {
        "title": title,
        "encoder": row(errors(encoder, batches)),
        "srp_phat": row(errors(SteeredResponse(), batches)),
    }
    print(json.dumps(result), flush=True)
    return result


def turning(encoder: Encoder) -> dict:
    """Turn the coordinates under the same audio: by how much does the answer fail to turn along."""
    batches = scenes()
    result = {"title": "turned about the vertical"}
    for angle in (10.0, 5.0, 17.0, 90.0, 133.0):
        off = []
        for batch in batches:
            turned = dict(batch)
            turned["mic_positions"] = rotate_z(batch["mic_positions"], angle).astype(np.float32)
            before, after = (encoder.predict(b)["azimuth"] for b in (batch, turned))
            off.append(azimuth_error(after, before + angle))
        off = np.concatenate(off)
        median, tail = np.quantile(off, [0.5, 0.95])
        result[f"{angle:g} degrees"] = {"median": float(median), "95%": float(tail)}
    print(json.dumps(result), flush=True)
    return result


def eigenmike(encoder: Encoder) -> list[dict]:
    """Speech of held-out voices through the measured response, at random subsets of capsules."""
    response = load_audio(_EIGENMIKE.value, sample_rate=16_000).samples
    azimuth, elevation = map(float, _DIRECTION.value)
    colatitude, turn = np.asarray(EM32, float).T
    places = EM32_RADIUS * to_cartesian(turn, 90.0 - colatitude)
    voice = speech_source(_SPEECH.value, "test")
    rows = []
    for count in (4, 6, 8, 12):
        batches = []
        for clip in range(_CLIPS.value // 4):
            rng = np.random.default_rng([count, clip])
            chosen = rng.choice(32, count, replace=False)
            dry = voice.crop(rng, 4000 + response.shape[1] - 1, 4000)
            wet = scipy.signal.fftconvolve(dry[None], response[chosen], axes=1)
            wet = wet[:, response.shape[1] - 1 :][:, :4000]
            wet += rng.normal(size=wet.shape) * np.sqrt(np.mean(wet**2)) * 10 ** (-40 / 20)
            centred = places[chosen] - places[chosen].mean(axis=0)
            batch = window_batch(wet[None], centred)
            batches.append({**batch, "azimuth": np.array([azimuth]), "elevation": elevation})
        rows.append(compare(f"Eigenmike, {count} of 32 capsules", encoder, batches))
    return rows


def main(argv: list[str]) -> None:
    """Measure everything and write OUT/robustness.json."""
    del argv
    encoder = load(_MODEL.value)
    results = [turning(encoder)]
    for size in (0.046, 0.07, 0.12, 0.18, 0.24, 0.30):
        batches = scenes(array_diameter=(size, size), min_mics=4, max_mics=8)
        results.append(compare(f"arrays of {100 * size:.1f} cm", encoder, batches))
    for count in (2, 3, 4, 6, 8, 12, 16):
        batches = scenes(min_mics=count, max_mics=max(count, 3) if count > 2 else 2)
        results.append(compare(f"{count} microphones", encoder, batches))
    if _EIGENMIKE.value:
        results += eigenmike(encoder)
    folder = Path(_OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "robustness.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    app.run(main)
