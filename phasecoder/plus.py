# SPDX-License-Identifier: Apache-2.0
"""The `plus` encoder: a transformer over a ring of steered directions, for any array."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from phasecoder import steering
from phasecoder.masking import FRAMES, DirectMask
from phasecoder.masking import HEADS as MASK_HEADS
from phasecoder.paper import TOKEN_WIDTH, TokenHeads
from phasecoder.posterior import linear_peak, peak_direction, wrap
from spatial_core.audio.stft import NUM_BINS, stft
from spatial_core.errors import InputError
from spatial_core.nn.transformer import Block
from spatial_core.typing import Array, Bool, Float

# The zoom's window about the coarse answer, in degrees.
ZOOM_AZIMUTHS = np.linspace(-12.0, 12.0, 13)
ZOOM_ELEVATIONS = np.linspace(-16.0, 16.0, 9)
SUB_AZIMUTHS = 2  # posterior cells per ring token: 5 degrees
ELEVATION_CELLS = np.linspace(-90.0, 90.0, 17)
MONO_BANDS = 32
# Cells are trusted by these powers of their agreement with the coarse answer.
AGREEMENT_POWERS = (2.0, 6.0)
ZOOM_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class PlusConfig:
    """Sizes of the plus encoder.

    Attributes:
      elevations: degrees of the steering grid above and below the horizon.
      mask_width, mask_blocks: of the mask of direct sound; a width of 0 leaves it out.
      temperature: divides the posterior's logits; fitted on validation scenes so that the stated
        confidence is the share of answers within 10 degrees.
    """

    family: str = "plus"
    width: int = 128
    heads: int = 4
    head_width: int = 32
    hidden: int = 256
    blocks: int = 4
    mask_width: int = 96
    mask_blocks: int = 2
    elevations: tuple[float, ...] = (-75.0, -50.0, -25.0, 0.0, 25.0, 50.0, 75.0)
    dropout: float = 0.0
    dtype: str = "float32"
    temperature: float = 1.0

    def __post_init__(self):
        if self.mask_width < 0 or self.mask_width % MASK_HEADS:
            raise InputError(
                f"mask_width={self.mask_width}: give a multiple of {MASK_HEADS}, or 0 for no mask"
            )


def azimuth_cells() -> np.ndarray:
    """Centres in degrees of the posterior's 72 azimuth cells, two around each ring token."""
    offsets = (np.arange(SUB_AZIMUTHS) - (SUB_AZIMUTHS - 1) / 2) * (
        360.0 / steering.AZIMUTHS / SUB_AZIMUTHS
    )
    return (steering.ring_azimuths()[:, None] + offsets).reshape(-1)


def coarse_direction(sphere: Float[Array, "b n"]) -> Float[Array, "b 2"]:
    """Azimuth and elevation in degrees that the posterior over the sphere points to."""
    cells = jax.nn.softmax(sphere[:, :-1], axis=-1)
    cells = cells.reshape(sphere.shape[0], -1, len(ELEVATION_CELLS))
    azimuth, column = peak_direction(cells, azimuth_cells())
    return jnp.stack([azimuth, linear_peak(column, ELEVATION_CELLS)], axis=-1)


def zoom_directions(centre: Float[Array, "b 2"]) -> tuple[Float[Array, "b z"], Float[Array, "b z"]]:
    """Azimuths and elevations in radians of the zoom's window, elevation fastest.

    Azimuth steps widen with elevation, so that the window keeps its size on the sphere.
    """
    azimuth, elevation = (
        jnp.asarray(grid.reshape(-1), jnp.float32)
        for grid in np.meshgrid(ZOOM_AZIMUTHS, ZOOM_ELEVATIONS, indexing="ij")
    )
    level = jnp.clip(centre[:, 1], -75.0, 75.0)[:, None]
    turned = centre[:, :1] + azimuth / jnp.cos(jnp.radians(level))
    return jnp.radians(turned), jnp.radians(jnp.clip(centre[:, 1:] + elevation, -90.0, 90.0))


