# SPDX-License-Identifier: Apache-2.0
"""A scene can be looked at, whatever is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sciphi.records import Scene, SceneTruth, SourceTruth
from sciphi.scene_figure import draw_scene
from spatial_core.errors import InputError

SOURCE = SourceTruth("a dog barking", "event", "dog", None, 0.1, 0.6, 30.0, -10.0, 2.0, -30.0, 9.0)
TRUTHS = [
    SceneTruth(96.0, 0.3, "rain falling", -50.0, (SOURCE,) * 9),
    SceneTruth(96.0, 0.3, None, None, ()),
]


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("level", [0.0, 0.1])
def test_a_scene_is_drawn(truth: SceneTruth, level: float, tmp_path: Path) -> None:
    foa = level * np.random.default_rng(0).standard_normal((4, 24_000), np.float32)
    draw_scene(Scene("a", foa.astype(np.float32), truth), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_a_scene_of_a_moment_is_not_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too short for a picture"):
        draw_scene(Scene("a", np.zeros((4, 100), np.float32), TRUTHS[1]), tmp_path / "a.png")
