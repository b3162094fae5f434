# SPDX-License-Identifier: Apache-2.0
"""Conversations: who talks when, where and how loudly, held to the physics they are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.signal

from llm_bridge.conversations import Conversation, ConversationConfig, Conversations
from spatial_core.data.records import SAMPLE_RATE
from spatial_core.errors import InputError
from spatial_core.geometry.coords import to_cartesian
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.scene import SceneConfig
from spatial_core.sim.synthesis import TARGET_RMS

SCENE = SceneConfig(
    min_mics=4,
    max_mics=4,
    distractor=False,
    speech_dropout=0.0,
    sensor_noise_db=None,
    gain_db=(0.0, 0.0),
)
QUIET = ConversationConfig(
    scene=SCENE, max_seconds=8.0, two_talkers=1.0, simulator=FastSimulator(taps=8000, threads=1)
)


def made(config: ConversationConfig = QUIET, index: int = 0, seed: int = 0) -> Conversation:
    return Conversations(config, seed, "validation")(index)


def rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))


def samples(talker: object) -> slice:
    return slice(round(talker.start * SAMPLE_RATE), round(talker.end * SAMPLE_RATE))  # type: ignore[attr-defined]


def test_a_conversation_depends_on_seed_split_and_index_alone() -> None:
    source = Conversations(QUIET, 0, "validation")
    first = source(3)
    source(5)
    again, other = source(3), source(4)
    assert np.array_equal(first.channels, again.channels) and first.talkers == again.talkers
    assert first.key == "validation-0-0000003" != other.key
    assert first.talkers != other.talkers
    assert made(index=3, seed=1).talkers != first.talkers


def test_talkers_take_turns_and_are_two_people_with_two_texts() -> None:
    source = Conversations(QUIET, 0, "validation")
    for index in range(12):
        clip = source(index)
        one, two = clip.talkers
        assert 0.2 <= one.start and 0.2 - 1e-3 <= two.start - one.end <= 0.6
        seconds = clip.channels.shape[1] / SAMPLE_RATE
        assert two.end + 0.2 - 1e-3 <= seconds <= 8.0
        assert one.speaker != two.speaker and one.transcript != two.transcript
        assert clip.audio.shape == clip.mixed.shape == clip.channels.shape[1:]
        # The dry voices are silent outside their turns; the room answers only after the first word.
        silent = np.ones(len(clip.audio), bool)
        silent[samples(one)] = silent[samples(two)] = False
        assert not clip.audio[silent].any()
        assert rms(clip.mixed[: samples(one).start]) < 1e-3 * rms(clip.mixed)


def test_the_channels_are_the_dry_voices_through_the_room() -> None:
    """Against scipy's convolution of each dry voice with the responses of its own place."""
    clip = made()
    scene = clip.scene
    wet = np.zeros(clip.channels.shape)
    for place, seed, talker in zip(
        (scene.source, scene.distractor_source),
        (scene.seed, scene.seed ^ 0x5DEECE66D),
        clip.talkers,
    ):
        simulator = FastSimulator(taps=8000)
        rirs = simulator.simulate(scene.room, place, scene.true_positions, seed)
        voice = np.zeros(len(clip.audio))
        voice[samples(talker)] = clip.audio[samples(talker)]
        lead = simulator.lead
        wet += scipy.signal.fftconvolve(voice[None], rirs, axes=1)[:, lead : lead + len(voice)]
    scale = np.sum(wet * clip.channels) / np.sum(wet * wet)
    # float32 transforms of half a million samples
    np.testing.assert_allclose(clip.channels, scale * wet, atol=1e-4 * np.abs(wet * scale).max())
    np.testing.assert_allclose(clip.mixed, clip.channels.mean(axis=0), atol=1e-7)


def test_labels_are_about_the_arrays_centroid_in_its_own_frame() -> None:
    clip = made()
    for talker, place in zip(clip.talkers, (clip.scene.source, clip.scene.distractor_source)):
        seen = to_cartesian(talker.azimuth, talker.elevation, talker.distance)
        # Distances to every microphone do not depend on the frame.
        assert place is not None
        np.testing.assert_allclose(
            np.linalg.norm(clip.array.centred - seen, axis=1),
            np.linalg.norm(clip.scene.array_positions - place, axis=1),
            atol=1e-9,
        )


def test_levels_and_sensor_noise_are_those_asked_for() -> None:
    def at(snr: float, gain: float, mono: float) -> Conversation:
        scene = replace(SCENE, sensor_noise_db=(snr, snr), gain_db=(gain, gain))
        return made(replace(QUIET, scene=scene, mono_gain_db=mono))

    quiet, clip = at(200.0, 0.0, 0.0), at(20.0, 6.0, 0.0)
    talking = np.zeros(len(clip.audio), bool)
    for talker in quiet.talkers:
        assert rms(quiet.audio[samples(talker)]) == pytest.approx(TARGET_RMS, rel=1e-3)
        talking[samples(talker)] = True
    # Reverberation runs on from one turn into the other: a few percent.
    assert rms(quiet.channels[:, talking]) == pytest.approx(TARGET_RMS, rel=0.05)
    factor = 10 ** (6 / 20)
    noise = clip.channels - factor * quiet.channels
    assert rms(noise) == pytest.approx(factor * TARGET_RMS / 10, rel=0.01)
    loud = at(200.0, 0.0, 3.0)
    assert rms(loud.audio) == pytest.approx(rms(quiet.audio) * 10 ** (3 / 20), rel=1e-3)
    assert np.array_equal(loud.channels, quiet.channels)
    assert np.abs(at(200.0, 0.0, 40.0).audio).max() <= 0.99 + 1e-6


def test_dropped_talkers_leave_silence_and_the_noise_of_the_microphones() -> None:
    scene = replace(SCENE, speech_dropout=1.0, sensor_noise_db=(30.0, 30.0))
    source = Conversations(replace(QUIET, scene=scene), 0, "validation")
    counts = []
    for index in range(30):
        clip = source(index)
        assert len(clip.talkers) + clip.dropped == 2
        counts.append(len(clip.talkers))
        if not clip.talkers:
            assert not clip.audio.any()
            assert rms(clip.channels) == pytest.approx(TARGET_RMS * 10 ** (-30 / 20), rel=0.01)
            assert clip.channels.shape[1] > 3 * SAMPLE_RATE
    assert counts.count(0) in range(3, 20) and counts.count(1) in range(10, 28)
    kept = Conversations(QUIET, 0, "validation")
    assert all(kept(index).dropped == 0 for index in range(5))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="no utterances of two speakers fit"):
        made(replace(QUIET, max_seconds=2.5))
    with pytest.raises(InputError, match="no distractor"):
        ConversationConfig(scene=SceneConfig())
    with pytest.raises(InputError, match="max_seconds is 40"):
        ConversationConfig(max_seconds=40)
    with pytest.raises(InputError, match="split 'dev' is unknown"):
        Conversations(QUIET, 0, "dev")
