# SPDX-License-Identifier: Apache-2.0
"""Looking at a training before it is one: the page stands alone, and says what the training would be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from launch import configurables, inspect
from launch.inspect import inspect_training
from launch.modes import MODES, ROOTS
from llm_bridge.backbones.tiny import TinyBackbone
from llm_bridge.stream import QuestionStream
from llm_bridge.task import BridgeTask
from spatial_core.config import gin_setup
from spatial_core.errors import InputError
from spatial_core.train import parameter_table
from spatial_core.train.config import TrainConfig
from spatial_core.train.partition import MeshConfig
from tests.unit.llm_bridge.made_up import made_up_clips

SMALL = (
    "inspect_scenes.n = 3",
    "inspect_scenes.clips = 1",
    "inspect_training.rows = 2",
    "train/SceneStream.batch_size = 8",
    "ARRAY = 'tetrahedron'",
    "OptimizerConfig.clip_norm = 0.5",
    "PlusConfig.blocks = 1",
)


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    configurables.register_all()
    folder = tmp_path_factory.mktemp("look")
    gin_setup.parse(["experiments/quickstart.gin"], SMALL, roots=ROOTS)
    assert MODES["inspect"].run(folder) == 0
    return folder


def test_the_page_stands_alone_and_shows_everything(looked_at: Path) -> None:
    page = (looked_at / "index.html").read_text(encoding="utf-8")
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert sources and all(source.startswith("data:") for source in sources)
    assert page.count("data:image/png") == 4  # labels, two rows, scenes
    assert page.count("data:audio/mpeg") == 3  # two rows, one clip
    for heading in ("The batch of step 0", "Parameters", "What lies where", "Settings"):
        assert f"<h2>{heading}</h2>" in page
    for name in ("parameters.txt", "shardings.txt", "settings.gin", "settings.json", "index.md"):
        assert (looked_at / name).stat().st_size > 100
    assert not (looked_at / "config.json").exists()  # a training may have this folder, too


def test_labels_of_the_page_are_those_of_the_batch(looked_at: Path) -> None:
    gin_setup.parse(["experiments/quickstart.gin"], SMALL, roots=ROOTS)
    batch = gin_setup.build("TrainConfig").data.batch(0)
    text = (looked_at / "index.md").read_text(encoding="utf-8")
    for row in (0, 7):
        where = "nobody speaks"
        if batch["speech"][row]:
            where = f"azimuth {round(float(batch['azimuth'][row]))}°"
        assert f"Row {row}: {where}" in text
    assert "| audio | 8x4x4000 | float32 |" in text


def test_settings_are_those_that_count_defaults_included(looked_at: Path) -> None:
    text = (looked_at / "settings.gin").read_text(encoding="utf-8")
    assert "OptimizerConfig.clip_norm = 0.5" in text
    assert "TrainConfig.nonfinite_budget = 20" in text  # set nowhere
    resolved = json.loads((looked_at / "settings.json").read_text(encoding="utf-8"))
    assert resolved["optimizer"]["clip_norm"] == 0.5
    assert resolved["data"]["batch_size"] == 8


def test_parameters_are_counted_once() -> None:
    like = jax.ShapeDtypeStruct
    trained = {f"layer_{i}": {"kernel": like((4, 5), np.float32)} for i in range(3)}
    frozen = {"embed": {"table": like((100,), "bfloat16")}}
    rows = parameter_table.module_rows({"model": trained}, {"model": frozen})
    assert rows == [
        ("model/layer_*/kernel", "60", "37.5%", "3", "float32", "trained"),
        ("model/embed/table", "100", "62.5%", "1", "bfloat16", "frozen"),
        ("together", "160", "100%", "4", "float32, bfloat16", ""),
    ]
    assert len(parameter_table.parameter_text(trained, frozen).splitlines()) == 5


def _bridge(**changes: object) -> TrainConfig:
    backbone = TinyBackbone(layers=1, width=32, heads=1, kv_heads=1, hidden=32)
    shapes = dict(soft=8, length=96, answer_length=64)
    stream = QuestionStream(
        tokens="nowhere", backbone=backbone, batch_size=8, style="brief", **shapes
    )
    return TrainConfig(task=BridgeTask(backbone, lora=None, **shapes), data=stream, **changes)


def test_a_bridge_shows_questions_answers_and_sounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _bridge(mesh=MeshConfig(data=2, fsdp=4, fsdp_min_size=1024))
    config.data._open.append(made_up_clips(10))
    hum = np.sin(np.arange(8000) / 10)[None].astype(np.float32)
    monkeypatch.setattr(QuestionStream, "sounds", lambda self, step, rows: [(hum, 16000)] * 2)
    page = inspect_training(config, tmp_path, rows=2)
    text = (tmp_path / "index.md").read_text(encoding="utf-8")
    assert "8 questions" in text and re.search(r"Row 7: .+ Answer: .+", text)
    assert page.read_text(encoding="utf-8").count("data:audio/mpeg") == 2
    # Eight devices, of which one is here; the embedding of 32 columns is in four parts.
    shards = (tmp_path / "shardings.txt").read_text(encoding="utf-8")
    assert shards.startswith("8 devices as data 2 x fsdp 4")
    rows = config.task.backbone.config.vocabulary
    assert re.search(rf"embed.*{rows}x32 +({rows // 4}x32|{rows}x8)", shards)


def test_without_data_all_but_the_batch_is_shown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*all but the batch is in"):
        inspect_training(_bridge(), tmp_path)
    text = (tmp_path / "index.md").read_text(encoding="utf-8")
    assert "There is none to show" in text and "## Parameters" in text


def test_impossible_wishes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rows=0"):
        inspect_training(_bridge(), tmp_path, rows=0)
    with pytest.raises(InputError, match="does not use the 3 devices"):
        inspect_training(_bridge(mesh=MeshConfig(data=2)), tmp_path, devices=3)


def test_places_are_those_of_clips_with_speech():
    batch = {"speech": np.array([True, False, True]), "distance": np.array([2.0, 0.0, 4.0], "f4")}
    rows = {row[0]: row[1:] for row in inspect._leaf_rows(batch)}
    assert rows["distance, of speech"] == ("3", "float32", "2", "3", "4")
    del batch["speech"]
    assert inspect._leaf_rows(batch) == [("distance", "3", "float32", "0", "2", "4")]
