# SPDX-License-Identifier: Apache-2.0
"""Whole trainings compiled for the four chips of a v5p-8 by the TPU compiler: .ci/aot runs them."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass

import numpy as np
import pytest

from launch import configurables
from launch.modes import ROOTS
from spatial_core.config import gin_setup
from spatial_core.errors import InputError
from spatial_core.train import targets
from spatial_core.train.config import TrainConfig
from spatial_core.train.partition import MeshConfig
from spatial_core.train.precompile import Precompiled, precompile
from tests.unit.train.toy import ToyStream, ToyTask

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(not targets.has_tpu_compiler(), reason="needs libtpu"),
]
DATA_PARALLEL, FSDP = {"data": 4, "fsdp": 1}, {"data": 1, "fsdp": 4}


@dataclass(frozen=True)
class Accepted:
    """A training and what it took when it was last looked at (docs/tpu.md).

    teraflop: products of a step, over all chips. gib: memory on each, None where it was not noted.
    """

    experiment: str
    rows: int
    mesh: dict[str, int]
    teraflop: float
    gib: float | None = None
    bindings: tuple[str, ...] = ()


TRAININGS = [
    Accepted("phasecoder_paper_m", 512, DATA_PARALLEL, 6.075, 3.22),
    Accepted("phasecoder_paper_l", 512, DATA_PARALLEL, 27.931, 8.80),
    Accepted("sciphi_seldnet", 16, DATA_PARALLEL, 0.01294, 0.183),
    Accepted("bridge_gemma3n_e4b", 8, FSDP, 207.32, 7.54, ("PARTS = 2",)),
    Accepted("sciphi_phi4", 24, FSDP, 489.15, 13.44),
]


def _config(experiment: str, *bindings: str) -> TrainConfig:
    configurables.register_all()
    gin_setup.parse((f"experiments/{experiment}.gin",), bindings, roots=ROOTS)
    return gin_setup.build("TrainConfig")


def _kinds(report: Precompiled) -> dict[str, int]:
    return {each.kind: each.bytes for each in report.compiled.traffic.collectives}


@pytest.mark.parametrize("accepted", TRAININGS, ids=lambda each: each.experiment)
def test_trainings_fit_as_they_did(accepted):
    report = precompile(_config(accepted.experiment, *accepted.bindings), "v5p-8", tries=0)
    print(report.text())
    assert report.exact and report.fits, report.text()
    assert (report.rows, report.mesh) == (accepted.rows, accepted.mesh)
    assert report.products / 1e12 == pytest.approx(accepted.teraflop, rel=0.02)
    # Another version of the compiler arranges a program a little differently.
    if accepted.gib is not None:
        assert report.compiled.peak / 2**30 == pytest.approx(accepted.gib, rel=0.15)
    assert report.compiled.traffic.unknown_loops == 0
    gradients = 4 * report.counts["trained"]
    kinds = _kinds(report)
    if accepted.mesh == DATA_PARALLEL:
        # The gradients of all chips are summed, once, and little else.
        assert set(kinds) == {"all-reduce"}
        assert gradients <= kinds["all-reduce"] < 1.1 * gradients
    else:
        # Frozen weights of two bytes are fetched for each pass.
        assert kinds["all-gather"] > 2 * report.counts["frozen"] / 4
    assert 0 < report.ceiling.utilisation <= 1
    assert re.search(r"step +at least .* MFU at most \d+%", report.text())


def _toy(**changes) -> TrainConfig:
    wanted = {"task": ToyTask(1024, 2048, 0.0), "data": ToyStream(batch_size=8), "steps": 3}
    return TrainConfig(**{**wanted, **changes})


def test_parameters_are_split_over_chips():
    whole = precompile(_toy(), "v5e-1")
    split = precompile(_toy(mesh=MeshConfig(data=1, fsdp=-1)), "v5e-4")
    assert whole.exact and split.exact and whole.fits and split.fits
    assert split.mesh == FSDP
    # The large matrix and its moments are split, the rest is some kilobytes.
    np.testing.assert_allclose(split.compiled.arguments, whole.compiled.arguments / 4, rtol=0.02)
    assert not whole.compiled.traffic.collectives and split.compiled.traffic.collectives
    with pytest.raises(InputError, match="8 rows in 4 parts does not divide over 4 devices"):
        precompile(_toy(microbatches=4), "v5e-4")


def test_the_compiler_refuses_what_is_too_large_and_the_largest_batch_is_found():
    large = _toy(task=ToyTask(8192, 8192, 0.0), data=ToyStream(batch_size=2**19))
    report = precompile(large, "v5e-1", tries=4)
    assert not report.fits
    assert "RESOURCE_EXHAUSTED: Ran out of memory" in report.text()
    # 16 GB, of which the compiler keeps some for itself: activations of 4 to 12 bytes a row and unit.
    rows = report.largest.rows
    assert 2**30 * 15 / (12 * 8192) < rows < 2**30 * 16 / (4 * 8192)
    data = dataclasses.replace(large.data, batch_size=rows)
    assert precompile(dataclasses.replace(large, data=data), "v5e-1").fits
    hopeless = precompile(_toy(task=ToyTask(65536, 65536)), "v5e-1", tries=2)
    assert not hopeless.fits and math.isclose(hopeless.largest.rows, 0)
