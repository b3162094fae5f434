# SPDX-License-Identifier: Apache-2.0
"""Fractional delays in four bands as one matrix product, and their sum into impulse responses.

A delay filter's taps are smooth functions of the fractional delay, so each is a short polynomial of
it (Farrow, ISCAS 1988). An arrival is then a row of a few coefficients, and all arrivals become
windows of taps in one matrix product: no table is read, which accelerators would do slowly.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.polynomial import chebyshev

from spatial_core.errors import InputError
from spatial_core.typing import Array, Float, Int

# Largest error of a tap against the filter evaluated exactly; the direct sound's peak is 1.
_TOLERANCE = 1e-5
# Samples of one row of the matrix form.
_ROW = 64


@dataclass(frozen=True)
class DelayFilter:
    """A windowed sinc that delays by lead + f samples, f in 0..1.

    taps: its length. window: "kaiser" (shape beta) moves with the delay; "hann" stands still, as
    pyroomacoustics' does (taps=81). The default is the fast simulator's: -58 dB below 7 kHz.
    """

    taps: int = 32
    beta: float = 6.5
    window: str = "kaiser"

    def __post_init__(self) -> None:
        if not 8 <= self.taps <= 256:
            raise InputError(f"a delay filter of {self.taps} taps: choose 8 to 256")
        if self.window not in ("kaiser", "hann"):
            raise InputError(f"window {self.window!r} is unknown: choose 'kaiser' or 'hann'")

    @property
    def lead(self) -> int:
        """Whole samples by which the filter delays."""
        return (self.taps - 1) // 2

    def lowpass(self, fraction: np.ndarray, cut: float) -> np.ndarray:
        """Taps float64 [n, taps] for delays [n] in samples; cut: share of the Nyquist frequency."""
        positions = np.arange(self.taps) - self.lead
        times = positions - np.asarray(fraction, float)[:, None]
        if self.window == "hann":
            weights = 0.5 + 0.5 * np.cos(2 * np.pi * positions / (self.taps - 1))[None]
        else:
            inside = np.sqrt(np.maximum(1 - (times / (self.taps / 2)) ** 2, 0))
            weights = np.i0(self.beta * inside) / np.i0(self.beta)
        return weights * cut * np.sinc(cut * times)


@dataclass(frozen=True, eq=False)
class Polynomials:
    """taps(f) = sum over rows r of x**powers[r] * steps[bands[r]] * coefficients[r], x = 2 f - 1.

    steps are a band's gain less the next band's; the last band's step is its own gain. That writes
    the bands as low-passes, which need fewer rows than band-passes.
    """

    coefficients: np.ndarray  # float32 [r, taps]
    powers: np.ndarray  # int32 [r]
    bands: np.ndarray  # int32 [r]


@functools.cache
def polynomials(delay: DelayFilter, edges_hz: tuple[float, ...], rate: int) -> Polynomials:
    """Chebyshev fits of the low-passes at edges_hz and at rate / 2, of the least degrees that do."""
    nodes = np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    rows: list[np.ndarray] = []
    powers: list[int] = []
    bands: list[int] = []
    for band, edge in enumerate((*edges_hz, rate / 2)):
        exact = delay.lowpass((nodes + 1) / 2, edge / (rate / 2))
        for degree in range(1, 24):
            fit = chebyshev.chebfit(nodes, exact, degree)
            if np.abs(chebyshev.chebval(nodes, fit).T - exact).max() < _TOLERANCE:
                break
        # The high terms are so small that plain powers of x lose no precision.
        powers_of_x = np.zeros((degree + 1, delay.taps))
        for tap, column in enumerate(fit.T):
            terms = chebyshev.cheb2poly(column)  # without trailing zeros
            powers_of_x[: len(terms), tap] = terms
        rows.append(powers_of_x)
        powers.extend(range(degree + 1))
        bands.extend([band] * (degree + 1))
    return Polynomials(
        np.concatenate(rows).astype(np.float32), np.array(powers, np.int32), np.array(bands)
    )


def windows(
    fraction: Float[Array, "m i"],
    amplitude: Float[Array, "m i"],
    gains: Float[Array, "i 4"],
    table: Polynomials,
) -> Float[Array, "m i taps"]:
    """Taps of arrivals with these fractional delays (0..1), amplitudes, and gains of the bands."""
    steps = gains - jnp.concatenate([gains[:, 1:], jnp.zeros_like(gains[:, :1])], axis=1)
    x = 2 * fraction[..., None] - 1
    terms = amplitude[..., None] * steps[:, table.bands]
    for bit in range(int(table.powers.max()).bit_length()):
        terms = terms * jnp.where((table.powers >> bit) & 1, x, 1)
        x = x * x
    return jnp.matmul(terms, table.coefficients, precision=lax.Precision.HIGHEST)


def add_by_scatter(
    out: Float[Array, "m n"], start: Int[Array, "m i"], rows: Float[Array, "m i taps"]
) -> Float[Array, "m n"]:
    """Adds rows to out from `start` on; what begins after n - taps is dropped. For CPU and GPU."""
    mics, length = out.shape
    taps = rows.shape[-1]
    flat = start + length * jnp.arange(mics)[:, None]
    # One index out of range drops the whole window.
    flat = jnp.where((start >= 0) & (start <= length - taps), flat, mics * length)
    dimensions = lax.ScatterDimensionNumbers(
        update_window_dims=(1,), inserted_window_dims=(), scatter_dims_to_operand_dims=(0,)
    )
    total = lax.scatter_add(
        out.reshape(-1),
        flat.reshape(-1, 1),
        rows.reshape(-1, taps),
        dimensions,
        mode=lax.GatherScatterMode.FILL_OR_DROP,
    )
    return total.reshape(mics, length)


def add_by_matmul(
    out: Float[Array, "m n"], start: Int[Array, "m i"], rows: Float[Array, "m i taps"]
) -> Float[Array, "m n"]:
    """The same sum without a scatter, which a TPU does one index at a time.

    start = 64 h + l: each window is moved l samples into a row of 64 + taps (by the bits of l), a
    product with the one-hot h adds the rows up, and the overlaps are added at last.
    """
    mics, length = out.shape
    taps = rows.shape[-1]
    start = jnp.where((start >= 0) & (start <= length - taps), start, -_ROW)
    high, low = start // _ROW, start % _ROW
    width = -(-(_ROW + taps) // _ROW) * _ROW
    placed = jnp.pad(rows, ((0, 0), (0, 0), (0, width - taps)))
    for bit in range(_ROW.bit_length() - 1):
        moved = jnp.roll(placed, 1 << bit, axis=-1)
        placed = jnp.where(((low >> bit) & 1)[..., None] == 1, moved, placed)
    count = -(-length // _ROW)
    choice = (high[..., None] == jnp.arange(count)).astype(rows.dtype)
    summed = jnp.einsum("mih,miw->mhw", choice, placed, precision=lax.Precision.HIGHEST)
    blocks = summed.reshape(mics, count, width // _ROW, _ROW)
    for block in range(width // _ROW):
        part = blocks[:, :, block].reshape(mics, -1)
        part = jnp.pad(part, ((0, 0), (block * _ROW, 0)))[:, :length]
        out = out + part
    return out


def add_windows(
    out: Float[Array, "m n"],
    start: Int[Array, "m i"],
    rows: Float[Array, "m i taps"],
    form: str | None = None,
) -> Float[Array, "m n"]:
    """Adds rows [m, i, taps] to out [m, n]; form: "scatter", "matmul", or None by the platform."""
    if form is None:
        form = "matmul" if jax.default_backend() == "tpu" else "scatter"
    return (add_by_matmul if form == "matmul" else add_by_scatter)(out, start, rows)
