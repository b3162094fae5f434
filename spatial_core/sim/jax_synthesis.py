# SPDX-License-Identifier: Apache-2.0
"""From scene arrays and int16 audio to microphone signals on the device, in one program.

The same recipe as synthesis.py, which works with numpy and numba: given the same RIRs and the same
noise both agree to float32. `synthesize` is a pure function; call it in a jit of your own to let
features and the train step follow without leaving the device. `synthesize_with_direct` gives the
direct sound as well, which a mask learns from (`direct` of a batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from spatial_core.data.records import WINDOW
from spatial_core.errors import InputError
from spatial_core.sim.images import Geometry, Samples
from spatial_core.sim.images import delays as distances
from spatial_core.sim.jax_engine import JaxSimulator, Plan, responses
from spatial_core.sim.scene import DISTRACTOR_SEED, SceneSpec, pad_delays, pad_positions
from spatial_core.sim.synthesis import DIRECT_TAPS, TARGET_RMS
from spatial_core.typing import Array, Bool, Float, Int

_FULL_SCALE = 32768.0


class Levels(NamedTuple):
    """What is mixed how loud in e examples: the fields of SceneSpec as arrays, m padded."""

    mask: Bool[Array, "e m"]
    speech: Bool[Array, "e"]
    distractor: Bool[Array, "e"]
    snr_db: Float[Array, "e"]
    sensor_noise_db: Float[Array, "e"]
    gain_db: Float[Array, "e"]
    channel_gains_db: Float[Array, "e m"]
    key: Array  # uint32 [e, 2], of the sensor noise


def pack_levels(specs: Sequence[SceneSpec], num_mics: int) -> Levels:
    """Levels on the host for batches padded to num_mics microphones."""
    mask = np.zeros((len(specs), num_mics), bool)
    gains = np.zeros((len(specs), num_mics), np.float32)
    for row, spec in enumerate(specs):
        mask[row, : spec.num_mics] = True
        gains[row, : spec.num_mics] = spec.channel_gains_db
    seeds = np.array([spec.seed % 2**64 for spec in specs], np.uint64)
    keys = np.stack([seeds >> np.uint64(32), seeds & np.uint64(0xFFFFFFFF)], axis=1)
    arrays: dict[str, np.ndarray] = {"mask": mask, "channel_gains_db": gains}
    for name in ("speech", "distractor"):
        arrays[name] = np.array([getattr(spec, name) for spec in specs], bool)
    for name in ("snr_db", "sensor_noise_db", "gain_db"):
        arrays[name] = np.array([getattr(spec, name) for spec in specs], np.float32)
    return Levels(key=keys.astype(np.uint32), **arrays)  # type: ignore[arg-type]


def pack_scenes(
    simulator: JaxSimulator, specs: Sequence[SceneSpec], num_mics: int
) -> tuple[Geometry, Geometry | None, Plan]:
    """Rooms of the scenes for `synthesize`, those of their distractors (None without), the program.

    All rooms share one program, of the simulator's max_images. Seeds are those of `simulate_scenes`,
    so the RIRs are the same. Raises InputError as the simulator does.
    """
    mics, mask = pad_positions(specs, num_mics)
    delays = pad_delays(specs, num_mics)
    rooms = [spec.room for spec in specs]

    def geometry(sources: list[np.ndarray], seeds: list[int]) -> tuple[Geometry, Plan]:
        places = np.array(sources, np.float64)
        return simulator.pack_together(
            rooms, places, mics, mask, seeds, delays=delays, capacity=simulator.max_images
        )

    speech, plan = geometry([spec.source for spec in specs], [spec.seed for spec in specs])
    noise = None
    if any(spec.distractor_source is not None for spec in specs):
        # A scene without one gets a place that is never heard.
        noise, _ = geometry(
            [s.source if s.distractor_source is None else s.distractor_source for s in specs],
            [spec.seed ^ DISTRACTOR_SEED for spec in specs],
        )
    return speech, noise, plan


def synthesize(
    rooms: Geometry,
    noise_rooms: Geometry | None,
    levels: Levels,
    speech: Int[Array, "r k s"],
    noise: Int[Array, "r k s"] | None,
    plan: Plan,
) -> Float[Array, "e m t"]:
    """Windows of audio [r * k, m, WINDOW]: r rooms, k crops of dry int16 speech and noise for each.

    s = plan.taps - 1 + WINDOW samples, of which the last WINDOW are the window. levels: of the
    r * k examples, the crops of a room one after the other.
    """
    return synthesize_with_direct(rooms, noise_rooms, levels, speech, noise, plan)[0]


def synthesize_with_direct(
    rooms: Geometry,
    noise_rooms: Geometry | None,
    levels: Levels,
    speech: Int[Array, "r k s"],
    noise: Int[Array, "r k s"] | None,
    plan: Plan,
) -> tuple[Float[Array, "e m t"], Float[Array, "e t"]]:
    """What `synthesize` gives, and the talker's direct sound [r * k, WINDOW] at the first microphone.

    As `direct` of a batch: by the first 64 taps that sound, so with reflections within 2 ms.
    """
    rirs = responses(rooms, plan)
    dry = speech.astype(jnp.float32) / _FULL_SCALE
    wet = convolve_window(rirs, dry)
    other = jnp.zeros_like(wet)
    if noise_rooms is not None and noise is not None:
        noise_rirs = responses(noise_rooms, plan)
        other = convolve_window(noise_rirs, noise.astype(jnp.float32) / _FULL_SCALE)
    examples = (-1, *wet.shape[2:])
    mixed, scale = _mix(
        wet.reshape(examples), other.reshape(examples), levels, sensor_noise(levels, WINDOW)
    )
    first = convolve_window(_direct_responses(rooms, rirs, plan), dry)
    direct = jnp.where(levels.speech[:, None], first.reshape(len(mixed), WINDOW), 0)
    return mixed, direct * (scale * 10 ** (levels.channel_gains_db[:, 0] / 20))[:, None]


def _direct_responses(
    rooms: Geometry, rirs: Float[Array, "r m taps"], plan: Plan
) -> Float[Array, "r 1 taps"]:
    """The first microphone's RIRs without all that comes after the direct sound."""

    def start(room: Geometry) -> Array:
        source = Samples(room.source.whole[:, None], room.source.part[:, None])
        whole, fraction, _, _ = distances(source, room.mics)
        late = jnp.floor(fraction[0, 0] + room.delays[0]) if plan.delayed else 0
        return whole[0, 0] + jnp.int32(late)

    since = jnp.arange(rirs.shape[-1]) - jax.vmap(start)(rooms)[:, None]
    kept = (since >= 0) & (since < DIRECT_TAPS)
    return jnp.where(kept, rirs[:, 0], 0)[:, None]


