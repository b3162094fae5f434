# SPDX-License-Identifier: Apache-2.0
"""The published encoder against its table, a plain numpy forward pass, and its invariances."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.signal

from phasecoder.mic_embedding import microphone_embedding
from phasecoder.paper import SIZES, PaperConfig
from phasecoder.task import PhaseCoderTask
from tests.unit.programs import quick

PUBLISHED = {"s": 1.5e6, "m": 6e6, "l": 34e6}


def clip_batch(microphones: int, batch: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    positions = rng.normal(size=(batch, microphones, 3)) * 0.05
    positions -= positions.mean(axis=1, keepdims=True)
    return {
        "audio": rng.normal(size=(batch, microphones, 4000)).astype(np.float32) * 0.1,
        "mic_positions": positions.astype(np.float32),
        "mic_mask": np.ones((batch, microphones), bool),
    }


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts_match_table_7(size: str):
    shapes = jax.eval_shape(PhaseCoderTask(SIZES[size]).init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert abs(count / PUBLISHED[size] - 1) < 0.03


def numpy_layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def numpy_dense(x, p):
    return x @ p["kernel"] + p["bias"]


def numpy_block(x, p, heads, head_width):
    h = numpy_layer_norm(x, p["norm_attention"])
    q = numpy_dense(h, p["attention"]["query"]).reshape(len(x), heads, head_width)
    kv = numpy_dense(h, p["attention"]["key_value"]).reshape(len(x), 2, heads, head_width)
    out = np.empty((len(x), heads, head_width))
    for head in range(heads):
        scores = q[:, head] @ kv[:, 0, head].T / np.sqrt(head_width)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, head] = weights / weights.sum(-1, keepdims=True) @ kv[:, 1, head]
    x = x + numpy_dense(out.reshape(len(x), -1), p["attention"]["out"])
    h = numpy_dense(numpy_layer_norm(x, p["norm_feed_forward"]), p["expand"])
    return x + numpy_dense(np.maximum(h, 0), p["contract"])


def numpy_sinusoid(position, width):
    rates = 10_000.0 ** (-np.arange(width // 2) / (width // 2))
    angle = np.asarray(position)[..., None] * rates
    return np.concatenate([np.sin(angle), np.cos(angle)], -1)


def numpy_microphone(position, width):
    x, y, z = position
    r = np.sqrt(x * x + y * y + z * z)
    theta, phi = np.arccos(z / r), np.arctan2(y, x)
    v = 4 / width * np.arange(width // 4)
    w = 2 * np.pi * 4.0 * v
    parts = [np.cos(w + theta), np.sin(w + theta), np.cos(w + phi), np.sin(w + phi)]
    return 7.0 * r * np.concatenate(parts)


def test_equals_a_numpy_forward_pass_written_from_the_paper():
    config = PaperConfig(width=32, heads=2, head_width=16, hidden=24, blocks=2)
    task = PhaseCoderTask(config)
    params = jax.tree.map(np.asarray, task.init(jax.random.key(3)))
    batch = clip_batch(3, batch=1)
    p = jax.tree.map(lambda x: x.astype(np.float64), params)
    _, _, spectrum = scipy.signal.stft(batch["audio"][0].astype(np.float64), nperseg=256)
    rows, microphones = [], 3
    for frame in range(33):
        for mic in range(microphones):
            values = spectrum[mic, :, frame]
            row = numpy_dense(np.concatenate([np.abs(values), np.angle(values)]), p["project"])
            row = row + numpy_sinusoid(frame * microphones + mic + 1, 32)
            row = row + numpy_sinusoid(frame + 1, 32)
            rows.append(row + numpy_microphone(batch["mic_positions"][0, mic], 32))
    x = np.concatenate([p["cls"], np.stack(rows)])
    for index in range(2):
        x = numpy_block(x, p[f"block_{index}"], 2, 16)
    summary = numpy_layer_norm(x[0], p["norm"])
    token = numpy_dense(
        np.maximum(numpy_dense(summary, p["heads"]["hidden"]), 0), p["heads"]["token"]
    )
    got = jax.jit(task.apply)(params, batch)
    # float32 against float64; raw phase near +-pi may flip at bins of rounding size (DC, Nyquist).
    np.testing.assert_allclose(got["token"][0], token, atol=2e-3)
    logits = numpy_dense(token, p["heads"]["azimuth"])
    np.testing.assert_allclose(got["azimuth_logits"][0], logits, atol=2e-3)


def test_same_answer_alone_or_padded():
    task = PhaseCoderTask(PaperConfig(width=32, heads=2, head_width=16, hidden=24, blocks=2))
    params = task.init(jax.random.key(3))
    batch = clip_batch(4)
    padded = {
        "audio": np.pad(batch["audio"], ((0, 0), (0, 4), (0, 0)), constant_values=0.3),
        "mic_positions": np.pad(batch["mic_positions"], ((0, 0), (0, 4), (0, 0))),
        "mic_mask": np.pad(batch["mic_mask"], ((0, 0), (0, 4))),
    }
    alone, together = jax.jit(task.apply)(params, batch), jax.jit(task.apply)(params, padded)
    for name in alone:
        np.testing.assert_allclose(alone[name], together[name], atol=1e-5)


def test_microphone_on_the_centroid_embeds_as_zero_with_finite_gradient():
    places = np.array([[0.0, 0, 0], [0, 0, 0.04], [0.03, 0, 0]], np.float32)
    value, grad = quick(jax.value_and_grad(lambda r: microphone_embedding(r, 32).sum()))(places)
    assert np.isfinite(value) and np.all(np.isfinite(grad))
    embedded = np.asarray(microphone_embedding(places, 32))
    assert np.all(embedded[0] == 0)
    for row in (1, 2):
        np.testing.assert_allclose(embedded[row], numpy_microphone(places[row], 32), atol=1e-5)
