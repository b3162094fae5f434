# SPDX-License-Identifier: Apache-2.0
"""Precompile: operations counted as they run, memory as it is held, machines that are not here."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from spatial_core.errors import InputError
from spatial_core.train import precompile as precompile_module
from spatial_core.train import targets
from spatial_core.train.config import TrainConfig
from spatial_core.train.operations import product_flops
from spatial_core.train.partition import MeshConfig
from spatial_core.train.precompile import precompile
from tests.unit.train.toy import ToyStream, ToyTask

TASK = ToyTask(features=1024, width=2048, dropout=0.0)
# Two matrices and a bias, float32.
PARAMS = 4 * (1024 * 2048 + 2048 + 2048)


def config(**changes) -> TrainConfig:
    wanted = {"task": TASK, "data": ToyStream(batch_size=8), "steps": 3}
    return TrainConfig(**{**wanted, **changes})


def test_products_count_as_often_as_they_run() -> None:
    x, w = jnp.zeros((3, 4, 5)), jnp.zeros((7, 5, 5))

    def layer(h, kernel):
        return jnp.tanh(h @ kernel), None

    def scanned(h, kernels):
        return jax.lax.scan(jax.checkpoint(layer), h, kernels)[0].sum()

    one = 2 * 3 * 4 * 5 * 5
    assert product_flops(jax.make_jaxpr(scanned)(x, w)) == 7 * one
    # Backward: the recomputed product, and those of both gradients.
    gradient = jax.make_jaxpr(jax.grad(scanned, argnums=(0, 1)))(x, w)
    assert product_flops(gradient) == 7 * 4 * one
    chosen = jax.make_jaxpr(lambda p: jax.lax.cond(p, lambda: x @ w[0], lambda: x * 2))(True)
    assert product_flops(chosen) == one


def test_convolutions_count_by_their_kernel() -> None:
    def grouped(x, k):
        return jax.lax.conv_general_dilated(x, k, (2,), "SAME", feature_group_count=4)

    shapes = jnp.zeros((2, 8, 16)), jnp.zeros((12, 2, 3))
    # 2 clips, 12 outputs, 8 places, each 2 x 3 products.
    assert product_flops(jax.make_jaxpr(grouped)(*shapes)) == 2 * (2 * 12 * 8) * (2 * 3)


def test_here_it_tells_what_the_step_holds() -> None:
    report = precompile(config(), "here")
    assert report.exact and report.fits
    # Adam's two moments; then counters of steps.
    moments = report.held["optimizer"] - 2 * PARAMS
    assert report.held["trained parameters"] == PARAMS
    assert 0 < moments < 64
    assert report.compiled.arguments >= 3 * PARAMS
    # The state is donated.
    assert report.compiled.overwritten >= 3 * PARAMS
    # Forward, and the gradients of both matrices; none of the input.
    assert report.products == 2 * 8 * (2 * 1024 * 2048 + 3 * 2048)
    text = report.text()
    for part in ("here: ", "2,101,248 trained", "temporaries", "verdict", "compiles"):
        assert part in text


def test_frozen_parameters_are_held_and_not_trained() -> None:
    @dataclasses.dataclass(frozen=True)
    class Half(ToyTask):
        def init(self, rng):
            return {"out": super().init(rng)["out"]}

        def frozen_shapes(self):
            return {"hidden": jax.eval_shape(super().init, jax.random.key(0))["hidden"]}

        def load_frozen(self, shardings):
            raise AssertionError("weights must not be read")

    report = precompile(config(task=Half(1024, 2048, 0.0)), "here")
    assert report.counts == {"trained": 2048, "frozen": 1024 * 2048 + 2048}
    assert report.held["frozen parameters"] == 4 * (1024 * 2048 + 2048)
    assert report.held["optimizer"] < 3 * 4 * 2048


def test_a_gpu_without_a_compiler_is_an_estimate_and_says_so(monkeypatch) -> None:
    monkeypatch.setattr(targets, "has_tpu_compiler", lambda: False)
    report = precompile(config(mesh=MeshConfig(data=2, fsdp=2)), "h100-80g")
    assert not report.exact and report.fits
    assert report.mesh == {"data": 1, "fsdp": 1}
    text = report.text()
    assert "the CPU, a stand-in" in text
    assert "(estimate, by the CPU)" in text
    assert "59.74 GiB (JAX takes 75% of 79.65 GiB), by an estimate: see temporaries" in text


def test_more_than_the_machine_has_does_not_fit(monkeypatch) -> None:
    monkeypatch.setattr(targets, "has_tpu_compiler", lambda: False)
    small = dataclasses.replace(targets.find("h100-80g"), memory=2**20, usable=2**20)
    monkeypatch.setattr(targets, "find", lambda name: small)
    report = precompile(config(), "h100-80g")
    assert not report.fits
    assert "does not fit: 0.0" in report.text()


def test_impossible_requests_are_refused(monkeypatch) -> None:
    with pytest.raises(InputError, match="target 'v4-8' is unknown; choose among here, v5p-8"):
        precompile(config(), "v4-8")
    monkeypatch.setattr(targets, "has_tpu_compiler", lambda: False)
    with pytest.raises(InputError, match=r"v5p-8 needs the TPU compiler: install .*\[tpu-aot\]"):
        precompile(config(), "v5p-8")


def test_a_batch_that_does_not_fit_is_answered_with_one_that_does(monkeypatch) -> None:
    # 8 bytes of activations a row and unit of width on the CPU, beside 25 MB of state.
    monkeypatch.setattr(targets, "has_tpu_compiler", lambda: False)
    small = dataclasses.replace(targets.find("h100-80g"), memory=2**27, usable=2**27)
    monkeypatch.setattr(targets, "find", lambda name: small)
    data = ToyStream(batch_size=65536)
    report = precompile(config(data=data, microbatches=4), "h100-80g", tries=3)
    assert not report.fits
    largest = report.largest
    assert 0 < largest.rows < largest.refused <= 65536 and len(largest.tried) <= 3
    assert largest.rows % 4 == 0
    fitting = config(data=ToyStream(batch_size=largest.rows), microbatches=4)
    assert precompile(fitting, "h100-80g").fits
    assert f"largest batch  {largest.rows:,} rows" in report.text()
    assert precompile(config(data=data), "h100-80g", tries=0).largest is None


@pytest.mark.parametrize(
    ("message", "wanted", "available", "lines"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
            "(33.00G) exceeds available HBM (15.75G).",
            33 * 2**30,
            int(15.75 * 2**30),
            1,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used "
            "512.50M of 95.74G hbm.\n\nTotal hbm usage >= 1G:\n    program  1G\n\n"
            "  Largest program allocations in hbm:\n\n  1. Size: 1G\n",
            int(512.5 * 2**20),
            int(95.74 * 2**30),
            3,
        ),
        ("RESOURCE_EXHAUSTED: no", None, None, 1),
    ],
)
def test_the_message_of_the_compiler_is_kept_without_its_pages(
    message, wanted, available, lines
) -> None:
    refused = precompile_module._refused(message)
    assert (refused.wanted, refused.available) == (wanted, available)
    assert len(refused.refusal.splitlines()) == lines
    assert message.startswith(refused.refusal.splitlines()[0])
