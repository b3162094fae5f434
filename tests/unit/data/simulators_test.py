# SPDX-License-Identifier: Apache-2.0
"""The same recipe by the two engines: examples of equal statistics, and a run from gin on each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from spatial_core.data.pipeline import SceneStream
from spatial_core.sim.scene import SceneConfig

ROOT = Path(__file__).parents[3]
ROOMS = 96


@pytest.fixture(scope="module")
def batches() -> dict[str, dict[str, np.ndarray]]:
    """The same scenes and crops from both engines, without what hides the rooms."""
    scene = SceneConfig(
        min_mics=6, max_mics=6, distractor=False, sensor_noise_db=None, speech_dropout=0.0
    )
    return {
        name: SceneStream(
            scene=scene, simulator=name, batch_size=ROOMS, crops_per_rir=1, max_mics=6
        ).batch(0)
        for name in ("fast", "jax")
    }


def bands(audio: np.ndarray) -> np.ndarray:
    """Level in dB of each example in the four bands above 100 Hz, [b, 4]."""
    spectrum = np.abs(np.fft.rfft(audio, axis=-1)) ** 2
    frequency = np.fft.rfftfreq(audio.shape[-1], 1 / 16000)
    edges = (100.0, 707.0, 1414.0, 2828.0, 8000.0)
    parts = [
        spectrum[..., (frequency >= low) & (frequency < high)].sum(axis=(1, 2))
        for low, high in pairwise(edges)
    ]
    return 10 * np.log10(np.stack(parts, axis=1))


def coherence(audio: np.ndarray) -> np.ndarray:
    """Mean over bins of each example's squared coherence between its first two channels, [b]."""
    blocks = audio[:, :2, :3840].reshape(len(audio), 2, 15, 256) * np.hanning(256)
    a, b = np.fft.rfft(blocks, axis=-1).transpose(1, 0, 2, 3)
    cross = np.abs(np.mean(a * b.conj(), axis=1)) ** 2
    power = np.mean(np.abs(a) ** 2, axis=1) * np.mean(np.abs(b) ** 2, axis=1)
    return np.mean(cross / power, axis=1)


@pytest.mark.slow
def test_both_engines_give_examples_of_the_same_statistics(batches) -> None:
    """Differences of 96 scenes, in pairs: their means are known to a fifth of what is allowed."""
    fast, jax = batches["fast"], batches["jax"]
    for name in ("azimuth", "elevation", "distance", "mic_positions", "num_mics", "speech"):
        np.testing.assert_array_equal(fast[name], jax[name])
    ratio = jax["rt60"] / fast["rt60"]
    assert np.median(ratio) == pytest.approx(1, abs=0.07)
    level = [10 * np.log10(np.mean(batch["audio"] ** 2, axis=(1, 2))) for batch in (fast, jax)]
    np.testing.assert_allclose(level[0], level[1], atol=1e-3)
    spectra = bands(jax["audio"]) - bands(fast["audio"])
    assert np.abs(np.median(spectra, axis=0)).max() < 0.5, np.median(spectra, axis=0)
    direct = [
        10
        * np.log10(
            np.mean(batch["direct"] ** 2, axis=1) / np.mean(batch["audio"][:, 0] ** 2, axis=1)
        )
        for batch in (fast, jax)
    ]
    assert abs(np.median(direct[1] - direct[0])) < 0.3
    assert abs(np.mean(direct[1]) - np.mean(direct[0])) < 0.5
    alike = [coherence(batch["audio"]) for batch in (fast, jax)]
    assert abs(np.mean(alike[1]) - np.mean(alike[0])) < 0.02
    assert np.corrcoef(alike[0], alike[1])[0, 1] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", [("--gin.SceneStream.simulator=jax",), ("--gin_file=data/on_device.gin",)]
)
def test_a_run_from_gin_trains_on_the_jax_engine(way, tmp_path) -> None:
    command = [sys.executable, "-m", "launch.main", "--run_mode=train", f"--workdir={tmp_path}"]
    command += ["--gin_file=experiments/phasecoder_paper_s.gin", "--gin_file=runs/debug.gin", *way]
    command += ["--gin.TrainConfig.steps=2", "--gin.TrainConfig.eval_every=0"]
    if "on_device" in way[0]:
        command += ["--gin.DeviceStream.batch_size=8", "--gin.JaxSimulator.max_images=512"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) >= 2 and np.all(np.isfinite(losses))
    assert any("validation/loss" in record for record in records)
