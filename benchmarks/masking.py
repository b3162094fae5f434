# SPDX-License-Identifier: Apache-2.0
"""What a mask of direct sound is worth to plain SRP-PHAT: the true one, and the encoder's.

    python benchmarks/masking.py
    python benchmarks/masking.py --noisy

Steered coherence on a ring of 72 azimuths and 7 elevations, averaged over bands and frames, each cell
weighted; the answer is the ring's largest value. Held-out scenes of the paper's sampler.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from phasecoder import steering
from phasecoder.masking import direct_share
from phasecoder.pretrained import load
from spatial_core.audio.stft import stft
from spatial_core.data.pipeline import SceneStream
from spatial_core.geometry.coords import azimuth_error
from spatial_core.sim.scene import SceneConfig

_MODEL = flags.DEFINE_string(
    "model", None, "A run's folder or a release; default: the shipped one."
)
_SPEECH = flags.DEFINE_multi_string("speech", ["embedded"], "Speech, as SceneStream.speech.")
_NOISE = flags.DEFINE_multi_string("noise", ["embedded"], "Noise, as SceneStream.noise.")
_NOISY = flags.DEFINE_bool("noisy", False, "With a distractor at -5 to 15 dB.")
_CLIPS = flags.DEFINE_integer("clips", 1024, "Clips; rounded to batches of 64.")
_ELEVATIONS = (-75.0, -50.0, -25.0, 0.0, 25.0, 50.0, 75.0)
_VIEWS = ("no weights", "level", "onset", "encoder's mask", "mask * onset", "true mask", "squared")


def main(_: list[str]) -> None:
    """Prints the share within 10 degrees and the median error of each weighting."""
    encoder = load(_MODEL.value)
    directions = jnp.asarray(steering.grid_directions(_ELEVATIONS, 72))
    azimuths = np.repeat(steering.ring_azimuths(72), len(_ELEVATIONS))
    stream = SceneStream(
        scene=SceneConfig(distractor=_NOISY.value, speech_dropout=0.0),
        speech=_SPEECH.value,
        noise=_NOISE.value,
        split="test",
        batch_size=64,
        crops_per_rir=1,
    )

    @jax.jit
    def answers(params, batch):
        mask = batch["mic_mask"]
        spectrum = stft(batch["audio"])
        phasor = steering.unit_phasors(spectrum, mask)
        level, onset = jnp.moveaxis(steering.emphases(spectrum, mask), 1, 0)
        true = direct_share(batch["audio"], batch["direct"])
        logits = encoder.task.apply(params, batch).get("mask_logits", jnp.zeros_like(true))
        found = jax.nn.sigmoid(logits)
        weights = jnp.stack([level, onset, found, found * onset, true, true**2], axis=1) + 1e-6
        coherence = steering.steered_coherence(
            phasor, batch["mic_positions"], mask, directions, weights, segments=False
        )
        return coherence.mean(axis=2).argmax(axis=1)

    errors = []
    for step in range(max(_CLIPS.value // 64, 1)):
        batch = stream.batch(step)
        peaks = azimuths[np.asarray(answers(encoder.params, batch))]
        errors.append(azimuth_error(peaks, batch["azimuth"][:, None]))
    error = np.concatenate(errors)
    print(f"{len(error)} {'noisy' if _NOISY.value else 'clean'} clips, {encoder.name}")
    for name, column in zip(_VIEWS, error.T, strict=True):
        print(
            f"{name:>15}: within 10 degrees {np.mean(column <= 10):.1%}, median {np.median(column):.1f}"
        )


if __name__ == "__main__":
    app.run(main)
