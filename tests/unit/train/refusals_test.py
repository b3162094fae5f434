# SPDX-License-Identifier: Apache-2.0
"""What a training refuses, before anything is compiled and without claiming the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from spatial_core.errors import InputError
from spatial_core.train import guards
from spatial_core.train.config import TrainConfig
from spatial_core.train.loop import train
from spatial_core.train.partition import MeshConfig
from tests.unit.train.toy import ToyStream, ToyTask


@pytest.fixture
def nothing_compiles(monkeypatch):
    """Everything that a training compiles or allocates, it does in its _Run."""

    def refuse(*_: object) -> None:
        raise AssertionError("the run was begun")

    monkeypatch.setattr("spatial_core.train.loop._Run", refuse)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mesh": MeshConfig(data=3)}, "does not use the"),
        ({"data": ToyStream(batch_size=0)}, "batch_size is 0"),
        ({"validation": ToyStream(batch_size=0)}, "TrainConfig.validation: batch_size is 0"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_it_compiles(
    settings, said, tmp_path, nothing_compiles
):
    config = TrainConfig(**{"task": ToyTask(), "data": ToyStream(), "steps": 1, **settings})
    with pytest.raises(InputError, match=said):
        train(config, tmp_path)
    # The setting may be corrected in the same folder.
    assert not (tmp_path / "config.json").exists()


def test_a_folder_that_cannot_be_written_to_is_refused_before_it_compiles(nothing_compiles):
    with pytest.raises(InputError, match="cannot write to /proc/run"):
        train(TrainConfig(task=ToyTask(), data=ToyStream(), steps=1), Path("/proc/run"))


@pytest.mark.parametrize(
    ("rows", "parts", "devices", "said"),
    [
        (16, 1, 3, "set ToyStream.batch_size to a multiple of 3"),
        (16, 4, 8, "TrainConfig.microbatches=4: parts of 4 examples do not divide over 8 devices"),
        (16, 2, 8, None),
    ],
)
def test_a_batch_has_a_row_for_each_device(rows, parts, devices, said):
    config = TrainConfig(task=ToyTask(), data=ToyStream(batch_size=rows), microbatches=parts)
    if said is None:
        guards.check_batches(config, 1, devices)
        return
    with pytest.raises(InputError, match=said):
        guards.check_batches(config, 1, devices)
