# SPDX-License-Identifier: Apache-2.0
"""Optimiser and schedule against closed forms and a numpy AdamW."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spatial_core.errors import InputError
from spatial_core.train import optim, state
from spatial_core.train.config import TrainConfig
from spatial_core.train.loop import train
from spatial_core.train.optim import OptimizerConfig
from spatial_core.train.task import merge_params
from tests.unit.train.toy import ToyStream, ToyTask


def test_schedule_warms_up_and_follows_a_cosine():
    config = OptimizerConfig(peak_lr=1e-4, end_lr=1e-5, warmup_steps=2000, decay_steps=1_500_000)
    rate = optim.learning_rate(config, 670_000)
    np.testing.assert_allclose(rate(0), 1e-4 / 2000, rtol=1e-5)
    np.testing.assert_allclose(rate(1999), 1e-4, rtol=1e-5)
    middle = 2000 + (1_500_000 - 2000) // 2
    np.testing.assert_allclose(rate(middle), (1e-4 + 1e-5) / 2, rtol=1e-3)
    np.testing.assert_allclose(rate(1_500_000), 1e-5, rtol=1e-4)
    np.testing.assert_allclose(rate(2_000_000), 1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "half"), [("linear", 0.5), ("constant", 1.0)])
def test_other_schedules(kind, half):
    rate = optim.learning_rate(OptimizerConfig(peak_lr=1.0, schedule=kind), 100)
    np.testing.assert_allclose(rate(50), half, rtol=1e-6)


def test_each_stage_decays_to_the_end():
    config = OptimizerConfig(peak_lr=4e-5, schedule="linear", restarts=(20, 35))
    rate = optim.learning_rate(config, 50)
    np.testing.assert_allclose([rate(0), rate(20), rate(35)], 4e-5, rtol=1e-6)
    np.testing.assert_allclose([rate(10), rate(30)], [2e-5, 4e-5 / 3], rtol=1e-5)
    assert rate(19) < 2.1e-6
    with pytest.raises(InputError, match="ends at step 30"):
        optim.learning_rate(config, 30)


def test_microbatches_give_the_gradient_of_the_whole_batch():
    # Plain descent, in which a step is the gradient: Adam would hide its size.
    config = OptimizerConfig(peak_lr=1e-2, schedule="constant", clip_norm=0.0)
    task = ToyTask(dropout=0.0)
    batch = {k: jnp.asarray(v) for k, v in ToyStream().batch(0).items() if k != "example_id"}
    reports = []
    for count in (1, 4):
        step = jax.jit(state.make_train_step(task, config, 10, 0, 0, microbatches=count))
        reports.append(step(_start(task, config, 0), {}, batch))
    (_, whole), (_, parts) = reports
    np.testing.assert_allclose(parts["loss"], whole["loss"], rtol=1e-5)
    np.testing.assert_allclose(parts["grad_norm"], whole["grad_norm"], rtol=1e-5)


class HalfFrozen(ToyTask):
    """The toy task whose first layer comes ready-made."""

    def init(self, rng):
        return {k: v for k, v in super().init(rng).items() if k != "hidden"}

    def frozen_shapes(self):
        return {"hidden": jax.eval_shape(super().init, jax.random.key(0))["hidden"]}

    def load_frozen(self, shardings):
        return jax.device_put({"hidden": super().init(jax.random.key(5))["hidden"]}, shardings)


def test_parameters_of_a_frozen_task_are_used_and_not_kept(tmp_path):
    stream = ToyStream()
    config = TrainConfig(HalfFrozen(dropout=0.0), stream, steps=3, validation=stream)
    result = train(config, tmp_path)
    assert "hidden" not in result.params
    whole = ToyTask(dropout=0.0)
    merged = merge_params(result.params, {"hidden": whole.init(jax.random.key(5))["hidden"]})
    batches = [stream.batch(i) for i in range(config.validation_batches)]
    losses = [float(whole.loss(merged, b, jax.random.key(0), False)[0]) for b in batches]
    np.testing.assert_allclose(result.metrics["validation/loss"], np.mean(losses), rtol=1e-5)


def test_steps_equal_a_numpy_adamw():
    config = OptimizerConfig(peak_lr=1e-2, schedule="constant", weight_decay=0.1, clip_norm=0.5)
    task = ToyTask(dropout=0.0)
    stream = ToyStream()
    current = _start(task, config, 3)
    step = jax.jit(state.make_train_step(task, config, 10, 3, 0))
    flat = {k: np.array(v, np.float64) for k, v in _flatten(current["params"]).items()}
    first = {k: np.zeros_like(v) for k, v in flat.items()}
    second = {k: np.zeros_like(v) for k, v in flat.items()}
    gradient = jax.jit(jax.grad(lambda p, b: task.loss(p, b, None, False)[0]))
    for n in range(5):
        batch = {k: jnp.asarray(v) for k, v in stream.batch(n).items() if k != "example_id"}
        grads = gradient(current["params"], batch)
        grads = {k: np.array(v, np.float64) for k, v in _flatten(grads).items()}
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        current, metrics = step(current, {}, batch)
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
        for k in flat:
            g = grads[k] * min(1.0, 0.5 / norm)
            first[k] = 0.9 * first[k] + 0.1 * g
            second[k] = 0.999 * second[k] + 0.001 * g**2
            m, v = first[k] / (1 - 0.9 ** (n + 1)), second[k] / (1 - 0.999 ** (n + 1))
            decay = 0.0 if k.endswith("bias") else 0.1
            flat[k] = flat[k] - 1e-2 * (m / (np.sqrt(v) + 1e-8) + decay * flat[k])
    for k, value in _flatten(current["params"]).items():
        np.testing.assert_allclose(value, flat[k], rtol=2e-4, atol=2e-6)


def test_frozen_parameters_stay():
    config = OptimizerConfig(frozen=("^hidden/",), weight_decay=0.1)
    task = ToyTask()
    before = _start(task, config, 0)
    batch = {k: jnp.asarray(v) for k, v in ToyStream().batch(0).items() if k != "example_id"}
    after, _ = jax.jit(state.make_train_step(task, config, 10, 0, 0))(before, {}, batch)
    assert jnp.array_equal(
        before["params"]["hidden"]["kernel"], after["params"]["hidden"]["kernel"]
    )
    assert not jnp.array_equal(before["params"]["out"]["kernel"], after["params"]["out"]["kernel"])
    with pytest.raises(InputError, match="matches no parameter"):
        state.init_state(task, OptimizerConfig(frozen=("^nothing",)), seed=0)


def test_average_follows_the_parameters_and_leaves_bad_steps_out():
    config = OptimizerConfig(ema_decay=0.5, peak_lr=0.1, schedule="constant")
    task = ToyTask()
    step = jax.jit(state.make_train_step(task, config, 10, 0, 5))
    current = _start(task, config, 0)
    expected = np.asarray(current["ema"]["out"]["kernel"])
    stream = ToyStream(poisoned=(2,))
    for n in range(4):
        batch = {k: jnp.asarray(v) for k, v in stream.batch(n).items() if k != "example_id"}
        current, _ = step(current, {}, batch)
        decay = min(0.5, (1 + n) / (10 + n))
        if n != 2:
            expected = decay * expected + (1 - decay) * np.asarray(
                current["params"]["out"]["kernel"]
            )
    np.testing.assert_allclose(current["ema"]["out"]["kernel"], expected, rtol=1e-5)
    assert state.eval_params(current) is current["ema"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"ema_decay": 1.0},
        {"peak_lr": -1},
        {"schedule": "step"},
        {"warmup_steps": 9, "decay_steps": 5},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError):
        OptimizerConfig(**wrong)


def _start(task, config, seed):
    return jax.jit(lambda: state.init_state(task, config, seed))()


def _flatten(tree):
    return {
        "/".join(key.key for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
