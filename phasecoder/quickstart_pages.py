# SPDX-License-Identifier: Apache-2.0
"""The sections of the quickstart's report and the lines that it prints at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from phasecoder.localization import CONVENTION, Localization
from phasecoder.rehearsal import Rehearsal
from spatial_core.data.records import SAMPLE_RATE
from spatial_core.eval.report import EvalReport
from spatial_core.geometry.coords import azimuth_error
from spatial_core.io.report import Report
from spatial_core.sim.scene import SceneConfig
from spatial_core.viz.polar import draw_posterior
from spatial_core.viz.room import draw_room
from spatial_core.viz.style import PALETTE, figure

_COLUMNS = {
    "azimuth_median": ("azimuth median", "{:.1f}°"),
    "azimuth_mae": ("azimuth mean", "{:.1f}°"),
    "acc_at_10": ("within 10°", "{:.0f} %"),
    "elevation_mae": ("elevation mean", "{:.1f}°"),
    "distance_mae": ("distance mean", "{:.2f} m"),
    "speech_accuracy": ("speech / none", "{:.0f} %"),
}
_CAPTIONS = {
    "error_over_num_mics": "Error over the number of microphones, with 95 % intervals over rooms.",
    "error_over_rt60": "Error over the reverberation time.",
    "azimuth_confusion": "Estimated against true azimuth.",
    "reliability": "How often the azimuth is within 10 degrees, over the confidence that was stated.",
}


def add_scenes(report: Report, scene: SceneConfig, folder: Path) -> None:
    """What is simulated: pictures and clips that the inspection wrote into `folder`/scenes."""
    report.heading("What is simulated")
    array = (
        f"random arrays of {scene.min_mics} to {scene.max_mics} microphones"
        if scene.array is None
        else f"the array {scene.array.name} ({scene.array.num_mics} microphones)"
    )
    report.text(
        f"Shoebox rooms with walls of many materials, {array}, one talker anywhere in the room. "
        "Every label is about the array's centre, in the array's own frame."
    )
    for path in sorted((folder / "scenes").rglob("*.png")):
        report.figure(path, "What scenes are drawn: distributions over many of them.", folder)
    clips = sorted((folder / "scenes").rglob("*.wav"))
    if clips:
        listed = ", ".join(path.relative_to(folder).as_posix() for path in clips)
        report.text(f"To listen to: {listed}.")


def add_training(report: Report, folder: Path, clips: int) -> None:
    """The learning curve, from the run's metrics.jsonl."""
    report.heading("Training")
    report.text(f"{clips:,} clips of 250 ms, simulated on the fly, each seen once.")
    lines = (folder / "train" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    points = [(r["step"], r["azimuth_mae"]) for r in records if "azimuth_mae" in r]
    if len(points) < 2:
        return
    path = folder / "figures" / "training.png"
    step, error = np.array(points, float).T
    with figure(path, 6.0, 3.0) as drawn:
        axis = drawn.add_subplot()
        axis.plot(step, error, color=PALETTE[0], linewidth=1.5)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("step")
        axis.set_ylabel("azimuth MAE (degrees)")
        axis.set_title("Training: mean azimuth error of each step's own clips")
        axis.grid(axis="y")
    report.figure(path, "Every clip is new, so this is no memory of earlier ones.", folder)


def add_evaluation(report: Report, evaluation: EvalReport, folder: Path) -> None:
    """The comparison table and its figures."""
    report.heading("How well, beside the classical methods")
    count = len(evaluation.truth["azimuth"])
    report.text(
        f"{count} clips of 250 ms from rooms, arrays and voices that the training never saw; all "
        "methods hear the same clips. The speech is synthetic: do not set these figures beside "
        "those of recorded corpora. The full tables are in evaluation/report.md."
    )
    report.table(*evaluation_table(evaluation))
    for path in sorted((folder / "evaluation" / "figures").glob("*.png")):
        caption = _CAPTIONS.get(path.stem)
        if caption is None and path.stem.startswith("tokens_"):
            caption = "The 256-d spatial tokens in two dimensions, coloured by azimuth."
        report.figure(path, caption or f"{path.stem.replace('_', ' ')}.", folder)


def evaluation_table(evaluation: EvalReport) -> tuple[list[str], list[list[str]]]:
    """Header and rows, one row for each localizer."""
    rows = []
    for name, result in evaluation.results.items():
        cells = []
        for key, (_, form) in _COLUMNS.items():
            value = result.overall[key].value
            cells.append(form.format(value) if math.isfinite(value) else "-")
        rows.append([name, *cells])
    return ["", *(label for label, _ in _COLUMNS.values())], rows


def add_recording(
    report: Report, rehearsal: Rehearsal, answers: Mapping[str, Localization], folder: Path
) -> None:
    """The recording: where the talker was, and where each model heard them."""
    report.heading("A recording, localised")
    report.text(
        f"A talker in a held-out room, {rehearsal.audio.shape[1] / SAMPLE_RATE:.1f} s with pauses, "
        f"heard by {rehearsal.array.num_mics} microphones. Truth: {truth(rehearsal)}. "
        f"Convention: {CONVENTION}."
    )
    report.code(
        "phasecoder localize recording/recording.wav --mics recording/array.json --model model"
    )
    scene = rehearsal.scene
    rays = {}
    for name, answer in answers.items():
        report.text(f"{name}: {answer.summary()}")
        if answer.overall is not None:
            o = answer.overall
            rays[name] = (scene.to_room_azimuth(o.azimuth), o.elevation or 0.0, o.distance)
    picture = draw_room(
        folder / "figures" / "room.png",
        np.asarray(scene.room.dimensions),
        scene.array_positions,
        scene.source,
        rays,
        zero=scene.to_room_azimuth(0.0),
        title="The room, the talker and the estimates",
    )
    report.figure(picture, "The room from above and from the side; in the room's frame.", folder)
    for number, (name, answer) in enumerate(answers.items()):
        if answer.azimuth_probs is None or answer.azimuth_grid is None:
            continue
        picture = draw_posterior(
            folder / "figures" / f"posterior_{number}.png",
            np.where(answer.speech[:, None], answer.azimuth_probs, np.nan),
            answer.azimuth_grid,
            step=answer.hop_seconds,
            estimate=answer.azimuth,
            confidence=answer.confidence,
            truth=rehearsal.azimuth,
            title=f"{name}: azimuth over time",
        )
        report.figure(picture, f"{name}: where it hears the talker, window by window.", folder)


def add_next_steps(report: Report, folder: Path) -> None:
    """What to do next."""
    report.heading("Next")
    report.text("Your own recording, with the model that ships or with the one trained here:")
    report.code(
        "phasecoder array check my_array.json room.wav --plot array.png\n"
        "phasecoder localize room.wav --mics my_array.json --plot room.png\n"
        f"phasecoder localize room.wav --mics my_array.json --model {folder / 'model'}"
    )


def truth(rehearsal: Rehearsal) -> str:
    """Where the talker was, for people."""
    return (
        f"azimuth {rehearsal.azimuth:+.0f}°, elevation {rehearsal.elevation:+.0f}°, "
        f"{rehearsal.distance:.1f} m away"
    )


def summary(
    evaluation: EvalReport, rehearsal: Rehearsal, answers: Mapping[str, Localization]
) -> str:
    """The table and the recording's answers, for the terminal."""
    header, rows = evaluation_table(evaluation)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in [header, *rows]
    ]
    lines += ["", f"recording: {truth(rehearsal)}"]
    for name, answer in answers.items():
        heard = answer.summary()
        if answer.overall is not None:
            error = float(azimuth_error(answer.overall.azimuth, rehearsal.azimuth))
            heard = f"{answer.overall.sentence()} (azimuth off by {error:.1f} deg)"
        lines.append(f"  {name}: {heard}")
    return "\n".join(["", *lines])
