# SPDX-License-Identifier: Apache-2.0
"""Encoders: grouping and padding change nothing, damage and misfits are refused, tokens line up."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phasecoder import pretrained
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray, preset
from spatial_core.io import export


class EnergyTask:
    """Answers with sums over the valid microphones, so that any leak of padding shows.

    It also answers with garbage where masked inputs are not zero.
    """

    azimuth_grid = np.arange(5.0)

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def predict(self, params, batch):
        self.shapes.append(batch["audio"].shape)  # traced once for each compilation
        mask = batch["mic_mask"].astype(jnp.float32)
        energy = jnp.sum(batch["audio"] ** 2, axis=-1)
        dirt = jnp.sum(energy * (1 - mask)) + jnp.sum(
            jnp.abs(batch["mic_positions"]) * (1 - mask)[..., None]
        )
        azimuth = params["gain"] * jnp.sum(energy * mask, 1) / jnp.sum(mask, 1) + dirt
        return {
            "azimuth": azimuth,
            "token": jnp.repeat(azimuth[:, None], 256, axis=1),
            "azimuth_probs": jnp.ones((len(azimuth), 5)) / 5,
        }


def _batch(counts: list[int], mics: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = np.zeros((len(counts), mics), bool)
    for row, count in enumerate(counts):
        mask[row, rng.permutation(mics)[:count]] = True
    return {
        # Junk under the mask: it must not reach the model.
        "audio": rng.normal(size=(len(counts), mics, 4000)).astype(np.float32),
        "mic_positions": rng.normal(size=(len(counts), mics, 3)).astype(np.float32),
        "mic_mask": mask,
    }


def _encoder() -> pretrained.Encoder:
    return pretrained.Encoder(EnergyTask(), {"gain": np.float32(0.01)}, {"name": "energy"})


def test_mixed_counts_answer_as_numpy_does_row_by_row():
    batch = _batch([3, 8, 2, 5, 6, 4, 7, 3], 8)
    answer = _encoder().predict(batch)
    energy = np.sum(batch["audio"].astype(np.float64) ** 2, -1)
    expected = 0.01 * (energy * batch["mic_mask"]).sum(1) / batch["mic_mask"].sum(1)
    np.testing.assert_allclose(answer["azimuth"], expected, rtol=1e-5)
    assert answer["azimuth_grid"].shape == (5,)
    assert answer["azimuth_probs"].shape == (8, 5)


def test_a_clip_answers_alone_as_in_a_wider_batch():
    encoder = _encoder()
    batch = _batch([3, 3, 3, 3, 3], 3)
    wide = {
        key: np.pad(value, ((0, 0), (0, 5)) + ((0, 0),) * (value.ndim - 2))
        for key, value in batch.items()
    }
    alone = encoder.predict({key: value[2:3] for key, value in batch.items()})
    padded = encoder.predict(wide)
    np.testing.assert_allclose(alone["azimuth"], padded["azimuth"][2:3], rtol=1e-6)


def test_few_shapes_are_compiled():
    encoder = _encoder()
    for clips in (1, 3, 4, 63, 64, 65, 130):
        encoder.predict(_batch([4] * clips, 4))
    assert sorted(set(encoder.task.shapes)) == [(1, 4, 4000), (4, 4, 4000), (64, 4, 4000)]
    assert len(encoder.task.shapes) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": np.zeros((2, 4, 3999))}, "audio must be"),
        ({"mic_mask": np.ones((2, 3), bool)}, "needs mic_positions"),
        ({"mic_mask": np.eye(2, 4, dtype=bool)}, "clip 0 has 1 microphones"),
    ],
)
def test_wrong_batches_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        _encoder().predict({**_batch([4, 4], 4), **change})


def test_batch_without_mask_is_refused():
    batch = _batch([4], 4)
    del batch["mic_mask"]
    with pytest.raises(InputError, match="lacks mic_mask"):
        _encoder().predict(batch)


def test_thirty_seconds_give_188_tokens_of_256():
    rng = np.random.default_rng(0)
    audio = rng.normal(size=(4, 30 * 16000)).astype(np.float32)
    tokens = _encoder().tokens(audio, preset("square_4"))
    assert tokens.shape == (188, 256) and tokens.dtype == np.float32


def test_token_n_hears_the_window_from_n_times_160_ms():
    audio = np.zeros((2, 16000), np.float32)
    audio[:, 2 * 2560 + 10 : 2 * 2560 + 20] = 1.0  # after token 2 starts, before token 1 ends
    tokens = _encoder().tokens(audio, MicArray(np.array([[0.0, 0, 0], [0.1, 0, 0]])))
    heard = tokens[:, 0] > 0
    assert heard.tolist() == [False, True, True, False, False, False, False]


def test_window_level_is_normalised_and_silence_stays_silent():
    rng = np.random.default_rng(0)
    windows = 7.0 * rng.normal(size=(3, 4, 4000))
    windows[1] = 0
    batch = pretrained.window_batch(windows, preset("nao_8").positions[:4] + 3.0)
    rms = np.sqrt(np.mean(batch["audio"] ** 2, axis=(1, 2)))
    np.testing.assert_allclose(rms, [0.05, 0.0, 0.05], rtol=1e-4)
    np.testing.assert_allclose(batch["mic_positions"].mean(1), 0, atol=1e-7)


def test_unknown_models_are_named_with_the_known_ones():
    with pytest.raises(InputError, match="neither a folder nor a shipped checkpoint"):
        pretrained.SHIPPED.resolve("no-such-model")


@pytest.fixture(scope="module")
def small_plus():
    plus = pytest.importorskip("phasecoder.plus")
    from phasecoder.task import PhaseCoderTask

    config = plus.PlusConfig()
    return PhaseCoderTask(config), config


def test_a_saved_encoder_loads_and_answers_the_same(small_plus, tmp_path):
    task, config = small_plus
    params = jax.jit(task.init)(jax.random.key(1))
    pretrained.save_pretrained(tmp_path / "mine", params, config, "# Mine", info={"steps": 3})
    encoder = pretrained.load(tmp_path / "mine")
    assert encoder.name == "mine" and encoder.config["info"] == {"steps": 3}
    assert encoder.card == "# Mine\n"
    batch = _batch([4, 3], 4)
    direct = pretrained.Encoder(task, params).predict(batch)
    for key, value in encoder.predict(batch).items():
        np.testing.assert_array_equal(value, direct[key])


def test_parameters_of_another_model_are_refused(small_plus, tmp_path):
    task, config = small_plus
    params = dict(jax.jit(task.init)(jax.random.key(1)))
    params.pop(next(iter(params)))
    pretrained.save_pretrained(tmp_path / "mine", params, config, "")
    with pytest.raises(InputError, match="does not fit its config"):
        pretrained.load(tmp_path / "mine")


def test_unknown_family_is_refused(small_plus, tmp_path):
    del small_plus

    @dataclasses.dataclass(frozen=True)
    class Odd:
        family: str = "odd"

    pretrained.save_pretrained(tmp_path, {"w": np.ones(1)}, Odd(), "")
    with pytest.raises(InputError, match="family 'odd' is unknown"):
        pretrained.load(tmp_path)
    assert export.read_release(tmp_path).config["family"] == "odd"
