# SPDX-License-Identifier: Apache-2.0
"""Gemma 3n's log-mel and audio encoder: as transformers computes them, in time, whatever the batch."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_bridge.backbones.gemma3n import mel
from llm_bridge.backbones.gemma3n.audio import Gemma3nAudioConfig, Gemma3nAudioEncoder
from llm_bridge.backbones.gemma3n.names import AUDIO, audio_places
from phasecoder.pretrained import Encoder
from spatial_core.data.records import HOP, SAMPLE_RATE, WINDOW
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray
from spatial_core.io.export import unflatten_tree
from spatial_core.nn.functional import Functional
from spatial_core.train.partition import path_name

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
SMALL = Gemma3nAudioConfig(width=32, layers=2, heads=4, channels=(8, 4))


def load_script():
    """The module that made the golden file: it makes the same inputs again."""
    spec = importlib.util.spec_from_file_location("golden", GOLDEN / "make_gemma3n_audio.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def functional(config):
    return Functional(lambda rngs: Gemma3nAudioEncoder(config, rngs))


def params_from(weights, config):
    """Our parameters from transformers' names and arrays; every array must be used."""
    shapes = jax.eval_shape(functional(config).init, jax.random.key(0))
    leaves = {path_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    places = audio_places({name: leaf.shape for name, leaf in leaves.items()})
    assert {name.removeprefix(AUDIO) for name in places} == set(weights)
    out = {name: np.zeros(leaf.shape, np.float32) for name, leaf in leaves.items()}
    for name, place in places.items():
        value = np.asarray(weights[name.removeprefix(AUDIO)], np.float32).transpose(place.axes)
        target = out[place.path][place.index]
        target[...] = value.reshape(target.shape)
    return unflatten_tree(out)


def padded(clips, length=None):
    length = length or max(mel.padded_length(len(clip)) for clip in clips)
    out = np.zeros((len(clips), length), np.float32)
    for row, clip in zip(out, clips):
        row[: len(clip)] = clip
    return out, np.array([len(clip) for clip in clips])


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "gemma3n_audio.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def small_params(golden):
    weights = {name[7:]: golden[name] for name in golden if name.startswith("weight/")}
    return params_from(weights, SMALL)


@pytest.fixture(scope="module")
def encode(small_params):
    """audio [b, t], samples [b] -> tokens, which are inside; compiled once for each shape."""
    bind = functional(SMALL).bind
    run = jax.jit(lambda audio, samples: bind(small_params).from_audio(audio, samples))
    return lambda audio, samples: tuple(np.asarray(part) for part in run(audio, samples))


@pytest.fixture(scope="module")
def inputs():
    return load_script()


def test_log_mel_is_that_of_transformers(golden, inputs) -> None:
    frames = jax.jit(mel.log_mel)(inputs.audio_clips())
    inside = mel.frames_inside(jnp.array(inputs.SAMPLES), frames.shape[1])
    np.testing.assert_array_equal(inside, golden["mel/inside"])
    # Single against double precision inside an FFT, seen through a logarithm.
    np.testing.assert_allclose(
        frames[:, :: inputs.FRAME_STRIDE], golden["mel/frames"], atol=1e-3, rtol=0
    )


def test_encoder_is_that_of_transformers(golden, inputs, small_params) -> None:
    bind = functional(SMALL).bind
    tokens, inside = jax.jit(lambda p, f, v: bind(p)(f, v))(small_params, *inputs.encoder_input())
    np.testing.assert_array_equal(~np.asarray(inside), golden["encoder/padded"])
    # Tokens are of order 1; single precision through two blocks.
    np.testing.assert_allclose(tokens, golden["encoder/tokens"], atol=1e-5, rtol=0)
    assert np.std(golden["encoder/tokens"]) > 0.3


def test_remat_and_bfloat16_compute_the_same(golden, inputs, small_params) -> None:
    frames, valid = inputs.encoder_input()

    def run(**changes):
        bind = functional(dataclasses.replace(SMALL, **changes)).bind
        return np.asarray(jax.jit(lambda p: bind(p)(frames, valid)[0])(small_params), np.float32)

    exact = golden["encoder/tokens"]
    np.testing.assert_allclose(run(remat=True), exact, atol=1e-5, rtol=0)
    coarse = run(dtype=jnp.bfloat16)
    # bfloat16 has 8 bits: relative errors of some 2^-8 in each of a dozen products.
    assert 0 < np.sqrt(np.mean((coarse - exact) ** 2)) < 0.05 * np.std(exact)


def test_real_sizes_have_0_681_billion_parameters() -> None:
    config = Gemma3nAudioConfig(param_dtype=jnp.bfloat16)
    shapes = jax.eval_shape(functional(config).init, jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 681_348_640
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("seconds", "tokens"), [(1, 7), (5, 32), (10, 63), (15, 94), (30, 188), (30.08, 188)]
)
def test_one_token_for_each_begun_160_ms(seconds: float, tokens: int) -> None:
    samples = round(seconds * SAMPLE_RATE)
    bind = functional(SMALL).bind
    shapes = jax.eval_shape(functional(SMALL).init, jax.random.key(0))
    audio = jax.ShapeDtypeStruct((1, mel.padded_length(samples)), jnp.float32)
    out, _ = jax.eval_shape(lambda p, a: bind(p).from_audio(a, jnp.array([samples])), shapes, audio)
    assert out.shape == (1, tokens, SMALL.width)
    assert mel.token_count(samples) == tokens
    frames = (mel.padded_length(samples) - 513) // 160 + 1
    inside = mel.frames_inside(jnp.array([samples]), frames)[0, :: mel.FRAMES_PER_TOKEN]
    assert int(inside.sum()) == tokens


def test_clips_of_any_length_keep_all_their_tokens(encode) -> None:
    """One sample past a token's start begins that token, though no whole frame fits behind it."""
    noise = np.random.RandomState(3).randn(2 * HOP).astype(np.float32)
    for samples in (1, 500, HOP, HOP + 1):
        tokens, inside = encode(*padded([noise[:samples]]))
        assert tokens.shape[1] == inside.sum() == -(-samples // HOP)
        assert np.isfinite(tokens).all()


def test_padded_and_unpadded_batches_agree(encode) -> None:
    noise = np.random.RandomState(4).randn(80_000).astype(np.float32) * 0.1
    clips = [noise, noise[:2561]]
    together, inside = encode(*padded(clips))
    for row, (clip, seen) in enumerate(zip(clips, inside)):
        alone, _ = encode(*padded([clip]))
        count = mel.token_count(len(clip))
        assert seen.sum() == count
        # The same sums in another order.
        np.testing.assert_allclose(together[row, :count], alone[0], atol=1e-5)
        assert not together[row, count:].any()


class WindowsAsTokens(Encoder):
    """PhaseCoder's windows and grid, without its network: a token is what its window holds."""

    def __init__(self) -> None:
        pass

    def predict(self, batch):
        return {"token": batch["audio"].reshape(len(batch["audio"]), -1)}


def test_both_streams_hear_an_instant_from_the_same_token_on(encode) -> None:
    """Which tokens change with one sample: token k of either stream begins at sample 2560 k.

    The mono token k reads up to sample 2560 k + 1471 and, causally, what came before; the spatial
    token k reads 2560 k .. 2560 k + 3999. A click late in a hop reaches the mono stream a token later.
    """
    places = [0, 1, 1471, 1473, 2559, 2560, 4031, 4033, 5 * HOP + 700]
    noise = np.random.RandomState(5).randn(8 * HOP).astype(np.float32) * 0.01
    clips = np.tile(noise, (1 + len(places), 1))
    clips[1 + np.arange(len(places)), places] += 1.0
    mono, _ = encode(*padded(list(clips)))
    array = MicArray(np.array([[0.05, 0, 0], [-0.05, 0, 0]]), "pair")
    spatial = np.stack([WindowsAsTokens().tokens(np.stack([clip, noise]), array) for clip in clips])
    for sample, mono_row, spatial_row in zip(places, mono[1:], spatial[1:]):
        k = sample // HOP
        (heard,) = np.nonzero((mono_row != mono[0]).any(-1))
        # The window's last sample, 1471, has the weight 4e-5: little, but heard.
        assert heard[0] == (k if sample % HOP <= 1471 else k + 1)
        (covered,) = np.nonzero((spatial_row != spatial[0]).any(-1))
        assert covered.tolist() == [i for i in (k - 1, k) if i >= 0 and sample < i * HOP + WINDOW]


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="audio width 30 must be even and divide over 4 heads"):
        Gemma3nAudioConfig(width=30, heads=4)


@pytest.mark.slow
def test_live_transformers_agrees_on_30_s_and_on_shorter_clips_beside_it() -> None:
    torch = pytest.importorskip("torch")
    hugging = pytest.importorskip("transformers.models.gemma3n.modeling_gemma3n")
    features = pytest.importorskip("transformers.models.gemma3n.feature_extraction_gemma3n")
    config = Gemma3nAudioConfig(width=64, layers=3, heads=4, channels=(16, 8))
    theirs = hugging.Gemma3nAudioEncoder(
        hugging.Gemma3nAudioConfig(
            hidden_size=64,
            conf_num_hidden_layers=3,
            conf_num_attention_heads=4,
            sscp_conv_channel_size=(16, 8),
        )
    ).eval()
    random = np.random.RandomState(6)
    with torch.no_grad():
        for name, leaf in theirs.named_parameters():
            value = random.randn(*leaf.shape)
            plain = 1 + 0.1 * value if "norm" in name else 0.3 * value
            scaled = value / np.sqrt(np.prod(leaf.shape[1:]))
            value = plain if leaf.ndim == 1 else scaled
            leaf.copy_(torch.from_numpy(value.astype(np.float32)))
    params = params_from({k: v.numpy() for k, v in theirs.state_dict().items()}, config)
    clips = [(0.1 * random.randn(n)).astype(np.float32) for n in (480_000, 160_000, 77_777)]
    answer = features.Gemma3nAudioFeatureExtractor()(
        clips, padding="max_length", max_length=480_000, return_tensors="np"
    )
    frames, inside = answer["input_features"], answer["input_features_mask"].astype(bool)
    audio, samples = padded(clips)
    assert audio.shape[1] == 480_000
    ours = jax.jit(mel.log_mel)(audio)
    # Single against double precision inside an FFT, seen through a logarithm.
    np.testing.assert_allclose(ours, frames, atol=1e-3, rtol=0)
    np.testing.assert_array_equal(mel.frames_inside(jnp.asarray(samples), frames.shape[1]), inside)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(frames), torch.from_numpy(~inside))
    bind = functional(config).bind
    tokens, valid = jax.jit(lambda p, f, v: bind(p)(f, v))(params, frames, inside)
    np.testing.assert_array_equal(~np.asarray(valid), expected.audio_mel_mask.numpy())
    np.testing.assert_allclose(tokens, expected.last_hidden_state.numpy(), atol=1e-5, rtol=0)
    # From the waveform on, the log-mel's rounding comes through.
    whole, _ = jax.jit(lambda p, a, n: bind(p).from_audio(a, n))(params, audio, samples)
    np.testing.assert_allclose(whole, expected.last_hidden_state.numpy(), atol=1e-3, rtol=0)
    for row, clip in enumerate(clips[1:], 1):
        alone, _ = jax.jit(lambda p, a, n: bind(p).from_audio(a, n))(params, *padded([clip]))
        np.testing.assert_allclose(whole[row, : alone.shape[1]], alone[0], atol=1e-5, rtol=0)
