# SPDX-License-Identifier: Apache-2.0
"""An Ambisonic file in another order and normalisation, or a microphone's capsules as B-format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from sciphi.input_format import A_FORMATS, CHANNELS, InputFormat
from spatial_core.audio.ambisonics import INTERNAL, AmbisonicFormat, convert
from spatial_core.audio.io import stream_audio
from spatial_core.errors import InputError

# 32-bit floats keep every value, whatever the gains; FLAC has no floats.
_SUBTYPES = {".wav": "FLOAT", ".flac": "PCM_24"}
_NAMES = "ACN/SN3D (or AmbiX), ACN/N3D, FuMa/FuMa (or FuMa)"


@dataclass(frozen=True)
class Converted:
    """What was written: path, Hz, seconds, the largest absolute sample."""

    path: Path
    rate: int
    seconds: float
    peak: float


def read_format(text: str) -> InputFormat:
    """The format of "ACN/SN3D", "AmbiX", "FuMa", or "ambeo" (A-format). InputError for another."""
    if text.strip().lower() in A_FORMATS:
        return InputFormat(a_format=text.strip().lower())
    known = _b_format(text)
    return InputFormat(known.order, known.norm)


def convert_file(source: str | Path, target: str | Path, was: str, becomes: str) -> Converted:
    """Write `source` again in another format, at its own rate; block by block, so any length.

    was: format of the source, as in `read_format`. becomes: of the target, no A-format. The target is a wav
    file of floats, or FLAC of 24 bits, by its name. Raises InputError for formats that are unknown, a
    source without exactly four channels, samples that are not finite, and a FLAC file that would clip.
    """
    source, target = Path(source), Path(target)
    given, wanted = read_format(was), _b_format(becomes)
    subtype = _SUBTYPES.get(target.suffix.lower())
    if subtype is None:
        raise InputError(f"{target}: the name of the new file must end in {' or '.join(_SUBTYPES)}")
    if not target.absolute().parent.is_dir():
        raise InputError(f"the folder of {target} does not exist: make it first")
    if target.exists() and source.exists() and target.samefile(source):
        raise InputError(f"{target} is the file itself: give the new one another name")
    with stream_audio(source, None) as stream:
        if stream.num_channels != CHANNELS:
            raise InputError(
                f"{source} has {stream.num_channels} channels: first-order Ambisonics has exactly 4"
            )
        try:
            with soundfile.SoundFile(target, "w", stream.sample_rate, CHANNELS, subtype) as out:
                peak = 0.0
                for block in given.inside(stream, stream.sample_rate):
                    samples = convert(block, INTERNAL, wanted)
                    peak = max(peak, float(np.abs(samples).max(initial=0.0)))
                    _check(peak, subtype, source, target)
                    out.write(samples.T)
        except InputError:
            target.unlink(missing_ok=True)  # half a file is worse than none
            raise
        return Converted(target, stream.sample_rate, stream.seconds, peak)


def _b_format(text: str) -> AmbisonicFormat:
    try:
        return AmbisonicFormat.parse(text)
    except InputError as error:
        raise InputError(
            f"{text!r} is no Ambisonic format ({error}); formats are {_NAMES}"
        ) from error


def _check(peak: float, subtype: str, source: Path, target: Path) -> None:
    if not np.isfinite(peak):
        raise InputError(f"{source} holds NaN or infinite samples; export it again")
    if subtype != "FLOAT" and peak > 1.0:
        raise InputError(
            f"{target}: a sample of {peak:.2f} does not fit into FLAC (full scale is 1): write a .wav, which "
            "holds floats"
        )
