# SPDX-License-Identifier: Apache-2.0
"""What each run mode would do: the lines that --dry_run prints before the settings.

They read files and settings, and write none.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spatial_core.config import gin_setup

Row = tuple[str, str]


def train(workdir: Path, experiment: str) -> str:
    """Summary, configuration, parameters, shards, batch and memory of a training."""
    from spatial_core.train.dry_run import dry_run

    config = gin_setup.build("TrainConfig")
    print("compiling the step, to know its memory and operations", file=sys.stderr, flush=True)
    return dry_run(config, workdir, experiment)


def precompile(workdir: Path, experiment: str) -> str:
    """What would be compiled for which machine."""
    from spatial_core.train import targets

    config, target = gin_setup.build("TrainConfig"), gin_setup.settings("precompile")["target"]
    machine = targets.find(target)
    rows = [
        ("experiment", f"{experiment} (compiles the training step of {config.task.name})"),
        ("target", f"{machine.name}: {machine.devices} device(s)"),
        ("batch", f"{config.data.batch_size:,} rows in {config.microbatches} part(s)"),
        ("writes", f"{target}.txt in {workdir}"),
    ]
    return _with_settings(rows)


def evaluate(workdir: Path, experiment: str) -> str:
    """Which models and baselines would be scored, on which clips."""
    config = gin_setup.build("EvalConfig")
    stream = config.stream
    share = getattr(stream, "crops_per_rir", 1)
    rows = [
        ("experiment", f"{experiment} (scores models and baselines on the same clips)"),
        *[("scores", f"{name}: {_named(each)}") for name, each in config.localizers.items()],
        ("clips", f"{config.num_examples:,} from {-(-config.num_examples // share):,} rooms"),
        ("from", _stream(stream)),
        ("writes", _target(workdir, "report.json", "report.md, report.json, figures/")),
    ]
    return _with_settings(rows)


def inspect(workdir: Path, experiment: str) -> str:
    """Which batch and how many scenes would be drawn, and which files come of it."""
    from launch.inspect import PAGE, inspected

    rows, scenes = [("experiment", f"{experiment} (looks at it)")], inspected()
    if gin_setup.sets("TrainConfig"):
        data, look = gin_setup.build("TrainConfig").data, gin_setup.settings("inspect_training")
        rows += [
            ("shows", "settings, parameters, shards"),
            ("a batch", f"of step {look['step']}, {look['rows']} rows drawn; {_stream(data)}"),
            ("writes", _target(workdir, PAGE, f"{PAGE}, and all that it shows as files")),
        ]
    return _with_settings(rows + ([] if scenes is None else _scene_rows(scenes, workdir)))


def _scene_rows(scenes: Any, workdir: Path) -> list[Row]:
    """What is drawn of a recipe of scenes."""
    wanted = gin_setup.settings("inspect_scenes")
    return [
        ("draws", f"{wanted['n']:,} scenes, seed {wanted['seed']}: {_scene(scenes.scene)}"),
        ("plays", f"{wanted['clips']} clips of 4 s: speech {scenes.speech}, noise {scenes.noise}"),
        (
            "writes",
            _target(workdir, "scenes.json", "scenes.png, scenes.json, clip_*.wav and .json"),
        ),
    ]


def generate(workdir: Path, experiment: str) -> str:
    """How large a bank would be, and how much of it is there."""
    from spatial_core.data import bank_manifest

    config = gin_setup.build("BankConfig")
    there = "fresh"
    if (workdir / bank_manifest.NAME).exists():
        manifest = bank_manifest.load(workdir)
        there = f"{len(manifest.shards)} of its {manifest.num_shards} shards are there"
    size = config.count * config.scene.padded_mics * (2 if config.scene.distractor else 1) * 8e3
    rows = [
        ("experiment", f"{experiment} (makes a bank of room responses)"),
        ("rooms", f"{config.count:,} in {config.num_shards:,} files, about {size / 1e9:,.1f} GB"),
        ("of", f"{_scene(config.scene)}; split {config.split!r}, seed {config.seed}"),
        ("writes", f"rirs-*.arrayrecord and {bank_manifest.NAME} in {workdir} ({there})"),
    ]
    return _with_settings(rows)


def export_tokens(workdir: Path, experiment: str) -> str:
    """How many clips would be encoded, the size and the time of it, and what is there."""
    from llm_bridge.tokens.export import estimate, found

    config = gin_setup.build("ExportConfig")
    rows = [("experiment", f"{experiment} (exports spatial tokens)")]
    rows += [("encoder", str(config.encoder or "the one that ships"))]
    for name, source in config.sources.items():
        clips = source.open()
        size, seconds = estimate(clips)
        rows.append(
            (
                name,
                f"{clips.count:,} clips of up to {clips.longest:g} s, split {clips.split!r}, seed "
                f"{clips.seed}: about {size / 1e6:,.0f} MB, {seconds / 60:,.0f} minutes of one "
                "processor",
            )
        )
    rows += [
        ("writes", f"tokens-*.arrayrecord and manifest.json in {workdir / name} ({there})")
        for name, there in found(config, workdir).items()
    ]
    return _with_settings(rows)


def export_scenes(workdir: Path, experiment: str) -> str:
    """How many scenes would be simulated, the size and the time of it, and what is there."""
    from sciphi.scene_set import estimate, found

    config = gin_setup.build("SceneSetConfig")
    scenes, there = config.scenes, found(config, workdir)
    rows = [
        ("experiment", f"{experiment} (writes simulated Ambisonic scenes)"),
        (
            "scenes",
            f"{scenes.seconds:g} s, {scenes.min_sources} to {scenes.max_sources} sources, "
            f"{100 * scenes.background_share:.0f}% with a background, "
            f"{scenes.scenes_per_room} a room, seed {config.seed}",
        ),
    ]
    for split, count in config.counts.items():
        size, seconds = estimate(config.scenes, count)
        rows.append(
            (
                split,
                f"{count:,} scenes: about {size / 1e6:,.0f} MB, {seconds / 60:,.0f} minutes of one "
                f"processor; scenes-*.arrayrecord and manifest.json in {workdir / split} "
                f"({there[split]})",
            )
        )
    return _with_settings(rows)


def evaluate_bridge(workdir: Path, experiment: str) -> str:
    """Which bridge would be asked how many questions about which clips, and what beside it."""
    config = gin_setup.build("BridgeEvalConfig")
    folder = Path(config.tokens) / config.split
    there = "found" if (folder / "manifest.json").is_file() else "missing: export them first"
    counts = [f"{n:,} of Task {task}" for task, n in enumerate(config.questions, 1) if n]
    beside = "tokens zeroed, question only, " if config.controls else ""
    rows = [
        ("experiment", f"{experiment} (scores a language model with spatial tokens)"),
        ("model", str(config.model or "the bridge that ships")),
        ("beside it", f"{beside}the encoder's own heads, chance"),
        ("questions", f"{', '.join(counts)}, seed {config.seed}"),
        ("about", f"the clips of {folder} ({there})"),
        ("writes", _target(workdir, "report.json", "report.md, .json, answers.jsonl, figures/")),
    ]
    return _with_settings(rows)


def evaluate_scenes(workdir: Path, experiment: str) -> str:
    """Which describers would describe how many of which scenes, and what stands beside them."""
    config = gin_setup.build("SceneEvalConfig")
    root = Path(config.scenes)
    splits = [split for split in (config.split, config.chance_split) if split is not None]
    missing = [split for split in splits if not (root / split / "manifest.json").is_file()]
    there = f"missing: {', '.join(missing)}; export them first" if missing else "found"
    beside = ["one stream zeroed, both zeroed"] if config.controls else []
    beside += ["chance"] if config.chance_split else []
    models = [str(model or "the one that ships") for model in (config.model, *config.others)]
    rows = [
        ("experiment", f"{experiment} (scores descriptions of scenes)"),
        ("models", ", ".join(models)),
        ("beside them", ", ".join(beside) or "nothing"),
        ("scenes", f"{config.count or 'all'} of {root / config.split} ({there})"),
        ("writes", _target(workdir, "report.json", "report.md, .json, answers.jsonl, figures/")),
    ]
    return _with_settings(rows)


def evaluate_seld(workdir: Path, experiment: str) -> str:
    """Which encoder would be scored on which scenes."""
    config = gin_setup.build("SeldEvalConfig")
    folder = Path(config.scenes) / config.split
    there = "found" if (folder / "manifest.json").is_file() else "missing: export them first"
    rows = [
        ("experiment", f"{experiment} (scores a spatial encoder)"),
        ("model", f"{config.model}: {', '.join(config.task.classes)}"),
        ("beside it", "the intensity vector, chance"),
        ("scenes", f"{config.count or 'all'} of {folder} ({there})"),
        ("writes", _target(workdir, "report.json", "report.md, report.json")),
    ]
    return _with_settings(rows)


def release(workdir: Path, experiment: str) -> str:
    """Which checkpoint would be released, on what it is calibrated and measured."""
    from spatial_core.train.checkpoint import Checkpoints

    config = gin_setup.build("ReleaseConfig")
    checkpoints = Checkpoints(Path(config.run))
    steps, best = checkpoints.steps(), checkpoints.best()
    step = f"step {best['step']} (best by {best['metric']})" if best else "the latest step"
    found = step if steps else "it has no checkpoint: train it first"
    about = "found" if Path(config.about).is_file() else "missing: write how it was trained"
    rows = [
        ("experiment", f"{experiment} (calibrates and measures a run, writes its checkpoint)"),
        ("run", f"{config.run}: {found}"),
        ("card opens", f"with {config.about} ({about})"),
        ("calibrates", f"on {config.calibration_clips:,} clips of {_stream(config.calibration)}"),
        *[
            ("measures", f"{title!r} on {config.test_clips:,} clips of {_stream(stream)}")
            for title, stream in config.test.items()
        ],
        ("writes", _target(workdir, "config.json", "model.safetensors, config.json, README.md")),
        ("", f"the tables with figures in {Path(config.run) / 'reports'}"),
    ]
    return _with_settings(rows)


def quickstart(workdir: Path, experiment: str) -> str:
    """The stages of a quickstart: scenes, training, comparison, recording, report."""
    from spatial_core.train.dry_run import plan

    config = gin_setup.build("QuickstartConfig")
    rows = [
        ("experiment", f"{experiment} (simulates, trains, compares, localises, reports)"),
        ("1 scenes", f"{config.scenes:,} drawn: {_scene(config.test.scene)}"),
        ("2 training", f"{config.task.name}, in {workdir / 'train'}:"),
        *[(f"  {name}", text) for name, text in plan(config.train, workdir / "train")[1:]],
        ("3 evaluation", f"{config.examples:,} clips of {_stream(config.test)}"),
        ("", f"beside {config.opponent_name}, SRP-PHAT, NormMUSIC and the steered response"),
        ("4 recording", "one simulated talker with pauses, localised by both models"),
        ("5 report", _target(workdir, "report.html", "report.html, report.md, model/, recording/")),
    ]
    return _with_settings(rows)


def _with_settings(rows: Sequence[Row]) -> str:
    from spatial_core.train.dry_run import aligned_text

    return f"{aligned_text(rows)}\n\n== settings ==\n{gin_setup.bound_config()}"


def _target(workdir: Path, witness: str, files: str) -> str:
    """'FILES in WORKDIR', and whether an earlier result is there."""
    replaced = " (those that are there are replaced)" if (workdir / witness).exists() else ""
    return f"{files} in {workdir}{replaced}"


def _named(localizer: Any) -> str:
    """Class of a localizer, and the name of the model that it holds."""
    name = getattr(localizer, "name", None)
    return type(localizer).__name__ + (f" {name!r}" if isinstance(name, str) else "")


def _stream(stream: Any) -> str:
    names = [f"{n} {getattr(stream, n)!r}" for n in ("split", "seed") if hasattr(stream, n)]
    scene = getattr(stream, "scene", None)
    return ", ".join([type(stream).__name__, *names, *([_scene(scene)] if scene else [])])


def _scene(scene: Any) -> str:
    """'3 to 8 microphones at random, distractor at -5 to 15 dB'."""
    if scene.array is not None:
        array = f"{scene.array.name} ({scene.array.num_mics} microphones)"
    else:
        array = f"{scene.min_mics} to {scene.max_mics} microphones at random"
    if not scene.distractor:
        return f"{array}, no distractor"
    return f"{array}, distractor at {scene.snr_db[0]:g} to {scene.snr_db[1]:g} dB"
