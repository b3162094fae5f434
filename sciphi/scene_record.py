# SPDX-License-Identifier: Apache-2.0
"""A scene as bytes: magic `SPF1`, length of the header (uint32, little-endian), a JSON header, FLAC.

The audio is four channels of 16 bits at 24 kHz, full scale 1, ACN/SN3D.
"""

from __future__ import annotations

import io

import numpy as np
import soundfile
from numpy.typing import NDArray

from sciphi.records import FOA_RATE, Scene, SceneTruth
from spatial_core.data.shards import pack_header, read_header
from spatial_core.errors import InputError

_MAGIC = b"SPF1"
_MAX_HEADER = 1 << 22


def encode(scene: Scene) -> bytes:
    """The scene as bytes; the same scene gives the same bytes."""
    pcm = np.clip(np.rint(scene.foa * np.float32(32768)), -32768, 32767).astype(np.int16)
    sink = io.BytesIO()
    soundfile.write(sink, pcm.T, FOA_RATE, format="FLAC", subtype="PCM_16", compression_level=0.3)
    header = {
        "key": scene.key,
        "seed": scene.seed,
        "samples": scene.foa.shape[1],
        "truth": scene.truth.to_json(),
    }
    return pack_header(_MAGIC, header) + sink.getvalue()


def decode(data: bytes) -> Scene:
    """The scene that `encode` wrote, to 16 bits; InputError if the bytes are not one."""
    try:
        header, begin = read_header(data, _MAGIC, _MAX_HEADER)
        return Scene(
            key=str(header["key"]),
            foa=_audio(data[begin:], int(header["samples"])),
            truth=SceneTruth.from_json(header["truth"]),
            seed=int(header["seed"]),
        )
    except (ValueError, KeyError, TypeError, soundfile.LibsndfileError) as error:
        raise InputError(f"these bytes are not a scene, or a damaged one: {error}") from error


def decode_truth(data: bytes) -> tuple[str, SceneTruth]:
    """Key and truth without the audio; InputError as in `decode`."""
    try:
        header, _ = read_header(data, _MAGIC, _MAX_HEADER)
        return str(header["key"]), SceneTruth.from_json(header["truth"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"these bytes are not a scene, or a damaged one: {error}") from error


def _audio(data: bytes, samples: int) -> NDArray[np.float32]:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        if (file.channels, file.samplerate, file.frames) != (4, FOA_RATE, samples):
            raise ValueError(
                f"{file.channels} channels of {file.frames} samples at {file.samplerate} Hz, where 4 "
                f"of {samples} at {FOA_RATE} Hz were written"
            )
        pcm = file.read(dtype="int16")
    return np.ascontiguousarray(pcm.T, np.float32) / np.float32(32768)
