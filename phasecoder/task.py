# SPDX-License-Identifier: Apache-2.0
"""PhaseCoder as a task of the shared training loop: losses (section 3.2) and answers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from phasecoder import posterior
from phasecoder.masking import direct_share
from phasecoder.paper import PaperConfig, PaperEncoder
from phasecoder.plus import (
    ELEVATION_CELLS,
    PlusConfig,
    PlusEncoder,
    azimuth_cells,
    zoom_target,
)
from phasecoder.relative import RelativeConfig, RelativeEncoder
from spatial_core.audio.stft import WINDOW
from spatial_core.errors import InputError
from spatial_core.geometry.bins import AZIMUTH, DISTANCE, ELEVATION, ClassGrid
from spatial_core.nn.functional import Functional
from spatial_core.train.task import Exhibit
from spatial_core.typing import Array, Batch, Params

EncoderConfig = PaperConfig | PlusConfig | RelativeConfig
FAMILIES = {
    "paper": (PaperConfig, PaperEncoder),
    "plus": (PlusConfig, PlusEncoder),
    "relative": (RelativeConfig, RelativeEncoder),
}


def config_from_json(values: dict) -> EncoderConfig:
    """The encoder config that ``dataclasses.asdict`` was written from.

    Raises:
      InputError: unknown family or field.
    """
    family = values.get("family")
    if family not in FAMILIES:
        raise InputError(f"encoder family {family!r} is unknown; choose one of {sorted(FAMILIES)}")
    kind = FAMILIES[family][0]
    unknown = set(values) - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        raise InputError(f"{family} encoder config has unknown fields {sorted(unknown)}")
    frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return kind(**frozen)


def nearest_class(grid: ClassGrid, value: Array, speech: Array) -> Array:
    """Nearest index of the grid, its last class where speech is absent (appendix B)."""
    index = jnp.round((value - grid.low) / grid.step)
    index = jnp.clip(index, 0, grid.points - 1).astype(jnp.int32)
    return jnp.where(speech, index, grid.none_index)


@dataclasses.dataclass(frozen=True)
class PhaseCoderTask:
    """Localise one talker in 250 ms: azimuth, elevation, distance and a spatial token.

    Attributes:
      model: encoder config; its type chooses the family.
      targets: "paper" (one-hot nearest class, the two ends of azimuth apart) or "soft" (circular
        soft targets, the ends merged).
      azimuth_weight, elevation_weight, distance_weight: of the class heads' cross-entropies; the
        paper's 1, 1 and 0.5.
      sphere_weight: of the plus family's posterior over the sphere and of its zoom.
      mask_weight: of the plus family's mask of direct sound.
      width: deviation of the soft angular targets in degrees.
      zoom_width: the same for the zoom's targets.
      max_mics: microphones of the example batch that a dry run shows.
    """

    model: EncoderConfig = PlusConfig()
    targets: str = "soft"
    azimuth_weight: float = 1.0
    elevation_weight: float = 1.0
    distance_weight: float = 0.5
    sphere_weight: float = 1.0
    mask_weight: float = 4.0
    width: float = 6.0
    zoom_width: float = 2.5
    max_mics: int = 8

    def __post_init__(self):
        if self.targets not in ("paper", "soft"):
            raise InputError(f"targets must be 'paper' or 'soft', got {self.targets!r}")

    @property
    def name(self) -> str:
        """Family of the encoder, for run directories and logs."""
        return f"phasecoder_{self.model.family}"

    @property
    def partition_rules(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """Shard the large matrices over fsdp by their input axis; the rest is replicated."""
        return ((r"(query|key_value|out|expand|contract)/kernel$", ("fsdp", None)),)

    @functools.cached_property
    def _functional(self) -> Functional:
        encoder = FAMILIES[self.model.family][1]
        return Functional(lambda rngs: encoder(self.model, rngs=rngs))

    def init(self, rng: jax.Array) -> Params:
        """Fresh parameters."""
        return self._functional.init(rng)

    def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes that ``loss`` reads."""
        shape = jax.ShapeDtypeStruct
        clip = (batch_size, self.max_mics)
        scalars = {k: shape((batch_size,), jnp.float32) for k in ("azimuth", "elevation")}
        masked = isinstance(self.model, PlusConfig) and self.model.mask_width > 0
        if masked:
            scalars["direct"] = shape((batch_size, WINDOW), jnp.float32)
        return {
            "audio": shape((*clip, WINDOW), jnp.float32),
            "mic_positions": shape((*clip, 3), jnp.float32),
            "mic_mask": shape(clip, jnp.bool_),
            "distance": shape((batch_size,), jnp.float32),
            "speech": shape((batch_size,), jnp.bool_),
            **scalars,
        }

    def apply(self, params: Params, batch: Batch, key: jax.Array | None = None) -> dict[str, Array]:
        """Raw logits and token of a batch; ``key`` turns dropout on."""
        encoder = self._functional.bind(params)
        return encoder(batch["audio"], batch["mic_positions"], batch["mic_mask"], key)

    def loss(
        self, params: Params, batch: Batch, rng: jax.Array, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        """Weighted sum of cross-entropies, averaged over the batch, and its parts."""
        logits = self.apply(params, batch, rng if train else None)
        azimuth, elevation, distance = batch["azimuth"], batch["elevation"], batch["distance"]
        speech = batch["speech"]
        if self.targets == "paper":
            hard = optax.softmax_cross_entropy_with_integer_labels
            parts = {
                name: hard(logits[f"{name}_logits"], nearest_class(grid, value, speech))
                for name, grid, value in (
                    ("azimuth", AZIMUTH, azimuth),
                    ("elevation", ELEVATION, elevation),
                    ("distance", DISTANCE, distance),
                )
            }
        else:
            parts = self._soft_losses(logits, azimuth, elevation, distance, speech)
        total = (
            self.azimuth_weight * parts["azimuth"]
            + self.elevation_weight * parts["elevation"]
            + self.distance_weight * parts["distance"]
        )
        if "mask_logits" in logits:
            share = direct_share(batch["audio"], batch["direct"])
            cells = optax.sigmoid_binary_cross_entropy(logits["mask_logits"], share)
            # Recordings do not know their direct sound: zeros although somebody speaks.
            known = jnp.any(batch["direct"] != 0, axis=1) | ~speech
            parts["mask"] = known * jnp.mean(cells, axis=(1, 2, 3))
            total = total + self.mask_weight * parts["mask"]
        if "sphere_logits" in logits:
            target = posterior.sphere_target(
                azimuth, elevation, azimuth_cells(), ELEVATION_CELLS, self.width
            )
            target = posterior.with_absence(target, speech)
            parts["sphere"] = optax.softmax_cross_entropy(logits["sphere_logits"], target)
            zoom, inside = zoom_target(logits["zoom_centre"], azimuth, elevation, self.zoom_width)
            # Where the coarse answer is wrong there is nothing in the window to find.
            inside = (inside & speech).astype(zoom.dtype)
            parts["zoom"] = inside * optax.softmax_cross_entropy(logits["zoom_logits"], zoom)
            total = total + self.sphere_weight * (parts["sphere"] + parts["zoom"])
        metrics = {f"loss_{name}": jnp.mean(part) for name, part in parts.items()}
        return jnp.mean(total), {**metrics, **self._progress(logits, batch)}

    def _soft_losses(self, logits, azimuth, elevation, distance, speech) -> dict[str, Array]:
        soft = optax.softmax_cross_entropy
        points = posterior.AZIMUTH_POINTS
        targets = {
            "azimuth": posterior.circular_target(azimuth, points, self.width),
            "elevation": posterior.linear_target(elevation, ELEVATION.centres, self.width),
            "distance": posterior.linear_target(distance, DISTANCE.centres, 0.5 * DISTANCE.step),
        }
        heads = {
            "azimuth": posterior.merge_ends(logits["azimuth_logits"]),
            "elevation": logits["elevation_logits"],
            "distance": logits["distance_logits"],
        }
        return {k: soft(heads[k], posterior.with_absence(targets[k], speech)) for k in targets}

    def _progress(self, logits: dict[str, Array], batch: Batch) -> dict[str, Array]:
        """What a person watching a run wants: errors where there is speech, presence accuracy."""
        answer = self.decode(logits)
        speech = batch["speech"].astype(jnp.float32)
        count = jnp.maximum(speech.sum(), 1.0)
        error = jnp.abs(posterior.wrap(answer["azimuth"] - batch["azimuth"]))
        heard = (answer["speech_probability"] > 0.5) == batch["speech"]
        return {
            "azimuth_mae": jnp.sum(error * speech) / count,
            "azimuth_acc10": jnp.sum((error <= 10.0) * speech) / count,
            "elevation_mae": jnp.sum(jnp.abs(answer["elevation"] - batch["elevation"]) * speech)
            / count,
            "distance_mae": jnp.sum(jnp.abs(answer["distance"] - batch["distance"]) * speech)
            / count,
            "speech_accuracy": jnp.mean(heard.astype(jnp.float32)),
        }

    def decode(self, logits: dict[str, Array]) -> dict[str, Array]:
        """Angles in degrees, distance in metres, confidence, posteriors and token."""
        if isinstance(self.model, PlusConfig):
            return posterior.decode_sphere(
                logits, azimuth_cells(), ELEVATION_CELLS, self.model.temperature
            )
        return posterior.decode_classes(logits)

    def predict(self, params: Params, batch: Batch) -> dict[str, Array]:
        """Answers for a batch (see ``decode``); reads audio, mic_positions and mic_mask only."""
        return self.decode(self.apply(params, batch))

    def draw(self, batch: Batch, folder: Path, rows: Sequence[int]) -> list[Exhibit]:
        """Labels of a batch, and some of its rows beside their steered response power."""
        from phasecoder.batch_figure import draw_batch  # matplotlib, which training does not need

        return draw_batch(batch, folder, rows)

    @property
    def azimuth_grid(self):
        """Azimuths in degrees of ``azimuth_probs``."""
        plus = isinstance(self.model, PlusConfig)
        return azimuth_cells() if plus else posterior.AZIMUTH_POINTS
