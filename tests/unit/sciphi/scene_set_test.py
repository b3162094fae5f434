# SPDX-License-Identifier: Apache-2.0
"""Scene sets: whole, resumable, equal bytes, and refused where something is wrong with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sciphi import scene_set
from sciphi.records import Scene, SceneTruth
from sciphi.scene_record import decode, decode_truth, encode
from sciphi.scene_set import SceneSet, SceneSetConfig, export_scenes
from sciphi.scenes import FoaSceneConfig, FoaScenes
from spatial_core.errors import InputError

CONFIG = SceneSetConfig(
    scenes=FoaSceneConfig(seconds=3.5, max_sources=2, scenes_per_room=2, speech_share=0.3),
    counts={"validation": 7},
    shard_size=3,
)


def export(folder: Path, config: SceneSetConfig = CONFIG) -> list[str]:
    said: list[str] = []
    export_scenes(config, folder, said.append)
    return said


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    export(folder)
    return folder / "validation"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_set_holds_the_scenes(made: Path) -> None:
    scenes, found = FoaScenes(CONFIG.scenes, 0, "validation"), SceneSet(made)
    assert (len(found), found.seconds) == (7, 3.5)
    assert found.categories == scenes.categories
    for index in (0, 4, 6):
        scene, expected = found[index], scenes(index)
        assert scene.truth == expected.truth == found.truth(index)
        assert scene.key == expected.key == found.key(index) == f"validation-0-{index:07d}"
        assert scene.foa.dtype == np.float32
        np.testing.assert_allclose(scene.foa, expected.foa, atol=0.51 / 32768)
    assert found[-1].key == found[6].key and [scene.key for scene in found][4] == found.key(4)
    with pytest.raises(IndexError):
        found[7]


def test_a_resumed_export_has_the_bytes_of_one_made_in_one_go(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_so_far = 0

    def dying(scene: Scene) -> bytes:
        nonlocal made_so_far
        made_so_far += 1
        if made_so_far == 5:
            raise KeyboardInterrupt
        return encode(scene)

    monkeypatch.setattr(scene_set, "encode", dying)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path)
    with pytest.raises(InputError, match="unfinished: 1 of 3 shards"):
        SceneSet(tmp_path / "validation")
    assert scene_set.found(CONFIG, tmp_path) == {"validation": "1 of its 3 shards are there"}
    monkeypatch.undo()
    export(tmp_path, replace(CONFIG, threads=2))
    assert contents(tmp_path / "validation") == contents(made)
    assert SceneSet(tmp_path / "validation").digest == SceneSet(made).digest


def test_damage_is_found_and_mended(made: Path, tmp_path: Path) -> None:
    export(tmp_path)
    shard = tmp_path / "validation" / "scenes-00001-of-00003.arrayrecord"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(InputError, match="differs from its checksum"):
        SceneSet(tmp_path / "validation")
    said = export(tmp_path)
    assert any("made again" in line for line in said)
    assert contents(tmp_path / "validation") == contents(made)


def test_another_configuration_is_refused(made: Path) -> None:
    other = replace(CONFIG, scenes=replace(CONFIG.scenes, speech_share=0.4))
    with pytest.raises(InputError, match=r"another configuration(.|\n)*speech_share"):
        export(made.parent, other)
    with pytest.raises(InputError, match=r"another configuration(.|\n)*seed"):
        export(made.parent, replace(CONFIG, seed=1))


def test_manifests_that_were_edited_or_are_none_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no scene set"):
        SceneSet(tmp_path)
    content = json.loads((made / "manifest.json").read_text())
    for change, words in (
        ({"norm": "N3D"}, "was edited"),
        ({"format": "llm_bridge token set"}, "is not the manifest of a scene set"),
        ({"version": 99}, "version 99"),
        ({"shards": {"x": {}}}, "lacks or garbles"),
    ):
        (tmp_path / "manifest.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(InputError, match=words):
            SceneSet(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"counts": {}}, "counts is empty"),
        ({"counts": {"train": 0}}, "is 0"),
        ({"counts": {"dev": 5}}, "split 'dev'"),
        ({"shard_size": 0}, "shard_size=0"),
        ({"threads": 0}, "threads=0"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(CONFIG, **change)


def test_bytes_that_are_no_scene_are_refused() -> None:
    foa = np.zeros((4, 240), np.float32)
    data = encode(Scene("a", foa, SceneTruth(96.0, 0.3, None, None, ()), 5))
    scene = decode(data)
    assert (scene.key, scene.seed, scene.foa.shape) == ("a", 5, (4, 240))
    assert decode_truth(data)[0] == "a"
    for wrong in (b"", b"SBT1" + data[4:], data[:20], data[:-30], data.replace(b"240", b"241")):
        with pytest.raises(InputError, match="not a scene, or a damaged one"):
            decode(wrong)