def zoom_answer(centre: Float[Array, "b 2"], logits: Float[Array, "b z"]) -> Float[Array, "b 2"]:
    """Azimuth and elevation in degrees: the mean of the zoom's distribution over its window."""
    azimuth, elevation = zoom_directions(centre)
    probs = jax.nn.softmax(logits, axis=-1)
    turn = jnp.degrees(azimuth) - centre[:, :1]
    mean_azimuth = wrap(centre[:, 0] + jnp.sum(probs * turn, axis=-1))
    return jnp.stack([mean_azimuth, jnp.sum(probs * jnp.degrees(elevation), axis=-1)], axis=-1)


def zoom_target(
    centre: Float[Array, "b 2"],
    azimuth: Float[Array, "b"],
    elevation: Float[Array, "b"],
    width: float,
) -> tuple[Float[Array, "b z"], Bool[Array, "b"]]:
    """Weights over the window's directions, and whether the true direction lies within it."""
    az, el = zoom_directions(centre)
    true_az, true_el = jnp.radians(azimuth)[:, None], jnp.radians(elevation)[:, None]
    cosine = jnp.sin(el) * jnp.sin(true_el) + jnp.cos(el) * jnp.cos(true_el) * jnp.cos(az - true_az)
    target = jax.nn.softmax((cosine - 1.0) / np.radians(width) ** 2, axis=-1)
    level = jnp.clip(centre[:, 1], -75.0, 75.0)
    turn = jnp.abs(wrap(azimuth - centre[:, 0])) * jnp.cos(jnp.radians(level))
    rise = jnp.abs(elevation - centre[:, 1])
    return target, (turn <= ZOOM_AZIMUTHS[-1]) & (rise <= ZOOM_ELEVATIONS[-1])


def mono_filterbank() -> np.ndarray:
    """Triangles [129, 32] equally spaced on the mel scale, 60 Hz to 7.8 kHz."""
    mel = np.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + 7800 / 700), 34)
    centre = 700 * (10 ** (mel / 2595) - 1) / 62.5
    # At least one bin wide on each side: low triangles would otherwise miss every bin.
    low = np.minimum(centre[:-2], centre[1:-1] - 1)[None]
    high = np.maximum(centre[2:], centre[1:-1] + 1)[None]
    k = np.arange(NUM_BINS)[:, None]
    rising, falling = (k - low) / (centre[1:-1] - low), (high - k) / (high - centre[1:-1])
    weights = np.maximum(np.minimum(rising, falling), 0)
    return (weights / weights.sum(axis=0)).astype(np.float32)


def _trusted(
    weights: Float[Array, "b w f n i"], direct: Float[Array, "b f n i"] | None
) -> tuple[Float[Array, "b v f n i"], Float[Array, "b s n"] | None]:
    """The views' weights with those by direct sound, and its share per segment and band.

    The mask learns from its own target alone: a gradient through the steering would cost as much as
    the steering again.
    """
    if direct is None:
        return weights, None
    share = jax.lax.stop_gradient(jax.nn.sigmoid(direct))
    trust = jnp.stack([share, share**2], axis=1) + 1e-4
    # One mean for all bands: a band without direct sound has little to say.
    trust = trust / trust.mean(axis=(2, 3, 4), keepdims=True)
    frames = share.shape[1] // steering.SEGMENT_FRAMES * steering.SEGMENT_FRAMES
    segments = share[:, :frames].reshape(
        share.shape[0], -1, steering.SEGMENT_FRAMES, *share.shape[2:]
    )
    return jnp.concatenate([weights, trust], axis=1), segments.mean(axis=(2, 4))


