# SPDX-License-Identifier: Apache-2.0
"""What lies where on four chips is what was accepted: tables of whole experiments, nothing compiled."""

from __future__ import annotations

import re

import pytest

from spatial_core.errors import InputError
from spatial_core.train.config import TrainConfig
from spatial_core.train.partition import MeshConfig
from spatial_core.train.sharding_table import sharding_table
from tests.golden import make_sharding
from tests.unit.train.toy import ToyStream, ToyTask

GOLDEN = {path.stem: path.read_text("utf-8") for path in make_sharding.FOLDER.glob("*.txt")}


def _bytes(table: str, part: str) -> int:
    return int(re.search(rf"^{part}: ([\d,]+) bytes", table, re.MULTILINE)[1].replace(",", ""))


@pytest.mark.parametrize("name", make_sharding.TABLES)
def test_experiments_lie_on_the_chips_as_accepted(name):
    # If this is meant: python tests/golden/make_sharding.py, and read the difference.
    assert make_sharding.table(name) == GOLDEN[name]


def test_no_table_is_left_over():
    assert set(GOLDEN) == set(make_sharding.TABLES)


def test_small_models_are_whole_on_each_chip_and_large_ones_split():
    # 6 M parameters of float32, and two moments of each.
    whole, split = GOLDEN["phasecoder_m"], GOLDEN["phasecoder_m_fsdp"]
    assert whole.startswith("4 devices as data 4 x fsdp 1\n")
    held = _bytes(whole, "trained parameters")
    assert 4 * 5e6 < held < 4 * 7e6
    assert 2 * held < _bytes(whole, "optimizer") < 2 * held + 64
    assert _bytes(split, "trained parameters") < 0.27 * held
    # Both split the batch over all four.
    assert _bytes(whole, "batch") == _bytes(split, "batch")
    # Gemma 3n E4B: 6.84 G frozen parameters of bfloat16, a quarter on each chip.
    each = _bytes(GOLDEN["gemma3n_e4b"], "frozen parameters")
    assert 2 * 6.84e9 / 4 == pytest.approx(each, rel=0.01)


def test_a_table_says_what_is_split_and_what_is_alike():
    config = TrainConfig(
        task=ToyTask(features=1024, width=2048), data=ToyStream(batch_size=8), steps=3
    )
    split = TrainConfig(**{**vars(config), "mesh": MeshConfig(data=2, fsdp=2)})
    lines = sharding_table(split, 4).splitlines()
    assert lines[0] == "4 devices as data 2 x fsdp 2"
    # The rule of the task names the second dimension.
    assert any(
        line.split() == ["hidden/kernel", "float32", "1024x2048", "1024x1024"] for line in lines
    )
    assert any(line.split()[-2:] == ["8x1024", "2x1024"] for line in lines)
    with pytest.raises(InputError, match="does not use the 8 devices"):
        sharding_table(split, 8)
