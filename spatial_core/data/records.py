# SPDX-License-Identifier: Apache-2.0
"""The batch: one schema for simulation, training and evaluation.

A batch is a plain `dict[str, np.ndarray]` whose leading axis is the examples. `SCHEMA` names the
fields, `check_batch` refuses anything else, and the rest are the few operations the stream needs.

Axes: b examples, m microphones (padded, see `mic_mask`), t samples. Angles are degrees, azimuth
counter-clockwise from +x in (-180, 180], elevation up from the horizontal in [-90, 90], distance in
metres, all about the centroid of the valid microphones. `direct` is the part of the first
microphone's audio that is the talker's direct sound: known to streams of simulated scenes, zero elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spatial_core.errors import InputError

SAMPLE_RATE = 16000
WINDOW = 4000
"""Samples of one example: 250 ms."""
HOP = 2560
"""Samples between two estimates on a long recording: 160 ms."""
SILENCE_RMS = 1e-7
"""Audio below this RMS (-140 dB re full scale) counts as silent: no simulated scene comes near it."""

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Field:
    """dtype and trailing axes of one field; 'm' and 't' are read from the audio, ints are fixed."""

    dtype: type
    axes: tuple[str | int, ...] = ()


SCHEMA: dict[str, Field] = {
    "audio": Field(np.float32, ("m", "t")),
    "direct": Field(np.float32, ("t",)),
    "mic_positions": Field(np.float32, ("m", 3)),
    "mic_mask": Field(np.bool_, ("m",)),
    "azimuth": Field(np.float32),
    "elevation": Field(np.float32),
    "distance": Field(np.float32),
    "speech": Field(np.bool_),
    "rt60": Field(np.float32),
    "snr_db": Field(np.float32),
    "num_mics": Field(np.int32),
    "example_id": Field(np.int64),
}
_PER_MICROPHONE = ("audio", "mic_positions", "mic_mask")


def empty_batch(size: int, num_mics: int, samples: int = WINDOW) -> Batch:
    """All-zero batch of `size` examples: the shapes and dtypes of `SCHEMA`, nothing valid in it."""
    axes = {"m": num_mics, "t": samples}
    return {
        name: np.zeros((size, *(axes[a] if isinstance(a, str) else a for a in f.axes)), f.dtype)
        for name, f in SCHEMA.items()
    }


def check_batch(batch: Mapping[str, np.ndarray], num_mics: int | None = None) -> None:
    """Raise `InputError` unless `batch` follows `SCHEMA` (fields, dtypes, shapes, mask, labels).

    num_mics: the padded microphone count to insist on. Contents that a simulator may get wrong in
    single examples (silence, non-finite audio) are the business of `find_bad_examples`.
    """
    missing = [name for name in SCHEMA if name not in batch]
    unknown = [name for name in batch if name not in SCHEMA]
    if missing or unknown:
        raise InputError(
            f"a batch needs exactly the fields {list(SCHEMA)}; missing {missing}, unknown {unknown}"
        )
    if batch["audio"].ndim != 3:
        raise InputError(f"audio must be [b, m, t], but has shape {batch['audio'].shape}")
    size, m, t = batch["audio"].shape
    axes = {"m": m, "t": t}
    for name, field in SCHEMA.items():
        shape = (size, *(axes[a] if isinstance(a, str) else a for a in field.axes))
        value = batch[name]
        if value.dtype != field.dtype or value.shape != shape:
            raise InputError(
                f"{name} must be {np.dtype(field.dtype).name} {list(shape)}, "
                f"but is {value.dtype.name} {list(value.shape)}"
            )
    if num_mics is not None and m != num_mics:
        raise InputError(
            f"the batch is padded to {m} microphones, but {num_mics} are expected: "
            "set max_mics of the stream, or use pad_microphones"
        )
    _check_masks(batch)
    _check_labels(batch)


def _check_masks(batch: Mapping[str, np.ndarray]) -> None:
    mask = batch["mic_mask"]
    wrong = np.flatnonzero(mask.sum(axis=1) != batch["num_mics"])
    if wrong.size:
        raise InputError(f"num_mics differs from the count of mic_mask in examples {wrong[:8]}")
    for name in ("audio", "mic_positions"):
        wrong = np.flatnonzero(np.any(np.any(batch[name] != 0, axis=2) & ~mask, axis=1))
        if wrong.size:
            raise InputError(f"{name} of masked microphones must be zero; examples {wrong[:8]}")


def _check_labels(batch: Mapping[str, np.ndarray]) -> None:
    azimuth, elevation, distance = batch["azimuth"], batch["elevation"], batch["distance"]
    valid = (azimuth > -180) & (azimuth <= 180) & (np.abs(elevation) <= 90) & (distance >= 0)
    valid &= np.isfinite(distance)
    wrong = np.flatnonzero(~valid)
    if wrong.size:
        i = wrong[0]
        raise InputError(
            "azimuth must lie in (-180, 180], elevation in [-90, 90] and distance be at least 0; "
            f"example {i} has {azimuth[i]}, {elevation[i]}, {distance[i]}"
        )
    unlabelled = ~batch["speech"] & ((azimuth != 0) | (elevation != 0) | (distance != 0))
    if unlabelled.any():
        raise InputError(
            "examples without speech must have azimuth, elevation and distance 0; "
            f"examples {np.flatnonzero(unlabelled)[:8]}"
        )


def find_bad_examples(batch: Mapping[str, np.ndarray]) -> dict[int, str]:
    """Row -> reason for every example that must not reach a model.

    Bad are non-finite audio, positions or labels (snr_db may be +inf: no distractor), and silence
    although speech is True.
    """
    audio = batch["audio"]
    # The energy is non-finite when any sample is: one pass over the audio answers both questions.
    level = np.sqrt(np.einsum("bmt,bmt->bm", audio, audio) / audio.shape[2]).max(axis=1)
    reasons: dict[int, str] = {}
    for i in np.flatnonzero(batch["speech"] & (level < SILENCE_RMS)):
        reasons[int(i)] = f"silent (RMS {level[i]:.1e}) although speech is True"
    labels = ("azimuth", "elevation", "distance", "rt60")
    finite = {name: np.isfinite(batch[name]) for name in labels}
    finite["snr_db"] = ~np.isnan(batch["snr_db"])
    finite["mic_positions"] = np.isfinite(batch["mic_positions"]).all(axis=(1, 2))
    finite["audio"] = np.isfinite(level)
    for name, ok in finite.items():
        for i in np.flatnonzero(~ok):
            reasons[int(i)] = f"non-finite {name}"
    return reasons


def take(batch: Mapping[str, np.ndarray], rows: slice | np.ndarray) -> Batch:
    """The chosen examples of a batch (a view for slices, a copy for index arrays)."""
    return {name: value[rows] for name, value in batch.items()}


def pad_microphones(batch: Mapping[str, np.ndarray], num_mics: int) -> Batch:
    """Pad the microphone axis with masked zeros up to `num_mics`; never drops a microphone."""
    have = batch["audio"].shape[1]
    if have > num_mics:
        raise InputError(
            f"a batch of {have} microphones does not fit into {num_mics}: raise max_mics"
        )
    padded = dict(batch)
    for name in _PER_MICROPHONE:
        value = batch[name]
        width = [(0, 0), (0, num_mics - have)] + [(0, 0)] * (value.ndim - 2)
        padded[name] = np.pad(value, width)
    return padded


def concatenate(batches: Sequence[Mapping[str, np.ndarray]]) -> Batch:
    """One batch of all examples in order, padded to the largest microphone count among them."""
    if not batches:
        raise InputError("there is no batch to concatenate")
    num_mics = max(b["audio"].shape[1] for b in batches)
    padded = [pad_microphones(b, num_mics) for b in batches]
    return {name: np.concatenate([b[name] for b in padded]) for name in batches[0]}
