# SPDX-License-Identifier: Apache-2.0
"""Sources that move: RIRs of points along the way, cross-faded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft

from spatial_core.data.records import SAMPLE_RATE
from spatial_core.errors import InputError
from spatial_core.sim.rir import RirSimulator
from spatial_core.sim.rooms import SPEED_OF_SOUND, RoomSpec

# Change of a path in samples from one RIR to the next: halfway between two arrivals this far apart
# 7 kHz is 0.5 dB too weak, and 4 kHz 0.2 dB.
_STEP = 0.25
_BLOCKS = (4, 512)
# RIR sets simulated and held at a time.
_SETS = 64


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Positions [p, 3] in metres at times [p] in s, straight lines in between, at rest outside.

    Raises InputError when the times do not rise or the shapes differ.
    """

    times: np.ndarray
    positions: np.ndarray

    def __post_init__(self) -> None:
        times = np.asarray(self.times, np.float64)
        positions = np.asarray(self.positions, np.float64)
        if times.ndim != 1 or len(times) == 0 or positions.shape != (len(times), 3):
            raise InputError(
                f"a trajectory needs times [p] and positions [p, 3], got {times.shape} and "
                f"{positions.shape}"
            )
        if not (np.all(np.isfinite(positions)) and np.all(np.diff(times) > 0)):
            raise InputError("a trajectory needs rising times and finite positions")
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "positions", positions)

    def at(self, seconds: np.ndarray) -> np.ndarray:
        """Positions [..., 3] at these times."""
        axes = [np.interp(seconds, self.times, axis) for axis in self.positions.T]
        return np.stack(axes, axis=-1)

    @property
    def fastest(self) -> float:
        """Greatest speed in m/s."""
        ways = np.linalg.norm(np.diff(self.positions, axis=0), axis=1)
        return float(np.max(ways / np.diff(self.times), initial=0.0))


def render_moving(
    simulator: RirSimulator,
    room: RoomSpec,
    trajectory: Trajectory,
    mics: np.ndarray,
    dry: np.ndarray,
    seed: int,
    *,
    block: int | None = None,
    patterns: np.ndarray | None = None,
    emission: np.ndarray | None = None,
) -> np.ndarray:
    """What mics [m, 3] hear of dry [t] from a moving source: float32 [m, t + taps - 1].

    Sound takes the path from where the source is when it leaves it: dry is cut into triangles that
    overlap by half and add up to one, and each goes through the RIR of its middle. Delays (and with
    them Doppler shifts) so change linearly from one RIR to the next. block: samples between RIRs; by
    default as many as change a path by a quarter of a sample at the trajectory's fastest (85 at
    1 m/s: 188 RIR sets for a second of audio). A source at rest gives the convolution with its RIR.
    Random parts of the simulation are the room's, by its seed, and stay. patterns [m, 4], emission [4]:
    directivity of microphones and source (see receivers.py), which only JaxSimulator has. Raises
    InputError for a position outside the room. `jax_moving` does the same on an accelerator.
    """
    dry = np.asarray(dry, np.float32)
    if dry.ndim != 1 or len(dry) == 0 or not np.all(np.isfinite(dry)):
        raise InputError(f"dry has shape {dry.shape}: give one finite channel [t]")
    block = block_samples(trajectory, block)
    positions = knots_of(trajectory, len(dry), block)
    directed = _directed(simulator, len(positions), patterns, emission)
    mics = np.asarray(mics, np.float64)
    taps, knots = simulator.taps, len(positions)
    # Knot k is at sample k * block, its triangle reaches from the knot before to the one after.
    padded = np.zeros((knots + 1) * block, np.float32)
    padded[block : block + len(dry)] = dry
    triangle = 1 - np.abs(np.arange(2 * block) - block).astype(np.float32) / block
    size = scipy.fft.next_fast_len(taps + 2 * block - 1, real=True)
    out = np.zeros((len(mics), (knots + 1) * block + taps + block), np.float32)
    for first in range(0, knots, _SETS):
        some = np.arange(first, min(first + _SETS, knots))
        rirs = simulator.simulate_batch(
            [room] * len(some),
            positions[some],
            np.broadcast_to(mics, (len(some), *mics.shape)),
            np.ones((len(some), len(mics)), bool),
            [seed] * len(some),
            **{name: value[some] for name, value in directed.items()},
        )
        parts = np.stack([padded[k * block : (k + 2) * block] for k in some]) * triangle
        spectra = scipy.fft.rfft(rirs, size) * scipy.fft.rfft(parts, size)[:, None]
        wet = scipy.fft.irfft(spectra, size)[..., : taps + 2 * block - 1]
        for k, part in zip(some, wet):
            out[:, k * block : k * block + part.shape[1]] += part
    return out[:, block : block + len(dry) + taps - 1]


def block_samples(trajectory: Trajectory, block: int | None) -> int:
    """Samples from one RIR to the next: as given, or by the trajectory's greatest speed."""
    if block is None:
        least, most = _BLOCKS
        speed = trajectory.fastest
        if speed == 0:
            return most
        return min(max(math.floor(_STEP * SPEED_OF_SOUND / speed), least), most)
    if block < 1:
        raise InputError(f"block={block}: give 1 sample or more")
    return block


def knots_of(trajectory: Trajectory, samples: int, block: int) -> np.ndarray:
    """Places [k, 3] of the source at every block-th sample, one past the last sample."""
    return trajectory.at(np.arange(samples // block + 2) * block / SAMPLE_RATE)


def _directed(
    simulator: RirSimulator, knots: int, patterns: np.ndarray | None, emission: np.ndarray | None
) -> dict[str, np.ndarray]:
    """The directivities that are given, for every knot."""
    given = {"patterns": patterns, "emission": emission}
    some = {name: np.asarray(one) for name, one in given.items() if one is not None}
    if not some:
        return {}
    # Imported here: other simulators do without jax.
    from spatial_core.sim.jax_engine import JaxSimulator

    if not isinstance(simulator, JaxSimulator):
        raise InputError(f"{type(simulator).__name__} is omnidirectional: use JaxSimulator")
    return {name: np.broadcast_to(one, (knots, *one.shape)) for name, one in some.items()}
