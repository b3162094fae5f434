# SPDX-License-Identifier: Apache-2.0
"""Evaluation: a listener that reads made-up tokens is right, its controls are not, and the report says so."""

from __future__ import annotations

import dataclasses
import importlib
import json

import numpy as np
import pytest

from llm_bridge import evaluate, trained
from llm_bridge.evaluate import BLIND, CHANCE, HEADS, ZEROED, BridgeEvalConfig
from llm_bridge.generate import Asked
from llm_bridge.qa.answers import format_locations
from llm_bridge.qa.formats import Location
from spatial_core.config import resolved
from spatial_core.errors import InputError
from spatial_core.eval.sharing import HandedOver, Share
from tests.unit.llm_bridge.released import BACKBONE, of_another_encoder, release, token_set


class Listener:
    """In place of a language model: says the places that made-up tokens hold, `yes` without any."""

    def __init__(self, task, max_new, batch_size):
        self.task = task

    def answers(self, asked: list[Asked], params) -> list[str]:
        assert all(len(one.row.prompt) <= self.task.length for one in asked)
        return [self._answer(one) for one in asked]

    def _answer(self, one: Asked) -> str:
        assert one.row.spatial == len(one.tokens) == len(one.audio)
        if not one.row.spatial:
            return "yes"
        places = []
        for half in np.split(np.asarray(one.tokens, np.float64), 2):
            if half[0, 18] > 0.5:
                azimuth = np.degrees(np.arctan2(half[0, 8], half[0, 0]))
                places.append(Location(azimuth, half[0, 16] * 40, half[0, 17] * 3))
        return format_locations(places)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bridge")
    token_set(folder / "tokens" / "test")
    return release(folder / "tiny"), folder / "tokens"


@pytest.fixture(scope="module")
def evaluated(folders, tmp_path_factory):
    target = tmp_path_factory.mktemp("report")
    patch = pytest.MonkeyPatch()
    patch.setattr(evaluate, "Generator", Listener)
    said: list[str] = []
    config = BridgeEvalConfig(
        model=folders[0], tokens=folders[1], questions=(30, 40, 6, 12), samples=2, batch_size=16
    )
    report = config.run(target, said.append)
    patch.undo()
    return report, target


def test_controls_and_baselines_answer_the_same_questions(evaluated):
    report, _ = evaluated
    model = "tiny, step 7"
    assert list(report.results) == [model, ZEROED, BLIND, HEADS, CHANCE]
    scores = {name: result.task1 for name, result in report.results.items()}
    # Rounding to the lists: at most 5 degrees of azimuth, half a step of 0.49 m. The tokens are float16.
    assert scores[model].azimuth.value < 5.1 and scores[model].distance.value < 0.26
    assert scores[model].missed == scores[model].extra == 0
    # Two who stand within 20 degrees, without a pause between them, are one to the heads.
    assert scores[HEADS].azimuth.value < 5.1 and scores[HEADS].missed <= 3
    assert scores[ZEROED].missed == scores[ZEROED].talkers > 0
    assert report.results[ZEROED].validity[1].invalid == 0
    assert report.results[BLIND].validity[1].unreadable == 30
    # Yes and no are balanced: always yes is right in half of them.
    assert report.results[BLIND].task2.accuracy.value == pytest.approx(0.5, abs=0.03)
    assert report.results[HEADS].task2.accuracy.value > 0.9
    assert report.results[HEADS].words3 is None and report.results[HEADS].task4 is None
    assert report.results[CHANCE].task4.accuracy.count == 12


def test_the_report_holds_tables_figures_and_samples(evaluated):
    report, target = evaluated
    text = (target / "report.md").read_text()
    for line in (
        "| Multi speaker azimuth (outside) |",
        "72.4% (63/87) |",  # the paper's
        "*paper: Gemma 3n fine-tuned, synthetic* | 4.75° | 3.15° | 0.75 m | 76.76% |",
        "### Task 4",
        "figures/task1_azimuth.png",
    ):
        assert line in text
    assert text.count("- right: `") == 8
    document = json.loads((target / "report.json").read_text())
    one = document["results"]["tiny, step 7"]["task1"]
    assert one["azimuth"]["value"] == pytest.approx(
        report.results["tiny, step 7"].task1.azimuth.value, rel=1e-5
    )
    assert "azimuths" not in one and document["paper"]["table_6"]["single_azimuth_left"] == [
        85,
        103,
    ]
    rows = [json.loads(line) for line in (target / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 88 and rows[0]["answers"][HEADS] and rows[-1]["answers"][HEADS] is None
    for name in ("task1_azimuth", "task1_within", "task2_kinds"):
        assert (target / "figures" / f"{name}.png").stat().st_size > 5000


def test_two_processes_give_the_answers_of_one(evaluated, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "Generator", Listener)
    config = BridgeEvalConfig(
        model=folders[0], tokens=folders[1], questions=(30, 40, 6, 12), samples=2, batch_size=16
    )
    with pytest.raises(HandedOver):
        config.run(tmp_path, str, Share(1, 2, tmp_path, "now"))
    config.run(tmp_path, str, Share(0, 2, tmp_path, "now"))
    for name in ("report.json", "answers.jsonl", "report.md"):
        assert (tmp_path / name).read_bytes() == (evaluated[1] / name).read_bytes()


def test_the_model_itself_answers(folders, tmp_path):
    """Untrained it says nothing useful, but it is asked through the whole of it."""
    config = BridgeEvalConfig(
        model=folders[0],
        tokens=folders[1],
        questions=(0, 2, 0, 0),
        controls=False,
        batch_size=2,
        max_new=8,
    )
    report = config.run(tmp_path, lambda line: None)
    assert set(report.results) == {"tiny, step 7", HEADS, CHANCE}
    assert report.results["tiny, step 7"].task2.accuracy.count == 2
    loaded = trained.load(folders[0])
    assert loaded.task.backbone == BACKBONE and loaded.trained_with("style", "full") == "brief"


def test_tokens_of_another_encoder_are_refused_with_both_digests(folders, tmp_path):
    other = of_another_encoder(folders[0], tmp_path / "other")
    with pytest.raises(InputError, match=r"encoder_digest: 'ffff.* -> '(?!ffff)"):
        BridgeEvalConfig(model=other, tokens=folders[1]).run(tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_unknown_language_models_and_settings_are_refused():
    with pytest.raises(InputError, match=r"'Mystery'.*TinyBackbone"):
        trained.build_backbone({"class": "Mystery"})
    with pytest.raises(InputError, match="no depth"):
        trained.build_backbone({"class": "TinyBackbone", "depth": 3})
    with pytest.raises(InputError, match="neither a folder"):
        trained.SHIPPED.resolve("no/such/folder")


@pytest.mark.parametrize(
    "change", [{"questions": (0, 0, 0, 0)}, {"questions": (1, 1)}, {"batch_size": 0}]
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(InputError):
        dataclasses.replace(BridgeEvalConfig(tokens="x"), **change)


def test_every_backbone_is_rebuilt_from_what_a_run_writes_of_it():
    changes = {
        "TinyBackbone": {"layers": 2, "system": True},
        "SmolLMBackbone": {"dtype": "bfloat16"},
        "Gemma3Backbone": {},
        "Gemma3nBackbone": {"preset": "E2B"},
        "Phi4Backbone": {"preset": "mini"},
    }
    assert changes.keys() == trained.BACKBONES.keys()
    for name, given in changes.items():
        module = importlib.import_module(trained.BACKBONES[name])
        backbone = getattr(module, name)(**given)
        described = json.loads(resolved.to_json(backbone))
        assert trained.build_backbone(described) == backbone
