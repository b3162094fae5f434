# SPDX-License-Identifier: Apache-2.0
"""What several windows together are worth for a talker who stays put: errors by length of context.

    python benchmarks/context.py --recordings=100 --seed=0

Recordings of 3.6 s, 2 s of them speech, of the test split (rooms, arrays and voices that no training
saw): RT60 0.3 to 0.8 s, 3 to 8 microphones at random in 7 to 18 cm, microphone noise 0 to 20 dB below
the speech.
"""

from __future__ import annotations

import numpy as np
from absl import app, flags

from phasecoder.api import localize
from phasecoder.pretrained import load
from phasecoder.rehearsal import record_scene
from spatial_core.data.records import SAMPLE_RATE
from spatial_core.data.sources import speech_source
from spatial_core.geometry.coords import azimuth_error
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.rooms import RoomConfig
from spatial_core.sim.scene import SceneConfig, sample_scene

_MODEL = flags.DEFINE_string(
    "model", None, "A run's folder or a release; default: the shipped one."
)
_RECORDINGS = flags.DEFINE_integer("recordings", 100, "Recordings, each of another room and array.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the scenes.")
CONTEXTS = (0.0, 0.5, 1.0, 2.0, 4.0)
SCENES = SceneConfig(
    distractor=False,
    speech_dropout=0.0,
    sensor_noise_db=(0.0, 20.0),
    room=RoomConfig(min_rt60=0.3, max_rt60=0.8),
)


def row(errors: np.ndarray, confidence: np.ndarray) -> str:
    """Median, mean, share within 10 degrees, and the confidence that was stated."""
    return (
        f"{np.median(errors):5.1f}° | {errors.mean():5.1f}° | {100 * np.mean(errors <= 10):3.0f}% | "
        f"{100 * confidence.mean():3.0f}%"
    )


def main(argv: list[str]) -> None:
    """Print one row for each context: of every estimate, and of the whole recording."""
    del argv
    encoder, simulator, speech = (
        load(_MODEL.value),
        FastSimulator(),
        speech_source("embedded", "test"),
    )
    found: dict[float, list[tuple[np.ndarray, ...]]] = {context: [] for context in CONTEXTS}
    for index in range(_RECORDINGS.value):
        rng = np.random.default_rng([_SEED.value, index])
        take = record_scene(sample_scene(rng, SCENES), simulator, speech, rng, stretches=1)
        for context in CONTEXTS:
            answer = localize(take.audio, take.array, SAMPLE_RATE, encoder, context=context)
            if answer.overall is None:
                continue
            heard = answer.speech
            found[context].append(
                (
                    azimuth_error(answer.azimuth[heard], take.azimuth),
                    answer.confidence[heard],
                    azimuth_error(np.array([answer.overall.azimuth]), take.azimuth),
                    np.array([answer.overall.confidence]),
                )
            )
    print(
        "| context | estimates: median | MAE | within 10° | stated | overall: median | MAE | ",
        end="",
    )
    print("within 10° | stated |\n|---|" + "---:|" * 8)
    for context, parts in found.items():
        each, sure, overall, overall_sure = (np.concatenate(column) for column in zip(*parts))
        print(f"| {context:g} s | {row(each, sure)} | {row(overall, overall_sure)} |")
    print(f"{len(found[0.0])} of {_RECORDINGS.value} recordings with speech, seed {_SEED.value}")


if __name__ == "__main__":
    app.run(main)
