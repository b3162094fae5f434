# SPDX-License-Identifier: Apache-2.0
"""From RIRs and dry signals to a batch: only the window that is needed is convolved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from spatial_core.data.records import SAMPLE_RATE, WINDOW, Batch, empty_batch
from spatial_core.errors import InputError
from spatial_core.sim import kernels, mixing
from spatial_core.sim.convolution import Convolver
from spatial_core.sim.rooms import SPEED_OF_SOUND, RoomSpec
from spatial_core.sim.scene import SceneSpec

TARGET_RMS = 0.05
# Reflections this soon (some 2 ms) after the direct sound count as part of it: no spectrogram with
# frames of 16 ms tells them apart.
DIRECT_TAPS = kernels.FILTER_TAPS + 32
_HIGH_PASS_POLE = math.exp(-2 * math.pi * 100 / SAMPLE_RATE)


def synthesize_batch(
    specs: Sequence[SceneSpec],
    rirs: np.ndarray,
    speech: np.ndarray,
    noise: np.ndarray | None = None,
    *,
    noise_rirs: np.ndarray | None = None,
    rir_index: Sequence[int] | np.ndarray | None = None,
    example_ids: Sequence[int] | np.ndarray | None = None,
    rt60: np.ndarray | None = None,
    threads: int | None = None,
) -> Batch:
    """The batch (see data/records.py) of b examples from r <= b sets of RIRs.

    specs [b]; rirs and noise_rirs [r, m, taps]; speech and noise [b, taps - 1 + WINDOW], dry, whose
    last WINDOW samples are the window: everything before is heard as reverberation only.
    rir_index [b]: the set that each example uses (default: its own, r = b); a set's spectra are
    computed once for all its examples. rt60 [r] in s: measured on the first channel by default.

    The SNR of speech to distractor is exact over the window, energies averaged over microphones,
    and so is that of the sensor noise in expectation. Where speech is dropped the sensor noise is
    relative to the distractor. ``direct`` is what the first microphone hears of the speech's direct
    sound (and of reflections within 2 ms). The valid channels get an RMS of 0.05 times the scene's gain.
    snr_db is +inf without distractor and -inf with a distractor but no speech. An example whose
    speech is True but silent in the window comes out as zeros. threads: as in FastSimulator.
    """
    size, width = len(specs), rirs.shape[1]
    index = np.arange(size) if rir_index is None else np.asarray(rir_index)
    _check(specs, rirs, speech, noise, noise_rirs, index)
    batch = empty_batch(size, width, WINDOW)
    batch["example_id"][:] = np.arange(size) if example_ids is None else np.asarray(example_ids)
    _fill_labels(batch, specs)

    def work(sets: np.ndarray) -> None:
        convolvers = (Convolver(), Convolver())
        for r in sets.tolist():
            members = np.flatnonzero(index == r).tolist()
            room = specs[members[0]].room
            time = rt60[r] if rt60 is not None else measured_rt60(rirs[r, 0], room)
            batch["rt60"][members] = time
            if noise_rirs is not None and any(specs[i].distractor for i in members):
                convolvers[1].load(noise_rirs[r, : specs[members[0]].num_mics])
            convolvers[0].load(rirs[r, : specs[members[0]].num_mics])
            for i in members:
                dry = (speech[i], noise[i] if noise is not None else None)
                audio = batch["audio"][i, : specs[i].num_mics]
                scale = _fill_audio(audio, specs[i], convolvers, dry)
                if specs[i].speech and scale > 0:
                    _fill_direct(batch["direct"][i], scale, specs[i], rirs[r, 0], speech[i])

    used = np.unique(index)
    threads = min(threads or numba.get_num_threads(), len(used))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, np.array_split(used, threads)))
    else:
        work(used)
    return batch


def measured_rt60(rir: np.ndarray, room: RoomSpec) -> float:
    """Reverberation time in s of one RIR [taps], above 100 Hz, by Schroeder's backward integration.

    Three times the time from -5 to -25 dB (T20). What an RIR that ends early lacks is added from the
    room's predicted decay (`RoomSpec.decay`), joined to the energy measured in its last quarter;
    without that the integral of a cut RIR falls too fast.
    """
    if not rir.any():
        return 0.0
    length = int(mixing.sounding(np.ascontiguousarray(rir[None])))
    remaining = kernels.remaining_energy(rir[:length], _HIGH_PASS_POLE)
    decay = room.decay()
    end, quarter = length / SAMPLE_RATE, 0.75 * length / SAMPLE_RATE
    left = decay.remaining(end)
    tail = remaining[int(0.75 * length)] * left / max(decay.remaining(quarter) - left, 1e-30)
    remaining = remaining + tail

    def reaches(level_db: float) -> float:
        target = remaining[0] * 10 ** (level_db / 10)
        if target > remaining[-1]:
            return float(kernels.first_below(remaining, target)) / SAMPLE_RATE
        return decay.time_at(10 * math.log10(left * target / remaining[-1]), end)

    return 3 * (reaches(-25.0) - reaches(-5.0))


def _check(
    specs: Sequence[SceneSpec],
    rirs: np.ndarray,
    speech: np.ndarray,
    noise: np.ndarray | None,
    noise_rirs: np.ndarray | None,
    index: np.ndarray,
) -> None:
    size, samples = len(specs), rirs.shape[2] - 1 + WINDOW
    for name, signal in (("speech", speech), ("noise", noise)):
        if signal is not None and signal.shape != (size, samples):
            raise InputError(
                f"{name} has shape {signal.shape}: {size} examples with RIRs of {rirs.shape[2]} taps "
                f"need [{size}, {samples}] (taps - 1 + {WINDOW})"
            )
    if index.shape != (size,) or (size and not 0 <= index.min() <= index.max() < len(rirs)):
        raise InputError(
            f"rir_index must name one of the {len(rirs)} RIR sets for each of {size} examples"
        )
    if max((spec.num_mics for spec in specs), default=0) > rirs.shape[1]:
        raise InputError(f"a scene has more microphones than the RIRs have channels {rirs.shape}")
    if any(spec.distractor for spec in specs) and (noise is None or noise_rirs is None):
        raise InputError("a scene has a distractor: give both noise and noise_rirs")
    if noise_rirs is not None and noise_rirs.shape != rirs.shape:
        raise InputError(f"noise_rirs {noise_rirs.shape} and rirs {rirs.shape} differ in shape")


def _fill_labels(batch: Batch, specs: Sequence[SceneSpec]) -> None:
    """Labels of all examples; neighbours that stand in the same place have theirs computed once."""
    before: SceneSpec | None = None
    labels: dict[str, float | bool] = {}
    for i, spec in enumerate(specs):
        batch["mic_mask"][i, : spec.num_mics] = True
        batch["num_mics"][i] = spec.num_mics
        if before is not None and _same_place(before, spec):
            for name in ("mic_positions", *labels):
                batch[name][i] = batch[name][i - 1]
        else:
            batch["mic_positions"][i, : spec.num_mics] = spec.mic_positions()
            labels = spec.labels()
            for name, value in labels.items():
                batch[name][i] = value
        if spec.distractor:
            batch["snr_db"][i] = spec.snr_db if spec.speech else -math.inf
        else:
            batch["snr_db"][i] = math.inf
        before = spec


def _same_place(one: SceneSpec, other: SceneSpec) -> bool:
    """Whether two crops have the labels of one room (`vary_scene` keeps its arrays)."""
    return (
        one.array_positions is other.array_positions
        and one.source is other.source
        and one.yaw == other.yaw
        and one.speech == other.speech
    )


def _fill_audio(
    audio: np.ndarray,
    spec: SceneSpec,
    convolvers: tuple[Convolver, Convolver],
    dry: tuple[np.ndarray, np.ndarray | None],
) -> float:
    """Convolves and mixes one example's speech and distractor into audio [m, WINDOW].

    Returns the factor between the convolved speech and what the first channel has of it.
    """
    signal = convolvers[0](dry[0]) if spec.speech else np.zeros(audio.shape, np.float32)
    signal_power, other_power = mixing.power(signal), 0.0
    gain, other = 0.0, signal
    if spec.distractor and dry[1] is not None:
        other, gain = convolvers[1](dry[1]), 1.0
        other_power = mixing.power(other)
    if spec.speech and signal_power == 0:
        return 0.0
    if spec.speech and other_power > 0:
        gain = math.sqrt(signal_power / other_power / 10 ** (spec.snr_db / 10))
    reference = signal_power if spec.speech else other_power
    sensor = math.sqrt((reference or 1.0) / 10 ** (spec.sensor_noise_db / 10))
    gains = (10 ** (spec.channel_gains_db / 20)).astype(np.float32)
    scale = mixing.mix(
        signal,
        other,
        np.float32(gain),
        np.float32(sensor),
        gains,
        np.float32(TARGET_RMS * 10 ** (spec.gain_db / 20)),
        np.uint64(spec.seed),
        audio,
    )
    return float(scale * gains[0])


def _fill_direct(
    out: np.ndarray, scale: float, spec: SceneSpec, rir: np.ndarray, dry: np.ndarray
) -> None:
    """out [WINDOW]: scale times what the first microphone hears by its RIR's first milliseconds alone."""
    distance = math.dist(spec.true_positions[0], spec.source)
    late = 0.0 if spec.channel_delays is None else float(spec.channel_delays[0]) * SAMPLE_RATE
    first = int(distance * SAMPLE_RATE / SPEED_OF_SOUND + late)
    part = rir[first : first + DIRECT_TAPS]
    end = len(dry) - first
    start = end - (WINDOW + len(part) - 1)
    if len(part) > 0 and start >= 0:  # otherwise the sound has not arrived by then
        recent = np.ascontiguousarray(dry[start:end], np.float32)
        mixing.filter_last(recent, np.ascontiguousarray(part, np.float32), np.float32(scale), out)
