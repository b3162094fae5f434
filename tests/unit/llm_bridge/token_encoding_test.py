# SPDX-License-Identifier: Apache-2.0
"""Clips into tokens: the grid, the padding, and what the shipped encoder makes of a conversation."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from llm_bridge.tokens.clips import ConversationSource
from llm_bridge.tokens.encode import encode_clips
from phasecoder import pretrained
from spatial_core.data.records import HOP, WINDOW
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray
from spatial_core.geometry.coords import azimuth_error
from tests.unit.llm_bridge.token_clips import CONVERSATION, SCENE, LevelEncoder, silent_clip


def test_a_click_shows_up_in_the_tokens_whose_windows_hold_it() -> None:
    """Token k covers 160 k .. 160 k + 250 ms, also where the clip's end is padded."""
    for click in (0, 2559, 2560, 16000, 29999):
        made = encode_clips(LevelEncoder(), [silent_clip(30000, click)])[0]  # type: ignore[arg-type]
        assert made.tokens.shape == (12, 256)  # ceil(30000 / 2560)
        found = np.flatnonzero(made.tokens[:, 0] >= 0)
        wanted = [k for k in range(12) if k * HOP <= click < k * HOP + WINDOW]
        assert found.tolist() == wanted and max(wanted) == click // HOP
        # and at its place within the window, in ms
        places = [(click - k * HOP) / 16 for k in wanted]
        np.testing.assert_allclose(made.heads["azimuth"][found], places)


def test_thirty_seconds_are_188_tokens_and_clips_do_not_mix() -> None:
    clips = [silent_clip(480000), silent_clip(2560, 7), silent_clip(2561)]
    made = encode_clips(LevelEncoder(), clips)  # type: ignore[arg-type]
    assert [len(each.tokens) for each in made] == [188, 1, 2]
    assert made[1].tokens[0, 0] >= 0 and (made[0].tokens < 0).all() and (made[2].tokens < 0).all()
    assert made[0].seconds == 30.0
    with pytest.raises(InputError, match="empty"):
        encode_clips(LevelEncoder(), [silent_clip(0)])  # type: ignore[arg-type]


def test_the_shipped_encoder_hears_the_labels() -> None:
    """Tokens are those of `Encoder.tokens`, and its azimuths those of a near talker in a quiet room."""
    scene = replace(SCENE, speech_dropout=0.0, max_source_distance=1.0, max_rt60=0.3)
    config = replace(CONVERSATION, scene=scene, array="tetrahedron", two_talkers=0.0)
    clip = ConversationSource(conversation=config, split="test").open().clip(1)
    encoder = pretrained.load()
    (made,) = encode_clips(encoder, [clip])
    alone = encoder.tokens(clip.channels, clip.array)
    # float16 of numbers of the order of 1
    np.testing.assert_allclose(made.tokens.astype(np.float32), alone, atol=2e-3, rtol=2e-3)
    (talker,) = clip.talkers
    time = 0.16 * np.arange(len(made.tokens))
    during = (time > talker.start) & (time + 0.25 < talker.end)
    during &= made.heads["speech_probability"] > 0.5
    assert during.sum() >= 5
    # The encoder is off by 2 degrees as a rule.
    assert np.median(azimuth_error(made.heads["azimuth"][during], talker.azimuth)) < 10
    before = time + 0.25 < talker.start
    assert not (made.heads["speech_probability"][before] > 0.5).any()


def test_more_microphones_than_the_encoder_takes_are_thinned() -> None:
    positions = np.random.default_rng(0).standard_normal((20, 3)) * 0.05
    clip = replace(
        silent_clip(2560), channels=np.ones((20, 2560), np.float32), array=MicArray(positions)
    )
    seen = SimpleNamespace(
        name="x", predict=lambda batch: LevelEncoder().predict(batch) | {"mics": batch["mic_mask"]}
    )
    assert len(encode_clips(seen, [clip])[0].tokens) == 1  # type: ignore[arg-type]