def convolve_window(
    rirs: Float[Array, "r m taps"], dry: Float[Array, "r k s"]
) -> Float[Array, "r k m t"]:
    """Reverberant last WINDOW samples of k dry signals of taps - 1 + WINDOW samples for each room.

    Overlap-save: the circular convolution's wrapped samples lie before the window. The RIRs are
    transformed once for all the crops of their room.
    """
    taps = rirs.shape[-1]
    if dry.shape[-1] != taps - 1 + WINDOW:
        raise InputError(
            f"dry signals of {dry.shape[-1]} samples for RIRs of {taps} taps: need {taps - 1 + WINDOW}"
        )
    size = scipy.fft.next_fast_len(taps - 1 + WINDOW, real=True)

    def one(pair: tuple[Array, Array]) -> Array:
        spectrum = jnp.fft.rfft(pair[0], size)
        product = spectrum * jnp.fft.rfft(pair[1], size)[..., None, :]
        return jnp.fft.irfft(product, size)[..., taps - 1 : taps - 1 + WINDOW]

    if jax.default_backend() == "cpu":
        return jax.lax.map(one, (rirs, dry))
    return jax.vmap(one)((rirs, dry))


def sensor_noise(levels: Levels, samples: int) -> Float[Array, "e m t"]:
    """White normal noise of unit variance, independent in each channel, by each example's key."""
    shape = (levels.mask.shape[1], samples)

    def one(key: Array) -> Array:
        return jax.random.normal(jax.random.wrap_key_data(key), shape)

    return jax.vmap(one)(levels.key)


def mix(
    signal: Float[Array, "e m t"],
    other: Float[Array, "e m t"],
    levels: Levels,
    noise: Float[Array, "e m t"],
) -> Float[Array, "e m t"]:
    """Speech, distractor and noise of unit variance at their levels; see `synthesize_batch`.

    The SNR to the distractor is exact over the window, energies averaged over microphones; where
    speech is dropped the sensor noise is relative to the distractor; the result has an RMS of 0.05
    times the scene's gain. Speech that is silent in the window gives zeros.
    """
    return _mix(signal, other, levels, noise)[0]


def _mix(
    signal: Float[Array, "e m t"],
    other: Float[Array, "e m t"],
    levels: Levels,
    noise: Float[Array, "e m t"],
) -> tuple[Float[Array, "e m t"], Float[Array, "e"]]:
    """The mixture, and its scale before the channels' gains: 0 where all is silent."""
    mask = levels.mask[..., None].astype(signal.dtype)
    values = jnp.sum(mask, axis=(1, 2)) * signal.shape[-1]

    def power(x: Array) -> Array:
        return jnp.sum(x * x, axis=(1, 2)) / values

    def at(gain: Array) -> Array:
        return gain[:, None, None]

    signal = jnp.where(at(levels.speech), signal * mask, 0)
    other = jnp.where(at(levels.distractor), other * mask, 0)
    signal_power, other_power = power(signal), power(other)
    both = levels.speech & (other_power > 0)
    ratio = signal_power / jnp.where(both, other_power, 1) / 10 ** (levels.snr_db / 10)
    gain = jnp.where(both, jnp.sqrt(ratio), 1)
    reference = jnp.where(levels.speech, signal_power, other_power)
    reference = jnp.where(reference > 0, reference, 1)
    sensor = jnp.sqrt(reference / 10 ** (levels.sensor_noise_db / 10))
    mixed = signal + at(gain) * other + at(sensor) * noise * mask
    mixed *= 10 ** (levels.channel_gains_db[..., None] / 20)
    level = power(mixed)
    audible = (level > 0) & ~(levels.speech & (signal_power == 0))
    target = TARGET_RMS * 10 ** (levels.gain_db / 20)
    scale = jnp.where(audible, target / jnp.sqrt(jnp.where(audible, level, 1)), 0)
    return mixed * at(scale), scale
