# SPDX-License-Identifier: Apache-2.0
"""Raw batches and the audio made of them on the device, against the stream that makes it on the host."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phasecoder.trained import load_run
from spatial_core.data.budget import DataBudgetError
from spatial_core.data.device import DeviceStream
from spatial_core.data.pipeline import SceneStream
from spatial_core.data.records import empty_batch
from spatial_core.errors import InputError
from spatial_core.sim.jax_engine import JaxSimulator
from spatial_core.sim.scene import SceneConfig
from spatial_core.train.config import TrainConfig
from spatial_core.train.loop import train
from spatial_core.train.on_device import OnDeviceTask
from tests.unit.data import streams

SIMULATOR = JaxSimulator(taps=600, max_images=512, late_images=64)
FIELDS = ("audio", "direct", "mic_positions", "mic_mask", "azimuth", "elevation", "distance", "speech")  # fmt: skip


def settings(**changes: object) -> dict[str, object]:
    same: dict[str, object] = {
        "scene": streams.small_scene(
            sensor_noise_db=None, gain_mismatch_db=1.0, speech_dropout=0.2
        ),
        "simulator": SIMULATOR,
        "batch_size": 12,
        "seed": 3,
        "threads": 1,
    }
    return {**same, **changes}


@dataclass(frozen=True)
class LinearTask:
    """Least squares from the energies of the channels to the distance, with all fields read."""

    name: str = "linear"
    partition_rules: tuple = ()

    def init(self, rng: jax.Array) -> dict:
        return {"weight": 0.1 * jax.random.normal(rng, (8,))}

    def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        batch = empty_batch(batch_size, 8)
        return {name: jax.ShapeDtypeStruct(batch[name].shape, batch[name].dtype) for name in FIELDS}

    def predict(self, params: dict, batch: dict) -> dict[str, jax.Array]:
        energy = jnp.log(1e-9 + jnp.mean(batch["audio"] ** 2, axis=2)) * batch["mic_mask"]
        return {"distance": energy @ params["weight"]}

    def loss(self, params: dict, batch: dict, rng: jax.Array, train: bool):
        error = self.predict(params, batch)["distance"] - batch["distance"]
        return jnp.mean(error**2), {"direct": jnp.mean(batch["direct"] ** 2)}


@pytest.mark.parametrize("distractor", [True, False])
def test_audio_of_the_device_is_that_of_the_host(distractor: bool) -> None:
    scene = streams.small_scene(
        sensor_noise_db=None, speech_dropout=0.2, distractor=distractor, phase_mismatch_deg=1.0
    )
    host = SceneStream(**settings(scene=scene))  # type: ignore[arg-type]
    device = DeviceStream(**settings(scene=scene))  # type: ignore[arg-type]
    task = OnDeviceTask(LinearTask(), device)
    raw = device.batch(2)
    assert {name: value.shape for name, value in raw.items()} == device.shapes
    for name, leaf in task.example_batch(12).items():
        assert raw[name].dtype == leaf.dtype and raw[name].shape == leaf.shape
    expected, made = host.batch(2), jax.jit(task.audio)(raw)
    assert set(made) == set(FIELDS)
    for name in FIELDS[2:]:
        np.testing.assert_allclose(made[name], expected[name], atol=1e-6, err_msg=name)
    for name in FIELDS[:2]:
        # The corpus is 16-bit already; what is left is float32.
        error = np.abs(made[name] - expected[name]).max()
        assert error < 2e-5 * np.abs(expected[name]).max(), name
    assert not device.skipped


def test_hosts_share_a_batch_and_examples_depend_on_their_index() -> None:
    stream = DeviceStream(**settings(batch_size=16))  # type: ignore[arg-type]
    whole = stream.batch(1)
    shares = [stream.batch(1, host, 2) for host in range(2)]
    for name, value in whole.items():
        joined = np.concatenate([share[name] for share in shares])
        np.testing.assert_array_equal(joined, value, err_msg=name)
    iterator = stream.iterate(1)
    np.testing.assert_array_equal(next(iterator)["speech"], whole["speech"])
    iterator.close()
    with pytest.raises(InputError, match="whole rooms"):
        stream.batch(0, 0, 8)


def test_a_run_trains_on_raw_batches(tmp_path) -> None:
    stream = DeviceStream(**settings(batch_size=8))  # type: ignore[arg-type]
    task = OnDeviceTask(LinearTask(), stream)
    config = TrainConfig(task=task, data=stream, steps=3, log_every=1)
    result = train(config, tmp_path)
    assert result.step == 3 and result.metrics["direct"] > 0
    with pytest.raises(InputError, match="not a PhaseCoder encoder"):
        load_run(tmp_path)


def test_bad_crops_are_replaced_and_counted() -> None:
    stream = DeviceStream(**settings(speech=streams.WhiteSpeech(bad=0.4), noise=streams.WhiteNoise()))  # type: ignore[arg-type]  # fmt: skip
    batch = stream.batch(0)
    assert 0 < stream.skipped < 10
    heard = np.any(batch["speech"].reshape(12, -1), axis=1)
    np.testing.assert_array_equal(heard, batch["levels/speech"])
    broken = DeviceStream(**settings(speech=streams.WhiteSpeech(bad=1.0, how="raise")))  # type: ignore[arg-type]
    with pytest.raises(DataBudgetError, match="8 in a row"):
        broken.batch(0)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InputError, match="no multiple of crops_per_rir"):
        DeviceStream(**settings(batch_size=6))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="JaxSimulator"):
        DeviceStream(**settings(simulator="fast"))  # type: ignore[arg-type]

    @dataclass(frozen=True)
    class NeedsRt60(LinearTask):
        def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
            return {"rt60": jax.ShapeDtypeStruct((batch_size,), np.float32)}

    stream = DeviceStream(**settings(scene=SceneConfig(distractor=False), batch_size=4))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="rt60"):
        OnDeviceTask(NeedsRt60(), stream).audio(stream.batch(0))
