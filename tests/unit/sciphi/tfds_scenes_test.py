# SPDX-License-Identifier: Apache-2.0
"""Scene sets through tfds.data_source: what SceneSet gives, and without TensorFlow."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from sciphi.scene_set import SceneSet, export_scenes
from sciphi.tfds_scenes import SciphiScenes
from spatial_core.errors import InputError
from tests.unit.sciphi.scene_set_test import CONFIG


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    export_scenes(replace(CONFIG, counts={"validation": 4, "test": 2}), folder, lambda line: None)
    return folder


def test_scenes_are_those_of_our_reader(made: Path) -> None:
    assert SciphiScenes.name == "sciphi_scenes"
    found = tfds.data_source("sciphi_scenes", builder_kwargs={"folder": made})
    assert {split: len(source) for split, source in found.items()} == {"validation": 4, "test": 2}
    ours = SceneSet(made / "validation")
    for index in (3, 0, 2):
        example, scene = found["validation"][index], ours[index]
        assert example["foa"].dtype == np.float32
        np.testing.assert_array_equal(example["foa"], scene.foa)
        assert example["key"].decode() == scene.key
        truth = scene.truth
        assert (example["volume"], example["rt60"]) == (truth.volume, truth.rt60)
        assert example["background"].decode() == (truth.background or "")
        assert np.isnan(example["background_loudness"]) == (truth.background is None)
        sources = example["sources"]
        for name in ("label", "kind", "category", "transcript"):
            texts = [each.decode() for each in sources[name]]
            assert texts == [getattr(source, name) or "" for source in truth.sources]
        for name in ("onset", "offset", "azimuth", "elevation", "distance", "loudness", "c50"):
            assert sources[name].tolist() == [getattr(source, name) for source in truth.sources]
    assert "tensorflow" not in sys.modules


def test_one_set_alone_can_be_given(made: Path, tmp_path: Path) -> None:
    found = tfds.data_source(
        "sciphi_scenes", split="test[:1]", builder_kwargs={"folder": made / "test"}
    )
    np.testing.assert_array_equal(found[0]["foa"], SceneSet(made / "test")[0].foa)
    with pytest.raises(InputError, match="holds no scene set"):
        tfds.data_source("sciphi_scenes", builder_kwargs={"folder": tmp_path})
