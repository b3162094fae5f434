# SPDX-License-Identifier: Apache-2.0
"""One level everywhere: a model that sees raw levels is trained and measured at localize's own."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from launch import configurables
from launch.modes import ROOTS
from phasecoder.paper import PaperConfig
from phasecoder.pretrained import TARGET_RMS, load, window_batch
from phasecoder.task import PhaseCoderTask
from spatial_core.audio.stft import stft
from spatial_core.config import gin_setup
from spatial_core.config.paths import config_files

PAPER = [name for name in config_files() if name.startswith("experiments/phasecoder_paper_")]


def _stream(files, which, *settings):
    """The stream of a built experiment, after one attribute path such as TrainConfig.data."""
    configurables.register_all()
    gin_setup.parse(files, settings, roots=ROOTS)
    root, _, field = which.partition(".")
    return getattr(gin_setup.build(root), field)


def _levels_as_localize_sees_them(stream) -> np.ndarray:
    """Decibels by which each clip of a batch is louder in `stream` than in `window_batch`."""
    batch = stream.batch(0)
    differences = []
    for audio, positions, mask in zip(batch["audio"], batch["mic_positions"], batch["mic_mask"]):
        window = window_batch(audio[None, mask], positions[mask])
        # localize takes the mean away, as a recorder's offset is no sound: it is in bins 0 and 1,
        # and in all bins of the frames at the edges, where it starts and ends.
        ours, theirs = (
            np.abs(np.asarray(stft(x)))[:, 1:-2, 2:] for x in (audio[mask], window["audio"][0])
        )
        ratio = 20 * np.log10(np.linalg.norm(ours) / np.linalg.norm(theirs))
        # Only the level may differ, and the same for all of a clip's microphones and bins.
        np.testing.assert_allclose(ours, 10 ** (ratio / 20) * theirs, atol=1e-3)
        np.testing.assert_allclose(window["mic_positions"][0], positions[mask], atol=1e-6)
        differences.append(ratio)
    return np.array(differences)


@pytest.mark.parametrize("name", PAPER)
def test_every_paper_experiment_fixes_the_level(name):
    for which in ("TrainConfig.data", "TrainConfig.validation"):
        assert _stream([name], which).scene.gain_db == (0.0, 0.0)


@pytest.mark.parametrize(
    ("files", "which"),
    [
        (["experiments/phasecoder_paper_s.gin"], "TrainConfig.data"),
        (["experiments/phasecoder_paper_s_stage2.gin"], "TrainConfig.validation"),
        (["experiments/phasecoder_paper_s.gin", "runs/eval.gin"], "EvalConfig.stream"),
        (["experiments/plus.gin", "runs/eval.gin"], "EvalConfig.stream"),
    ],
)
def test_training_evaluation_and_localize_hear_one_level(files, which):
    stream = _stream(files, which, "SceneStream.batch_size = 16")
    # The mean that localize takes away is some percent of a window's energy.
    assert np.abs(_levels_as_localize_sees_them(stream)).max() < 1.0


def test_released_cards_are_measured_at_that_level():
    stream = _stream(["runs/release.gin"], "ReleaseConfig.test", "RUN = 'r'", "ABOUT = 'a'")
    assert {each.scene.gain_db for each in stream.values()} == {(0.0, 0.0)}


def test_the_plus_recipe_draws_levels_as_the_shipped_model_saw_them():
    stream = _stream(["experiments/plus.gin"], "TrainConfig.data", "SceneStream.batch_size = 16")
    assert stream.scene.gain_db == (-10.0, 10.0)
    assert np.abs(_levels_as_localize_sees_them(stream)).max() > 5.0


def _clips() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    positions = rng.normal(size=(4, 4, 3)) * 0.05
    audio = rng.normal(size=(4, 4, 4000))
    audio[:, 1:] = 0.5 * audio[:, 1:] + audio[:, :1]  # coherent, as a talker is
    return {
        "audio": (TARGET_RMS * audio / audio.std()).astype(np.float32),
        "mic_positions": (positions - positions.mean(1, keepdims=True)).astype(np.float32),
        "mic_mask": np.ones((4, 4), bool),
    }


def test_the_shipped_model_does_not_hear_the_level():
    """So its recipe's gains and localize's fixed level are one and the same to it."""
    encoder, batch = load(), _clips()
    usual = encoder.predict(batch)
    for gain_db in (-20.0, 20.0):
        other = encoder.predict({**batch, "audio": batch["audio"] * 10 ** (gain_db / 20)})
        # float32 and a floor under the spectra: thousandths of the posterior, no more.
        np.testing.assert_allclose(other["azimuth_probs"], usual["azimuth_probs"], atol=5e-3)
        np.testing.assert_allclose(
            other["speech_probability"], usual["speech_probability"], atol=5e-3
        )


def test_the_paper_encoder_does():
    """Raw magnitudes are its input, as published: hence one level for all of its clips."""
    task = PhaseCoderTask(PaperConfig(width=32, heads=1, head_width=16, hidden=32, blocks=1))
    params, batch = jax.jit(task.init)(jax.random.key(0)), _clips()
    apply = jax.jit(task.apply)
    usual = apply(params, batch)["azimuth_logits"]
    louder = apply(params, {**batch, "audio": batch["audio"] * 10**0.5})["azimuth_logits"]
    assert np.abs(np.asarray(louder - usual)).max() > 1e-3  # a thousand times its rounding