class PlusEncoder(nnx.Module):
    """Steered coherence tokens and a few mono tokens -> posterior over the sphere and a token.

    Ring tokens know nothing of absolute azimuth: they attend with a learned bias on their angular
    *difference*, so a scene turned by a ring step gives a turned posterior. Absolute azimuth enters
    only where the ring is summed into the spatial token.
    """

    def __init__(self, config: PlusConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype = jnp.dtype(config.dtype)
        linear = nnx.Linear
        levels = len(config.elevations)
        segments = FRAMES // steering.SEGMENT_FRAMES
        masked = config.mask_width > 0
        weighted = 4 if masked else 2
        self.coherence_in = linear(
            levels * steering.NUM_BANDS * (segments + weighted),
            config.width,
            dtype=dtype,
            rngs=rngs,
        )
        self.shape_in = linear(2 * levels + 6 + 2, config.width, rngs=rngs)
        self.mono_in = linear(
            steering.SEGMENT_FRAMES * MONO_BANDS + (1 + masked) * steering.NUM_BANDS,
            config.width,
            dtype=dtype,
            rngs=rngs,
        )
        normal = nnx.initializers.normal(0.02)
        self.segment = nnx.Param(normal(rngs.params(), (segments, config.width), jnp.float32))
        for index in range(config.blocks):
            block = Block(
                config.width,
                config.heads,
                config.head_width,
                config.hidden,
                activation=jax.nn.gelu,
                dropout=config.dropout,
                dtype=dtype,
                rngs=rngs,
            )
            setattr(self, f"block_{index}", block)
            ring = normal(rngs.params(), (config.heads, steering.AZIMUTHS), jnp.float32)
            setattr(self, f"ring_bias_{index}", nnx.Param(ring))
            context = normal(rngs.params(), (config.heads, 2), jnp.float32)
            setattr(self, f"context_bias_{index}", nnx.Param(context))
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)
        self.cells = linear(config.width, SUB_AZIMUTHS * len(ELEVATION_CELLS), rngs=rngs)
        self.absent = linear(config.width, 1, rngs=rngs)
        self.direction = linear(TOKEN_WIDTH, config.width, rngs=rngs)
        self.tokens = TokenHeads(2 * config.width, rngs=rngs)
        self.zoom_context = linear(config.width + 2, ZOOM_WIDTH, rngs=rngs)
        # The whole clip, the weighted views, and what agrees with the coarse answer.
        views = 1 + weighted + len(AGREEMENT_POWERS) + weighted
        self.zoom_in = linear(views * steering.NUM_BANDS, ZOOM_WIDTH, rngs=rngs)
        self.zoom_hidden = linear(ZOOM_WIDTH, ZOOM_WIDTH, rngs=rngs)
        self.zoom_out = linear(ZOOM_WIDTH, 1, rngs=rngs)
        if masked:
            self.mask = DirectMask(config.mask_width, config.mask_blocks, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        audio: Float[Array, "b m t"],
        positions: Float[Array, "b m 3"],
        mask: Bool[Array, "b m"],
        key: Array | None = None,
    ) -> dict[str, Array]:
        """Logits of every head for 250 ms clips of 2 or more microphones.

        Returns ``sphere_logits`` [b, 72 * 17 + 1] (azimuth cell major, elevation cell minor, last:
        no speech), the three class heads of the paper and ``token`` [b, 256]; further the zoom:
        ``zoom_logits`` [b, 13 * 9] over directions about the coarse answer ``zoom_centre`` [b, 2]
        and the answer they give, ``zoom_answer`` [b, 2] (azimuth and elevation in degrees); with a
        mask its ``mask_logits`` [b, 33, 10, 5].
        """
        spectrum = stft(audio)
        phasor = steering.unit_phasors(spectrum, mask)
        power = jnp.real(spectrum * jnp.conj(spectrum)) * mask[:, :, None, None]
        mono = jnp.sum(power, axis=1) / jnp.sum(mask, axis=1)[:, None, None]
        weights = steering.emphases(spectrum, mask)
        direct = self.mask(mono, phasor, mask) if self.config.mask_width else None
        weights, sure = _trusted(weights, direct)
        features = self._features(power, mono, phasor, weights, positions, mask)
        ring, context = self._embed(*jax.lax.stop_gradient((*features, sure)))
        x = jnp.concatenate([ring, context], axis=1).astype(self.config.dtype)
        for index in range(self.config.blocks):
            bias = self._bias(index, context.shape[1])
            block_key = None if key is None else jax.random.fold_in(key, index)
            x = getattr(self, f"block_{index}")(x, bias=bias, key=block_key)
        x = self.norm(x.astype(jnp.float32))
        ring, context = x[:, : steering.AZIMUTHS], x[:, steering.AZIMUTHS :]
        cells = self.cells(ring).reshape(ring.shape[0], -1)
        present = context.mean(axis=1)
        sphere = jnp.concatenate([cells, self.absent(present)], axis=-1)
        centre = jax.lax.stop_gradient(coarse_direction(sphere))
        zoom = self._zoom(centre, ring, phasor, weights, positions, mask)
        return {
            "sphere_logits": sphere,
            "zoom_centre": centre,
            "zoom_logits": zoom,
            "zoom_answer": zoom_answer(centre, zoom),
            **({} if direct is None else {"mask_logits": direct}),
            **self._token(ring, cells, present),
        }

    def _zoom(self, centre, ring, phasor, weights, positions, mask) -> Float[Array, "b z"]:
        """Score finely spaced directions about the coarse answer by their own coherence.

        The ring's 10-degree tokens cannot tell directions much closer than that apart; here each
        direction is steered to exactly, and the ring token beside it says which bands to trust.
        """
        azimuth, elevation = zoom_directions(centre)
        flat = jnp.cos(elevation)
        directions = jnp.stack(
            [flat * jnp.cos(azimuth), flat * jnp.sin(azimuth), jnp.sin(elevation)], axis=-1
        )
        # What the coarse answer explains is direct sound, most likely: a second look trusts it more.
        towards = jnp.maximum(steering.local_coherence(phasor, positions, mask, centre), 0.0)
        powers = jnp.asarray(AGREEMENT_POWERS)[:, None, None, None]
        agree = towards[:, None] ** powers
        agree = jnp.concatenate([agree, agree[:, :1] * weights], axis=1) + 1e-3
        agree = agree / agree.mean(axis=(2, 4), keepdims=True)
        found = steering.steered_coherence(
            phasor,
            positions,
            mask,
            directions,
            jnp.concatenate([weights, agree], axis=1),
            segments=False,
        )
        # What matters is how directions differ within the window.
        found = jax.lax.stop_gradient(found - found.mean(axis=1, keepdims=True))
        found = 4.0 * found.reshape(*found.shape[:2], -1)
        nearest = jnp.round(centre[:, 0] / 10.0).astype(jnp.int32) + steering.AZIMUTHS // 2
        token = jnp.take_along_axis(ring, (nearest % steering.AZIMUTHS)[:, None, None], axis=1)
        count = jnp.log(jnp.sum(mask, axis=1).astype(jnp.float32))
        facts = jnp.stack([count, centre[:, 1] / 45.0], axis=-1)
        context = self.zoom_context(jnp.concatenate([token[:, 0], facts], axis=-1))[:, None]
        hidden = jax.nn.gelu(self.zoom_in(found) * (1.0 + context) + context)
        hidden = jax.nn.gelu(self.zoom_hidden(hidden))
        return self.zoom_out(hidden)[..., 0]

    def _features(self, power, mono, phasor, weights, positions, mask):
        """Everything that has no parameters: coherence, array shape, levels, mono spectrogram."""
        directions = jnp.asarray(steering.grid_directions(self.config.elevations))
        coherence = steering.steered_coherence(phasor, positions, mask, directions, weights)
        batch, _, bands, views = coherence.shape
        coherence = coherence.reshape(batch, steering.AZIMUTHS, -1, bands, views)
        count = jnp.sum(mask, axis=1).astype(jnp.float32)
        sharpness = steering.array_sharpness(positions, mask, self.config.elevations)
        slope = self._slopes(power, positions, mask)
        broad = jnp.broadcast_to(
            jnp.stack([jnp.log(count), jnp.log(sharpness.mean(axis=(1, 2)))], axis=-1)[:, None],
            (batch, steering.AZIMUTHS, 2),
        )
        shape = jnp.concatenate([jnp.log(sharpness) + 4.0, slope, broad], axis=-1)
        level = jnp.mean(mono, axis=(1, 2), keepdims=True)
        mel = jnp.log(mono @ mono_filterbank() / (level + 1e-20) + 1e-5)
        return coherence, shape, mel

    def _slopes(self, power, positions, mask) -> Array:
        """Level gradient toward each ring azimuth and upward, in three broad bands [b, a, 6]."""
        edges = ((4, 16), (16, 48), (48, 112))
        bands = jnp.stack([power[..., lo:hi].mean(axis=(2, 3)) for lo, hi in edges], axis=-1)
        relative = bands / (bands.mean(axis=1, keepdims=True) + 1e-20)
        slope = steering.level_slope(relative, positions, mask)
        azimuth = np.radians(steering.ring_azimuths())
        heading = jnp.asarray(np.stack([np.cos(azimuth), np.sin(azimuth)], axis=-1), jnp.float32)
        toward = jnp.einsum("bnc,ac->ban", slope[..., :2], heading)
        upward = jnp.broadcast_to(slope[:, None, :, 2], toward.shape)
        return jnp.concatenate([toward, upward], axis=-1)

    def _embed(self, coherence, shape, mel, sure) -> tuple[Array, Array]:
        """Ring tokens [b, a, d] and mono context tokens [b, s, d]."""
        batch, azimuths, _, bands, _ = coherence.shape
        segments = self.segment[...].shape[0]
        # Coherence noise shrinks with the pairs averaged; the square root evens out its range.
        scaled = jnp.sign(coherence) * jnp.sqrt(jnp.abs(coherence) + 1e-6)
        ring = self.coherence_in(scaled.reshape(batch, azimuths, -1)) + self.shape_in(shape)
        best = coherence[..., :segments].reshape(batch, -1, bands, segments).max(axis=1)
        frames = mel[:, : segments * steering.SEGMENT_FRAMES]
        frames = 0.3 * frames.reshape(batch, segments, -1)
        mono = [frames, best.swapaxes(1, 2)]
        if sure is not None:
            mono.append(sure[:, :segments])
        mono = jnp.concatenate(mono, axis=-1)
        return ring, self.mono_in(mono) + self.segment[...]

    def _bias(self, index: int, context: int) -> Float[Array, "h n n"]:
        """Attention bias: by azimuth difference on the ring, one scalar toward the context."""
        azimuths = steering.AZIMUTHS
        step = (np.arange(azimuths)[None] - np.arange(azimuths)[:, None]) % azimuths
        ring = getattr(self, f"ring_bias_{index}")[...][:, step]
        toward = getattr(self, f"context_bias_{index}")[...]
        full = jnp.zeros((ring.shape[0], azimuths + context, azimuths + context))
        full = full.at[:, :azimuths, :azimuths].set(ring)
        full = full.at[:, :azimuths, azimuths:].set(toward[:, :1, None])
        return full.at[:, azimuths:, :azimuths].set(toward[:, 1:, None])

    def _token(self, ring, cells, present) -> dict[str, Array]:
        """Sum the ring, weighted by the azimuth posterior, into the token and its class heads."""
        grouped = cells.reshape(ring.shape[0], steering.AZIMUTHS, -1)
        weight = jax.nn.softmax(jax.nn.logsumexp(grouped, axis=-1), axis=-1)
        heading = np.radians(steering.ring_azimuths())[:, None] * np.arange(1, 9)
        code = np.concatenate([np.cos(heading), np.sin(heading)], axis=-1)
        code = jnp.tile(jnp.asarray(code, jnp.float32), (1, TOKEN_WIDTH // code.shape[1]))
        located = ring * (1.0 + self.direction(code)) + self.direction(code)
        summary = jnp.einsum("ba,bad->bd", weight, located)
        return self.tokens(jnp.concatenate([summary, present], axis=-1))
