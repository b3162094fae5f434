# SPDX-License-Identifier: Apache-2.0
"""Looking at a recipe before training on it: numbers, histograms and clips to listen to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve

from spatial_core.audio.io import write_wav
from spatial_core.audio.levels import drr
from spatial_core.data.records import SAMPLE_RATE
from spatial_core.data.sources import NoiseSource, SpeechSource, noise_source, speech_source
from spatial_core.errors import InputError
from spatial_core.geometry.coords import to_spherical
from spatial_core.sim.fast import FastSimulator
from spatial_core.sim.rir import RirSimulator
from spatial_core.sim.scene import SceneConfig, SceneSpec, sample_scene, simulate_scenes
from spatial_core.sim.synthesis import TARGET_RMS, measured_rt60
from spatial_core.viz.style import INK, MUTED, PALETTE, figure

CLIP_SECONDS = 4.0
_CHUNK = 64

# Field, unit, decimals; in the order of the table and of the panels.
_QUANTITIES = (
    ("rt60", "s", 2),
    ("distance", "m", 2),
    ("azimuth", "°", 1),
    ("elevation", "°", 1),
    ("drr", "dB", 1),
    ("snr", "dB", 1),
    ("sensor_noise", "dB", 1),
    ("level", "dBFS", 1),
    ("num_mics", "", 1),
    ("aperture", "cm", 1),
    ("volume", "m³", 0),
)
_TITLES = {
    "rt60": "Reverberation (T20)",
    "distance": "Talker's distance",
    "azimuth": "Azimuth",
    "elevation": "Elevation",
    "drr": "Direct to reverberant",
    "snr": "Speech to distractor",
    "sensor_noise": "Speech to sensor noise",
    "level": "Level (RMS)",
    "num_mics": "Microphones",
    "aperture": "Array aperture",
    "volume": "Room volume",
}


@dataclass(frozen=True)
class SceneStatistics:
    """What n drawn scenes look like: values per quantity, and shares in 0..1.

    values: arrays of one number per scene that has it (a dropped distractor has no SNR); rt60 and
    drr are measured from the simulated RIRs, the rest are the scenes' own.
    """

    count: int
    values: dict[str, np.ndarray]
    speech_share: float
    distractor_share: float

    def summary(self) -> dict[str, dict[str, float]]:
        """mean, min, p5, median, p95, max of each quantity that has values."""
        names = ("min", "p5", "median", "p95", "max")
        out = {}
        for name, values in self.values.items():
            if len(values):
                points = np.quantile(values, (0, 0.05, 0.5, 0.95, 1))
                out[name] = {"mean": float(values.mean()), **dict(zip(names, points.tolist()))}
        return out

    def to_text(self) -> str:
        """A table for the console."""
        lines = [
            f"{self.count} scenes: speech in {100 * self.speech_share:.1f}%, "
            f"distractor in {100 * self.distractor_share:.1f}%",
            f"{'':<20}{'mean':>9}{'min':>9}{'5%':>9}{'median':>9}{'95%':>9}{'max':>9}",
        ]
        rows = self.summary()
        for name, unit, digits in _QUANTITIES:
            if name in rows:
                label = f"{name} ({unit})" if unit else name
                cells = "".join(f"{value:9.{digits}f}" for value in rows[name].values())
                lines.append(f"{label:<20}{cells}")
        return "\n".join(lines)


def distributions(
    config: SceneConfig,
    n: int = 1000,
    seed: int = 0,
    simulator: RirSimulator | None = None,
) -> SceneStatistics:
    """Draws n scenes, simulates their RIRs and measures them."""
    if n < 1:
        raise InputError(f"n={n}: draw at least one scene")
    rng = np.random.default_rng(seed)
    simulator = simulator or FastSimulator()
    specs = [sample_scene(rng, config) for _ in range(n)]
    times, ratios = [], []
    for start in range(0, n, _CHUNK):
        part = specs[start : start + _CHUNK]
        mask = np.ones((len(part), 1), bool)
        mics = np.stack([spec.true_positions[:1] for spec in part])
        sources = np.stack([spec.source for spec in part])
        rooms, seeds = [spec.room for spec in part], [spec.seed for spec in part]
        rirs = simulator.simulate_batch(rooms, sources, mics, mask, seeds)[:, 0]
        times += [measured_rt60(rir, spec.room) for rir, spec in zip(rirs, part)]
        ratios.append(drr(rirs, SAMPLE_RATE))
    azimuth, elevation, distance = to_spherical(
        np.stack([spec.to_array_frame(spec.source) for spec in specs])
    )
    apertures = [
        100 * np.linalg.norm(s.array_positions[:, None] - s.array_positions, axis=-1).max()
        for s in specs
    ]
    talking = np.array([spec.speech for spec in specs])
    noisy = np.array([spec.distractor for spec in specs])
    values = {
        "rt60": np.array(times),
        "distance": distance,
        "azimuth": azimuth,
        "elevation": elevation,
        "drr": np.concatenate(ratios),
        "snr": np.array([spec.snr_db for spec in specs])[noisy & talking],
        "sensor_noise": np.array(
            [s.sensor_noise_db for s in specs if s.sensor_noise_db < math.inf]
        ),
        "level": np.array([spec.gain_db for spec in specs]) + 20 * math.log10(TARGET_RMS),
        "num_mics": np.array([float(spec.num_mics) for spec in specs]),
        "aperture": np.array(apertures),
        "volume": np.array([spec.room.volume for spec in specs]),
    }
    finite = {name: array[np.isfinite(array)] for name, array in values.items()}
    return SceneStatistics(n, finite, float(talking.mean()), float(noisy.mean()))


def inspect_scenes(
    config: SceneConfig,
    out_dir: str | Path,
    n: int = 1000,
    seed: int = 0,
    clips: int = 4,
    speech: str | SpeechSource = "embedded",
    noise: str | NoiseSource = "embedded",
    say: Callable[[str], None] | None = print,
) -> SceneStatistics:
    """Draws n scenes and writes scenes.png, scenes.json and clips to out_dir; says the table.

    clips: that many examples of 4 s, clip_00.wav (one channel for each microphone) with
    clip_00.json (labels, microphone positions, room) beside it.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    statistics = distributions(config, n, seed)
    plot_distributions(statistics, out / "scenes.png")
    document = {
        "count": n,
        "seed": seed,
        "speech_share": statistics.speech_share,
        "distractor_share": statistics.distractor_share,
        "quantities": statistics.summary(),
    }
    (out / "scenes.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if say is not None:
        say(statistics.to_text())
    if clips:
        talkers = speech_source(speech) if isinstance(speech, str) else speech
        sounds = noise_source(noise) if isinstance(noise, str) else noise
        write_clips(config, out, clips, seed, talkers, sounds)
    return statistics


def write_clips(
    config: SceneConfig,
    out_dir: Path,
    clips: int,
    seed: int,
    speech: SpeechSource,
    noise: NoiseSource,
) -> list[Path]:
    """Writes clips of 4 s as wav (all channels) and their truth as JSON; returns the wav paths."""
    rng = np.random.default_rng(seed)
    simulator = FastSimulator()
    active = int(CLIP_SECONDS * SAMPLE_RATE)
    samples = active + simulator.taps
    paths = []
    for number in range(clips):
        spec = sample_scene(rng, config)
        rirs, noise_rirs = simulate_scenes(simulator, [spec], spec.num_mics)
        parts = [(rirs[0], speech.crop(rng, samples, active), spec.speech)]
        if noise_rirs is not None:
            parts.append((noise_rirs[0], noise.crop(rng, samples), spec.distractor))
        audio = _mix_clip(spec, parts, active, rng)
        path = out_dir / f"clip_{number:02d}.wav"
        write_wav(path, audio, SAMPLE_RATE, subtype="PCM_16")
        truth = {
            **spec.labels(),
            "distractor": spec.distractor,
            "snr_db": spec.snr_db if spec.distractor else None,
            "rt60": measured_rt60(rirs[0, 0], spec.room),
            "mic_positions": spec.mic_positions().tolist(),
            "room": {"dimensions": spec.room.dimensions, "materials": spec.room.materials},
        }
        path.with_suffix(".json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
        paths.append(path)
    return paths


def _mix_clip(
    spec: SceneSpec,
    parts: Sequence[tuple[np.ndarray, np.ndarray, bool]],
    samples: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Speech, then distractor at its SNR over the clip, then sensor noise; peak at most 0.9."""
    audio = np.zeros((spec.num_mics, samples))
    for rirs, dry, heard in parts:
        if heard:
            wet = fftconvolve(dry[None].astype(np.float64), rirs, axes=1)
            wet = wet[:, len(dry) - samples : len(dry)]
            power, present = float(np.mean(wet**2)), float(np.mean(audio**2))
            if present > 0 and power > 0:
                wet *= math.sqrt(present / power / 10 ** (spec.snr_db / 10))
            audio += wet
    power = float(np.mean(audio**2)) or 1.0
    sensor = math.sqrt(power / 10 ** (spec.sensor_noise_db / 10))
    audio += sensor * rng.standard_normal(audio.shape)
    audio *= 10 ** (spec.channel_gains_db[:, None] / 20)
    audio *= TARGET_RMS * 10 ** (spec.gain_db / 20) / math.sqrt(float(np.mean(audio**2)))
    return audio * min(1.0, 0.9 / float(np.abs(audio).max()))


def plot_distributions(statistics: SceneStatistics, path: Path) -> None:
    """One histogram for each quantity, with its mean, as a PNG."""
    present = [q for q in _QUANTITIES if len(statistics.values[q[0]])]
    columns = 4
    rows = math.ceil(len(present) / columns)
    with figure(path, 12.0, 2.3 * rows + 0.5) as fig:
        axes = np.atleast_2d(fig.subplots(rows, columns)).ravel()
        for axis in axes[len(present) :]:
            axis.set_visible(False)
        for axis, (name, unit, digits) in zip(axes, present):
            values = statistics.values[name]
            axis.hist(values, bins=_bins(name, values), color=PALETTE[0], alpha=0.85)
            axis.set_title(_TITLES[name])
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
            if unit:
                axis.set_xlabel("degrees" if unit == "°" else unit)
            if name in ("azimuth", "elevation"):
                limit = 180 if name == "azimuth" else 90
                axis.set_xlim(-limit, limit)
                axis.set_xticks(np.linspace(-limit, limit, 5))
            mean = float(values.mean())
            axis.axvline(mean, color=PALETTE[1], linewidth=1.4)
            axis.text(
                1.0,
                1.04,
                f"mean {mean:.{digits}f}",
                transform=axis.transAxes,
                ha="right",
                va="bottom",
                color=PALETTE[1],
                fontsize=8.5,
            )
        fig.suptitle(
            f"{statistics.count:,} simulated scenes: speech in "
            f"{100 * statistics.speech_share:.0f}%, distractor in "
            f"{100 * statistics.distractor_share:.0f}%",
            x=0.01,
            ha="left",
            color=INK,
            fontsize=11,
        )
        fig.supylabel("scenes", color=MUTED, fontsize=9)


def _bins(name: str, values: np.ndarray) -> np.ndarray:
    if name == "num_mics":
        return np.arange(values.min() - 0.5, values.max() + 1)
    if name == "azimuth":
        return np.linspace(-180, 180, 25)
    if name == "elevation":
        return np.linspace(-90, 90, 25)
    low, high = float(values.min()), float(values.max())
    return np.linspace(low, high if high > low else low + 1, 25)
