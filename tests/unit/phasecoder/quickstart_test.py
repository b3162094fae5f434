# SPDX-License-Identifier: Apache-2.0
"""Which model a quickstart or an adaptation is compared with."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from launch import configurables
from launch.modes import ROOTS
from phasecoder import pretrained
from phasecoder.plus import PlusConfig
from phasecoder.quickstart import _opponent, run_quickstart
from phasecoder.task import PhaseCoderTask
from spatial_core.config import gin_setup
from spatial_core.errors import InputError


def _config(*settings: str, file: str = "experiments/adapt.gin"):
    configurables.register_all()
    gin_setup.parse([file], settings, roots=ROOTS)
    return gin_setup.build("QuickstartConfig")


@pytest.fixture
def mine(tmp_path):
    model = PlusConfig(width=32, heads=2, head_width=16, hidden=32, blocks=1)
    params = jax.jit(PhaseCoderTask(model).init)(jax.random.key(3))
    return pretrained.save_pretrained(tmp_path / "mine", params, model, "# Mine")


def test_an_adaptation_meets_the_model_that_it_started_from(mine):
    config = _config(f"MODEL = '{mine}'")
    ((name, opponent),) = _opponent(config).items()
    assert name == str(mine)
    start = config.train.init_from()
    jax.tree.map(np.testing.assert_array_equal, dict(opponent.params), dict(start))
    assert opponent.task == config.train.task


@pytest.mark.parametrize("file", ["experiments/adapt.gin", "experiments/quickstart.gin"])
def test_by_default_it_meets_the_shipped_model(file):
    ((name, opponent),) = _opponent(_config(file=file)).items()
    assert name == "shipped" and opponent.name == pretrained.SHIPPED.default


def test_an_opponent_that_is_not_there_is_said_before_the_training(tmp_path):
    config = _config("QuickstartConfig.compare_with = 'nowhere'", file="experiments/quickstart.gin")
    with pytest.raises(InputError, match="'nowhere' is neither a folder nor a shipped"):
        run_quickstart(config, tmp_path / "run")
    assert not (tmp_path / "run" / "train").exists()
