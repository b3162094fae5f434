# SPDX-License-Identifier: Apache-2.0
"""A describer that reads its scenes is right, its controls are as deaf as they should be, the report says so."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sciphi import published
from sciphi.eval_report import plain
from sciphi.evaluate import BLIND, CHANCE, SPATIAL_ONLY, SPECTRAL_ONLY, SceneEvalConfig, evaluate
from sciphi.metrics import METRICS
from sciphi.records import FOA_RATE, Scene, SceneTruth
from sciphi.schema import describe_truth
from sciphi.scores import POS
from sciphi.similarity import SharedWords
from sciphi.text_format import parse_text, to_text
from spatial_core.errors import InputError
from spatial_core.eval.sharing import HandedOver, Share
from tests.unit.sciphi.metrics_test import random_scene


class MadeUpScenes:
    """Scenes whose W says which one they are: `len(scenes)`, `scenes[i]`."""

    def __init__(self, count: int, seed: int = 0, seconds: float = 0.01) -> None:
        self.count, self.seed, self.seconds = count, seed, seconds

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Scene:
        if index >= self.count:
            raise IndexError(index)
        foa = np.full((4, round(self.seconds * FOA_RATE)), (index + 1) / 1000, np.float32)
        return Scene(self.key(index), foa, self.truth(index))

    def truth(self, index: int) -> SceneTruth:
        return random_scene(self.seed + index, 1 + index % 4)

    def key(self, index: int) -> str:
        return f"scene-{index}"


class Reader:
    """In place of a trained model: knows the scene by its W, and says what its streams would tell."""

    name, seconds = "reader, step 7", 0.01

    def __init__(self, scenes: MadeUpScenes) -> None:
        self.scenes, self.batches = scenes, []

    def describe(self, foas, heard=("spatial", "spectral")) -> list[str]:
        self.batches.append((len(foas), tuple(heard)))
        return [self._text(round(float(foa[0, 0]) * 1000) - 1, heard) for foa in foas]

    def _text(self, index: int, heard) -> str:
        scene = describe_truth(self.scenes.truth(index))
        sources = scene.sources
        if "spatial" not in heard:
            sources = tuple(dataclasses.replace(s, zone="horizontal front") for s in sources[:1])
        if "spectral" not in heard:
            sources = tuple(dataclasses.replace(s, label="sound") for s in sources)
        return to_text(dataclasses.replace(scene, sources=sources)) if heard else "No idea."


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    scenes = MadeUpScenes(12)
    config = SceneEvalConfig(scenes="runs/scenes", batch_size=5, samples=2)
    reader = Reader(scenes)
    made = config.of(
        [reader], scenes, SharedWords(), MadeUpScenes(30, seed=500), say=lambda _: None
    )
    folder = tmp_path_factory.mktemp("report")
    made.save(folder)
    return made, folder, reader


def test_controls_lose_what_they_cannot_hear(report) -> None:
    results = report[0].results
    assert list(results) == ["reader, step 7", SPECTRAL_ONLY, SPATIAL_ONLY, BLIND, CHANCE]
    row = {name: scores.headline[POS] for name, scores in results.items()}
    for metric in METRICS:
        best = 1.0 if metric.better == "high" else 0.0
        assert row["reader, step 7"][metric.key].value == pytest.approx(best)
    # It counts one source always: right in one of the four numbers, as in the paper's ablation.
    assert row[SPECTRAL_ONLY]["count"].value == 0.25
    assert row[SPECTRAL_ONLY]["xyz"].value < 0.5 and row[SPECTRAL_ONLY]["label"].value == 1
    assert row[SPATIAL_ONLY]["xyz"].value == 1 and row[SPATIAL_ONLY]["label"].value == 0
    assert results[BLIND].said == 0 and results[BLIND].problems == 12
    assert results[BLIND].missed == results[BLIND].sources
    # A background that could not be read is not the answer that there is none.
    assert row[BLIND]["noise"].value == 0
    assert row[CHANCE]["zone"].value > 40 and results[CHANCE].problems == 0


def test_every_system_hears_all_scenes_in_batches(report) -> None:
    both = [size for size, heard in report[2].batches if heard == ("spatial", "spectral")]
    assert both == [5, 5, 2]
    assert {heard for _, heard in report[2].batches} == {
        ("spatial", "spectral"),
        ("spectral",),
        ("spatial",),
        (),
    }


def test_the_report_has_all_tables_the_papers_labelled(report) -> None:
    made, folder, _ = report
    text = (folder / "report.md").read_text(encoding="utf-8")
    for title in ("At a glance", "penalised", "POM", "By number", "By SNR", "By similarity"):
        assert title in text
    assert "label similarity: shared words, no embedding" in text
    assert "TupleScore: version 1" in text
    paper = [line for line in text.splitlines() if "Sci-Phi, simulated" in line]
    assert len(paper) == 1 and paper[0].startswith("| *paper: ")
    assert "82.9%" in paper[0] and "8.4°" in paper[0] and "0.590 log2" in paper[0]
    # Every table has as many cells in every row as in its header, and every figure is there.
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    for link in re.findall(r"\]\((figures/[^)]*)\)", text):
        assert (folder / link).stat().st_size > 5000
    assert text.count("](figures/") == 2
    answers = [json.loads(line) for line in (folder / "answers.jsonl").open()]
    assert len(answers) == 12 and set(answers[0]["texts"]) == set(made.results)
    assert parse_text(answers[3]["right"])[1] == ()


def test_json_says_what_the_tables_say(report) -> None:
    made, folder, _ = report
    document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert document["label_similarity"] == "shared words, no embedding"
    assert document["paper"] == plain(published.table())
    chance = document["results"][CHANCE]
    assert chance["headline"]["POS matched"]["zone"]["value"] == pytest.approx(
        made.results[CHANCE].headline[POS]["zone"].value, rel=1e-5
    )
    assert set(chance["counts"]) == {"1", "2", "3", "4"}
    assert document["results"][BLIND]["headline"]["POS matched"]["xyz"]["value"] is None


def test_two_processes_give_the_answers_of_one(report, tmp_path) -> None:
    scenes = MadeUpScenes(12)
    config = SceneEvalConfig(scenes="runs/scenes", batch_size=5, samples=2)

    def part(host: int):
        share = Share(host, 2, tmp_path, "now")
        drawn_from, quiet = MadeUpScenes(30, seed=500), lambda _: None
        return config.of([Reader(scenes)], scenes, SharedWords(), drawn_from, quiet, share)

    with pytest.raises(HandedOver):
        part(1)
    made = part(0)
    assert made.to_json() == report[0].to_json() and made.told == report[0].told


def test_chance_is_the_same_for_the_same_seed() -> None:
    scenes, train = MadeUpScenes(6), MadeUpScenes(9, seed=500)

    def chance(seed: int) -> list[str]:
        config = SceneEvalConfig(scenes="x", controls=False, seed=seed, count=5)
        made = config.of([Reader(scenes)], scenes, SharedWords(), train, say=lambda _: None)
        assert list(made.results) == ["reader, step 7", CHANCE]
        return [one.texts[CHANCE] for one in made.told]

    assert chance(1) == chance(1) != chance(2)


def test_several_models_stand_side_by_side() -> None:
    scenes = MadeUpScenes(4)
    config = SceneEvalConfig(scenes="x", chance_split=None, show_paper=False)
    made = config.of([Reader(scenes)] * 2, scenes, SharedWords(), say=lambda _: None)
    assert list(made.results)[-1] == "reader, step 7 (2)"
    assert "paper" not in made.to_markdown().lower() and "paper" not in json.loads(made.to_json())


def test_a_run_reads_both_splits_and_loads_the_models_one_after_the_other(tmp_path, monkeypatch):
    opened, loaded = [], []

    def scene_set(folder: Path) -> MadeUpScenes:
        opened.append(folder.name)
        return MadeUpScenes(4)

    def load(model, which, all_devices) -> Reader:
        loaded.append((model, which))
        return Reader(MadeUpScenes(4))

    monkeypatch.setitem(sys.modules, "sciphi.scene_set", SimpleNamespace(SceneSet=scene_set))
    monkeypatch.setitem(sys.modules, "sciphi.trained", SimpleNamespace(load_describer=load))
    config = SceneEvalConfig(scenes="x", model="a", others=("b",), similarity="words", samples=0)
    made = config.run(tmp_path, say=lambda _: None)
    assert opened == ["test", "train"]
    assert loaded == [("a", "latest"), ("b", "latest")]
    assert len(made.results) == 6
    assert (tmp_path / "report.md").is_file() and (tmp_path / "report.json").is_file()


def test_what_cannot_be_evaluated_is_said() -> None:
    with pytest.raises(InputError, match="at least one system"):
        evaluate({}, [])
    with pytest.raises(InputError, match="batch_size 0"):
        SceneEvalConfig(scenes="x", batch_size=0)
    long = MadeUpScenes(1, seconds=0.02)
    with pytest.raises(InputError, match=r"lasts 0.02 s, and the model describes 0.01 s"):
        SceneEvalConfig(scenes="x").of([Reader(long)], long, SharedWords(), say=lambda _: None)


def test_scoring_needs_no_model_and_no_phasecoder() -> None:
    code = (
        "import sys, sciphi.evaluate, sciphi.eval_report, sciphi.text_format\n"
        "assert not {'phasecoder', 'jax', 'matplotlib'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
