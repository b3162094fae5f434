# SPDX-License-Identifier: Apache-2.0
"""From nothing to a direction in minutes: simulate, train, evaluate, localise a recording, report.

`python -m launch.main --run_mode=quickstart --gin_file=experiments/quickstart.gin` runs it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from phasecoder import pretrained, quickstart_pages
from phasecoder.api import localize
from phasecoder.localization import CONVENTION, Localization
from phasecoder.plus import PlusConfig
from phasecoder.pretrained import Encoder
from phasecoder.quickstart_config import QuickstartConfig
from phasecoder.rehearsal import Rehearsal, record_scene
from phasecoder.release import fit_temperature
from spatial_core.data.pipeline import build_simulator
from spatial_core.data.sources import SpeechSource, speech_source
from spatial_core.eval.baselines import Localizer, PyroomNormMusic, PyroomSrpPhat, SteeredResponse
from spatial_core.eval.loop import evaluate
from spatial_core.eval.report import EvalReport
from spatial_core.io.report import Report
from spatial_core.io.writers import format_seconds
from spatial_core.sim.inspect import inspect_scenes
from spatial_core.sim.scene import sample_scene
from spatial_core.train.loop import train

FRESH, SRP = "this run", "SRP-PHAT"
# Seconds that the stages take on two CPU cores: only their proportions matter, for the time left.
_STAGES = {"scenes": 15.0, "training": 90.0, "evaluation": 115.0, "recording": 30.0, "report": 5.0}
_CALIBRATION_BATCHES = 8
_REHEARSAL_SNR_DB = 30.0
_REHEARSAL_DISTANCE = 3.0  # metres at most: a talker in the same part of the room


@dataclass(frozen=True)
class QuickstartResult:
    """The report's page and the evaluation; both None if the training was stopped, and by what."""

    page: Path | None = None
    evaluation: EvalReport | None = None
    stopped_by: str | None = None


def run_quickstart(config: QuickstartConfig, folder: str | Path) -> QuickstartResult:
    """Run all stages; everything is written below `folder`.

    A run that was stopped goes on with its training when the same call is made again. Writes
    report.md, report.html, model/ (for `phasecoder localize --model`), recording/, evaluation/.
    """
    folder = Path(folder)
    clock = _Clock()
    opponent = _opponent(config)  # first: a wrong name must not wait for the training
    report = Report("PhaseCoder quickstart")
    with clock.stage("scenes", "draw simulated rooms and look at them"):
        inspect_scenes(config.test.scene, folder / "scenes", config.scenes, config.seed, clips=2)
        quickstart_pages.add_scenes(report, config.test.scene, folder)
    with clock.stage("training", f"train on {config.clips:,} simulated clips"):
        trained = train(config.train, folder / "train")
    if trained.stopped_by is not None:
        return QuickstartResult(stopped_by=trained.stopped_by)
    quickstart_pages.add_training(report, folder, config.clips)
    models = {FRESH: _release(config, trained.params, folder / "model"), **opponent}
    with clock.stage("evaluation", f"compare on {config.examples} clips of held-out rooms"):
        evaluation = _evaluate(config, models)
        evaluation.save(folder / "evaluation")
        quickstart_pages.add_evaluation(report, evaluation, folder)
    with clock.stage("recording", "localise a recording whose truth is known"):
        rehearsal = _rehearse(config)
        answers = _localize(rehearsal, models, folder / "recording")
        quickstart_pages.add_recording(report, rehearsal, answers, folder)
    with clock.stage("report", "write the report"):
        quickstart_pages.add_next_steps(report, folder)
        page = report.write(folder)[1]
    print(quickstart_pages.summary(evaluation, rehearsal, answers))
    print(f"\ndone in {format_seconds(clock.seconds)}; open {page}", flush=True)
    return QuickstartResult(page, evaluation)


class _Clock:
    """Says which stage begins and about how much time is left, scaled by the stages so far."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.planned = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        left = sum(_STAGES.values()) - self.planned
        # The minute added on both sides keeps a short first stage from setting the pace alone.
        pace = (self.seconds + 60.0) / (self.planned + 60.0)
        number = list(_STAGES).index(name) + 1
        print(
            f"\n[{number}/{len(_STAGES)}] {what} (about {format_seconds(pace * left)} left in all)",
            flush=True,
        )
        yield
        self.planned += _STAGES[name]


def _opponent(config: QuickstartConfig) -> dict[str, Encoder]:
    """The model that the trained one is compared with, by its name; none if none is shipped."""
    if config.compare_with is None and not pretrained.SHIPPED.models():
        return {}
    return {config.opponent_name: pretrained.load(config.compare_with)}


def _release(config: QuickstartConfig, params: Mapping[str, Any], folder: Path) -> Encoder:
    """Save the trained model where `phasecoder localize --model` finds it; read it from there."""
    array = config.test.scene.array
    where = "random arrays" if array is None else f"the array {array.name!r}"
    card = (
        "# A quickstart model\n\n"
        f"Trained on {config.clips:,} simulated 250 ms clips for {where}, in minutes on a CPU: for "
        "trying out. Its figures are in the report beside it.\n"
    )
    model = config.task.model
    if isinstance(model, PlusConfig) and config.train.validation is not None:
        batches = [config.train.validation.batch(step) for step in range(_CALIBRATION_BATCHES)]
        temperature, _ = fit_temperature(config.task, dict(params), batches)
        model = dataclasses.replace(model, temperature=round(temperature, 4))
    pretrained.save_pretrained(folder, params, model, card, name=FRESH)
    return pretrained.load(folder)


def _evaluate(config: QuickstartConfig, models: Mapping[str, Encoder]) -> EvalReport:
    localizers: dict[str, Localizer] = {
        **models,
        SRP: PyroomSrpPhat(),
        "NormMUSIC": PyroomNormMusic(),
        "steered response": SteeredResponse(),
    }
    return evaluate(
        localizers,
        config.test,
        num_examples=config.examples,
        title="Held-out rooms, arrays and voices",
        seed=config.seed,
    )


def _rehearse(config: QuickstartConfig) -> Rehearsal:
    """A talker in a held-out room, heard by a held-out array, speaking with held-out voices."""
    rng = np.random.default_rng(config.seed)
    snr = (_REHEARSAL_SNR_DB, _REHEARSAL_SNR_DB)
    farthest = min(config.test.scene.max_source_distance or math.inf, _REHEARSAL_DISTANCE)
    scene = dataclasses.replace(
        config.test.scene,
        speech_dropout=0.0,
        distractor=False,
        sensor_noise_db=snr,
        max_source_distance=farthest,
    )
    given = config.test.speech
    speech = cast(SpeechSource, given) if hasattr(given, "crop") else speech_source(given, "test")
    simulator = build_simulator(config.test.simulator)
    return record_scene(sample_scene(rng, scene), simulator, speech, rng)


def _localize(
    rehearsal: Rehearsal, models: Mapping[str, Encoder], folder: Path
) -> dict[str, Localization]:
    """Each model's answer to the recording's files, as `phasecoder localize` gives it."""
    audio, array = rehearsal.write(folder)
    truth = {
        "azimuth": rehearsal.azimuth,
        "elevation": rehearsal.elevation,
        "distance": rehearsal.distance,
        "convention": CONVENTION,
    }
    (folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")
    return {name: localize(audio, array, model=model) for name, model in models.items()}
