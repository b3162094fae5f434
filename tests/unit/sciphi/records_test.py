# SPDX-License-Identifier: Apache-2.0
"""Truths of scenes: exact JSON both ways, and clear refusals."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from sciphi.records import FOA_RATE, Scene, SceneTruth, SourceTruth
from spatial_core.errors import InputError

SPEECH = SourceTruth(
    label="English female speech",
    kind="speech",
    category="female speech",
    transcript="It's late, isn't it?",
    onset=0.1 + 0.2,
    offset=2.7182818284,
    azimuth=-179.99999,
    elevation=1 / 3,
    distance=3.4,
    loudness=-33.3333333333,
    c50=11.97,
)
EVENT = dataclasses.replace(
    SPEECH, label="a dog, barking", kind="event", category="dog", transcript=None
)
TRUTH = SceneTruth(1912.3456789, 0.4123, "rain", -47.1, (SPEECH, EVENT))


@pytest.mark.parametrize(
    "truth", [TRUTH, SceneTruth(96.0, 0.0, None, None, ()), SceneTruth(96, 1, None, None, (EVENT,))]
)
def test_a_truth_survives_json_exactly(truth: SceneTruth) -> None:
    assert SceneTruth.from_json(json.loads(json.dumps(truth.to_json()))) == truth


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "music"}, "speech or event"),
        ({"label": " "}, "empty label"),
        ({"offset": 0.1}, "onset < offset"),
        ({"azimuth": -180.0}, "azimuth -180"),
        ({"elevation": 91.0}, "elevation 91"),
        ({"loudness": float("-inf")}, "loudness is -inf"),
    ],
)
def test_impossible_sources_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        dataclasses.replace(SPEECH, **change)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "JSON object"),
        ({"volume": 1.0}, "missing"),
        ({**TRUTH.to_json(), "colour": "red"}, "unknown"),
        ({**TRUTH.to_json(), "volume": "big"}, "volume of a SceneTruth is 'big'"),
        ({**TRUTH.to_json(), "volume": True}, "volume"),
        ({**TRUTH.to_json(), "rt60": float("nan")}, "rt60 is nan"),
        ({**TRUTH.to_json(), "background": None}, "go together"),
        ({**TRUTH.to_json(), "sources": "none"}, "list"),
        ({**TRUTH.to_json(), "sources": [3]}, "JSON object"),
    ],
)
def test_malformed_metadata_is_refused(content: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        SceneTruth.from_json(content)  # type: ignore[arg-type]


def test_a_scene_has_four_channels_of_float32() -> None:
    foa = np.zeros((4, FOA_RATE // 2), np.float32)
    assert Scene("a", foa, TRUTH).seconds == 0.5
    for wrong in (foa[:3], foa.astype(np.float64), foa[0]):
        with pytest.raises(InputError, match="float32"):
            Scene("a", wrong, TRUTH)
