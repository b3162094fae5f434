# SPDX-License-Identifier: Apache-2.0
"""Microphones whose phases differ: as drawn, as simulated by each engine, as heard in the audio."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from spatial_core.config import resolved
from spatial_core.data.bank_manifest import Manifest
from spatial_core.data.records import WINDOW
from spatial_core.errors import InputError
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.jax_engine import JaxSimulator
from spatial_core.sim.rir import PyroomSimulator, RirSimulator, images_reference
from spatial_core.sim.rooms import RoomSpec
from spatial_core.sim.scene import SceneConfig, SceneSpec, sample_scene, simulate_scenes, vary_scene
from spatial_core.sim.synthesis import synthesize_batch

TAPS = 1000
ROOM = RoomSpec((4.1, 3.3, 2.6), (0.5, 0.6, 0.55, 0.45, 0.7, 0.62))
SOURCE = np.array([1.0, 2.2, 1.3])
MICS = np.array([[2.5, 1.1, 1.2], [2.55, 1.12, 1.25], [2.46, 1.07, 1.16]])
DELAYS = np.array([0.37, 0.0, 1.81])
ENGINES: dict[str, tuple[RirSimulator, float]] = {
    # The error of each one's delay filter below 7 kHz, some decibels up and down with the fraction.
    "fast": (FastSimulator(taps=TAPS, images="full", decay_db=np.inf), -52),
    "jax": (JaxSimulator(taps=TAPS, decay_db=np.inf, late_images=0), -52),
    "pyroomacoustics": (PyroomSimulator(taps=TAPS, max_order=30), -48),
}


def drawn(config: SceneConfig, count: int) -> list[SceneSpec]:
    """Scenes each from a seed of its own, as streams draw them."""
    return [sample_scene(np.random.default_rng(n), config) for n in range(count)]


def simulate(simulator: RirSimulator, delays: np.ndarray | None) -> np.ndarray:
    late = {} if delays is None else {"delays": delays[None]}
    return simulator.simulate_batch(
        [ROOM], SOURCE[None], MICS[None], np.ones((1, 3), bool), [0], **late
    )[0]


def error_db(rirs: np.ndarray, exact: np.ndarray, high: float = 7000.0) -> float:
    """Energy of the difference over that of the reference from 50 Hz to `high` Hz."""
    frequency = np.fft.rfftfreq(rirs.shape[-1], 1 / 16000)
    band = (frequency > 50) & (frequency < high)
    a, b = np.fft.rfft(rirs)[..., band], np.fft.rfft(exact)[..., band]
    return float(10 * np.log10(np.sum(np.abs(a - b) ** 2) / np.sum(np.abs(b) ** 2)))


def test_scenes_of_equal_microphones_stay_as_they_are() -> None:
    plain, mismatched = (
        drawn(SceneConfig(phase_mismatch_deg=degrees, gain_mismatch_db=1.0), 5)
        for degrees in (0.0, 0.4)
    )
    for one, other in zip(plain, mismatched):
        assert one.channel_delays is None and "channel_delays" not in one.to_dict()
        assert replace(other, channel_delays=None).to_dict() == one.to_dict()
        back = SceneSpec.from_dict(json.loads(json.dumps(other.to_dict())))
        np.testing.assert_array_equal(back.channel_delays, other.channel_delays)
    # Nor do runs and banks made before there was such a setting count as others.
    assert "phase_mismatch_deg" not in resolved.describe(SceneConfig())
    described = resolved.describe(SceneConfig(phase_mismatch_deg=0.4))
    assert described["phase_mismatch_deg"] == 0.4
    bank = Manifest({"scene": resolved.describe(SceneConfig())}, TAPS, 0, 1, {})
    assert bank.scene == SceneConfig()


def test_phases_have_the_deviation_asked_for() -> None:
    specs = drawn(SceneConfig(phase_mismatch_deg=2.0, min_mics=8), 200)
    phases = np.array([360 * 1000 * spec.channel_delays for spec in specs])  # degrees at 1 kHz
    assert phases.min() == 0 and np.all(phases.min(axis=1) == 0)
    deviation = np.sqrt(np.mean(np.var(phases, axis=1, ddof=1)))
    assert deviation == pytest.approx(2.0, rel=0.06)  # 1,400 degrees of freedom: 1.9%
    rng, config = np.random.default_rng(0), SceneConfig(phase_mismatch_deg=2.0)
    assert vary_scene(rng, specs[0], config).channel_delays is specs[0].channel_delays


@pytest.mark.parametrize("engine", list(ENGINES))
def test_late_microphones_against_an_exact_sum_of_delays(engine: str) -> None:
    simulator, least = ENGINES[engine]
    rirs = simulate(simulator, DELAYS)
    exact = [
        images_reference(ROOM, SOURCE, mic, TAPS, simulator.lead + delay)
        for mic, delay in zip(MICS, DELAYS)
    ]
    # The last filter length is left out: there responses are cut differently.
    assert error_db(rirs[:, :900], np.stack(exact)[:, :900]) < least
    assert error_db(rirs[:, :900], np.stack(exact)[:, :900], 4000) < -55
    plain = simulate(simulator, None)
    assert error_db(rirs[:, :900], plain[:, :900]) > -20
    np.testing.assert_allclose(simulate(simulator, np.zeros(3)), plain, atol=1e-7)


def test_both_engines_delay_alike() -> None:
    fast, jax = (simulate(ENGINES[name][0], DELAYS) for name in ("fast", "jax"))
    assert error_db(jax[:, :960], fast[:, :960], 8001) < -85  # its table has 128 steps a sample


def test_audio_of_a_late_channel_has_the_phase_that_was_drawn() -> None:
    config = SceneConfig(
        distractor=False, sensor_noise_db=None, speech_dropout=0.0, phase_mismatch_deg=3.0
    )
    specs = drawn(config, 4)
    equal = [replace(spec, channel_delays=None) for spec in specs]
    simulator = FastSimulator(taps=2500, images="full")
    rng = np.random.default_rng(0)
    dry = rng.standard_normal((4, 2500 - 1 + WINDOW)).astype(np.float32)
    late, plain = (
        synthesize_batch(some, simulate_scenes(simulator, some, 8)[0], dry)
        for some in (specs, equal)
    )
    frequency = np.fft.rfftfreq(WINDOW, 1 / 16000)
    band = (frequency > 950) & (frequency < 1050)
    for row, spec in enumerate(specs):
        window = np.hanning(WINDOW)
        a, b = (np.fft.rfft(batch["audio"][row] * window) for batch in (late, plain))
        cross = np.sum((a * b.conj())[: spec.num_mics, band], axis=1)
        found = -np.degrees(np.angle(cross))
        # At the window's ends the delayed audio holds other samples: a twentieth in a weak channel.
        np.testing.assert_allclose(found, 360e3 * spec.channel_delays, rtol=0.06, atol=0.05)
        cross = (
            np.fft.rfft(late["direct"][row] * window)
            * np.fft.rfft(plain["direct"][row] * window).conj()
        )
        found = -np.degrees(np.angle(np.sum(cross[band])))
        assert found == pytest.approx(360e3 * spec.channel_delays[0], rel=0.06, abs=0.05)


def test_impossible_delays_are_refused() -> None:
    for wrong in (-0.1, 20.0, np.nan):
        for name in ("fast", "jax"):
            with pytest.raises(InputError, match="delays"):
                simulate(ENGINES[name][0], np.array([0.0, 0.0, wrong]))
    with pytest.raises(InputError, match="phase_mismatch_deg"):
        SceneConfig(phase_mismatch_deg=-1)
    assert [f.name for f in fields(SceneConfig) if f.metadata] == ["phase_mismatch_deg"]
