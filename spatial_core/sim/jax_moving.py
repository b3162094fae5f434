# SPDX-License-Identifier: Apache-2.0
"""Sources that move, rendered on the device: responses along the way and their cross-fade, one program."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from spatial_core.errors import InputError
from spatial_core.sim.images import Geometry
from spatial_core.sim.jax_engine import JaxSimulator, Plan, responses
from spatial_core.sim.moving import Trajectory, block_samples, knots_of
from spatial_core.sim.rooms import RoomSpec
from spatial_core.typing import Array, Float


@dataclass(frozen=True)
class MotionPlan:
    """What a program is compiled for: samples of dry sound, cut into triangles `block` samples apart.

    chunk: places simulated at a time, which bounds the memory.
    """

    engine: Plan
    samples: int
    block: int
    chunk: int


def pack_motion(
    simulator: JaxSimulator,
    room: RoomSpec,
    trajectory: Trajectory,
    mics: np.ndarray,
    samples: int,
    seed: int,
    *,
    block: int | None = None,
    chunk: int | None = None,
    patterns: np.ndarray | None = None,
    emission: np.ndarray | None = None,
) -> tuple[Geometry, MotionPlan]:
    """The places along the way for `render_motion`, and its program; arguments as in `render_moving`.

    samples: of the dry sound. chunk: places simulated at a time (None: 1 on a CPU, 16 elsewhere). All
    places share a program, of the image count that the largest needs. Raises InputError as the
    simulator and `render_moving` do.
    """
    if samples < 1 or (chunk is not None and chunk < 1):
        raise InputError(f"samples={samples}, chunk={chunk}: give 1 or more")
    block = block_samples(trajectory, block)
    chunk = chunk or (1 if jax.default_backend() == "cpu" else 16)
    positions = knots_of(trajectory, samples, block)
    count = -(-len(positions) // chunk) * chunk
    # Places past the end fill the last chunk up; no sound leaves from there.
    positions = np.concatenate([positions, np.repeat(positions[-1:], count - len(positions), 0)])

    def every(one: np.ndarray | None) -> np.ndarray | None:
        return None if one is None else np.broadcast_to(one, (count, *np.shape(one)))

    mics = np.asarray(mics, np.float64)
    geometry, engine = simulator.pack_together(
        [room] * count,
        positions,
        np.broadcast_to(mics, (count, *mics.shape)),
        np.ones((count, len(mics)), bool),
        [seed] * count,
        patterns=every(patterns),
        emission=every(emission),
    )
    return geometry, MotionPlan(engine, samples, block, chunk)


def render_motion(
    places: Geometry, dry: Float[Array, "t"], plan: MotionPlan
) -> Float[Array, "m n"]:
    """What the microphones hear of dry [samples]: [m, samples + taps - 1], as `render_moving` gives it.

    A pure function to call inside jit (plan static). Memory holds `chunk` places at a time.
    """
    if dry.shape != (plan.samples,):
        raise InputError(f"dry has shape {dry.shape}: this plan is for [{plan.samples}]")
    taps, block, chunk = plan.engine.taps, plan.block, plan.chunk
    count, mics = places.mask.shape
    size = scipy.fft.next_fast_len(taps + 2 * block - 1, real=True)
    rows = -(-(taps + 2 * block - 1) // block)
    padded = jnp.zeros((count + 1) * block, jnp.float32)
    padded = padded.at[block : block + plan.samples].set(dry.astype(jnp.float32))
    blocks = padded.reshape(count + 1, block)
    triangle = 1 - np.abs(np.arange(2 * block) - block).astype(np.float32) / block
    pieces = jnp.concatenate([blocks[:-1], blocks[1:]], axis=1) * triangle
    target = (np.arange(chunk)[:, None] + np.arange(rows)).ravel()

    def add(
        total: Float[Array, "n m block"], some: tuple[Array, Geometry, Array]
    ) -> tuple[Float[Array, "n m block"], None]:
        first, here, sound = some
        spectra = jnp.fft.rfft(responses(here, plan.engine), size)
        wet = jnp.fft.irfft(spectra * jnp.fft.rfft(sound, size)[:, None], size)
        wet = jnp.pad(wet, ((0, 0), (0, 0), (0, max(0, rows * block - size))))[..., : rows * block]
        parts = wet.reshape(chunk, mics, rows, block).transpose(0, 2, 1, 3).reshape(-1, mics, block)
        added = jnp.zeros((chunk + rows - 1, mics, block)).at[target].add(parts)
        before = jax.lax.dynamic_slice_in_dim(total, first, len(added))
        return jax.lax.dynamic_update_slice_in_dim(total, before + added, first, 0), None

    def chunks(x: Array) -> Array:
        return x.reshape(count // chunk, chunk, *x.shape[1:])

    empty = jnp.zeros((count + rows - 1, mics, block), jnp.float32)
    total, _ = jax.lax.scan(
        add, empty, (jnp.arange(0, count, chunk), jax.tree.map(chunks, places), chunks(pieces))
    )
    heard = jnp.moveaxis(total, 1, 0).reshape(mics, -1)
    return heard[:, block : block + plan.samples + taps - 1]
