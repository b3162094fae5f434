# SPDX-License-Identifier: Apache-2.0
"""A training before it is one: settings, parameters, shards, one batch to look at and listen to.

Of a bank of room responses, its scenes alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spatial_core.audio.io import write_wav
from spatial_core.config import gin_setup
from spatial_core.errors import InputError
from spatial_core.io.report import Report
from spatial_core.train import parameter_table
from spatial_core.train.config import TrainConfig
from spatial_core.train.dry_run import plan
from spatial_core.train.partition import MeshConfig, described_mesh
from spatial_core.train.program import placed_shapes
from spatial_core.train.sharding_table import sharding_table
from spatial_core.train.task import AudibleStream, Batch, DrawingTask, Exhibit
from spatial_core.train.workdir import describe

PAGE = "index.html"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Inspected:
    """A recipe of scenes to look at, and what its clips are played with."""

    scene: Any
    split: str
    speech: Any
    noise: Any
    cache_dir: str | None = None


def inspected() -> Inspected | None:
    """The scenes of a training's stream, or of a bank (which holds no sounds of its own).

    None for a training on something else: exported tokens or scenes.
    """
    if gin_setup.sets("TrainConfig"):
        data = gin_setup.build("TrainConfig").data
        if not hasattr(data, "scene") and not hasattr(data, "directory"):
            return None
        scene = getattr(data, "scene", None) or _bank_scene(data)
        return Inspected(scene, data.split, data.speech, data.noise, data.cache_dir)
    bank, played = gin_setup.build("BankConfig"), gin_setup.settings("inspect_scenes")
    return Inspected(bank.scene, bank.split, played["speech"], played["noise"])


def _bank_scene(data: Any) -> Any:
    from spatial_core.data import bank_manifest

    return bank_manifest.load(Path(data.directory)).scene


def inspect(workdir: Path, say: Say = print) -> int:
    """Writes what there is to see of the parsed experiment; returns the exit code."""
    scenes = inspected()
    if scenes is not None:
        _draw_scenes(scenes, workdir)
    if not gin_setup.sets("TrainConfig"):
        say(f"pictures and clips in {workdir}")
        return 0
    gin_setup.build("inspect_training", config=gin_setup.build("TrainConfig"), workdir=workdir)
    say(f"open {workdir / PAGE}")
    return 0


def _draw_scenes(scenes: Inspected, workdir: Path) -> None:
    from spatial_core.data.sources import noise_source, speech_source

    gin_setup.build(
        "inspect_scenes",
        config=scenes.scene,
        out_dir=workdir,
        speech=speech_source(scenes.speech, scenes.split, scenes.cache_dir),
        noise=noise_source(scenes.noise, scenes.split, scenes.cache_dir),
    )


def inspect_training(
    config: TrainConfig,
    workdir: str | Path,
    step: int = 0,
    rows: int = 4,
    devices: int | None = None,
) -> Path:
    """Writes index.html (it stands alone) with all that it shows as files beside it; returns its path.

    step: whose batch is drawn. rows: of it that are drawn, spread over the batch. devices: over which
    the mesh is laid; None: as many as MeshConfig asks for, or as are here. None of them has to be here:
    shards follow from shapes, and nothing is compiled or allocated.

    Raises InputError for a mesh that does not fit the devices and, after the rest is written, for
    data that are not there.
    """
    if rows < 1 or step < 0:
        raise InputError(f"rows={rows}, step={step}: draw at least one row of step 0 or later")
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    count = devices or _asked_for(config.mesh)
    report = Report(f"{config.task.name}, before training")
    _add_plan(report, config, folder)
    fault = _add_batch(report, config, folder, step, rows)
    _add_scenes(report, folder)
    _add_parameters(report, config, folder, count)
    _add_shards(report, config, folder, count)
    _add_settings(report, config, folder)
    page = report.write(folder, Path(PAGE).stem)[1]
    if fault is not None:
        raise InputError(f"{fault} (all but the batch is in {page})") from fault
    return page


def _asked_for(mesh: MeshConfig) -> int:
    """Devices of a mesh whose sizes are both given; else those that are here."""
    fixed = mesh.data * mesh.fsdp
    return fixed if min(mesh.data, mesh.fsdp) > 0 else jax.device_count()


def _add_plan(report: Report, config: TrainConfig, folder: Path) -> None:
    rows = [(name, text) for name, text in plan(config, folder) if name != "workdir"]
    report.pairs(rows)


def _add_batch(
    report: Report, config: TrainConfig, folder: Path, step: int, rows: int
) -> InputError | None:
    """The batch, drawn; or why there is none."""
    data = config.data
    report.heading(f"The batch of step {step}")
    try:
        batch = data.batch(step)
    except InputError as error:
        report.text(f"There is none to show: {error}")
        return error
    split = f", split {data.split!r}" if hasattr(data, "split") else ""
    report.text(f"From {type(data).__name__}{split}; the same for every run with these settings.")
    chosen = _spread(data.batch_size, rows)
    exhibits: list[Exhibit] = []
    if isinstance(config.task, DrawingTask):
        exhibits += config.task.draw(batch, folder / "batch", chosen)
    if isinstance(data, AudibleStream):
        exhibits += _sounds(data, folder / "batch", step, chosen)
    exhibits.sort(key=lambda each: -1 if each.row is None else each.row)
    for exhibit in exhibits:
        _add_exhibit(report, exhibit, folder)
    report.text("Every array of the batch:")
    report.table(_LEAVES, _leaf_rows(batch))
    return None


def _spread(size: int, rows: int) -> list[int]:
    """Row numbers from the first to the last: neighbours may share a room."""
    return sorted({round(i) for i in np.linspace(0, size - 1, min(rows, size))})


def _sounds(data: AudibleStream, folder: Path, step: int, rows: Sequence[int]) -> list[Exhibit]:
    folder.mkdir(parents=True, exist_ok=True)
    exhibits = []
    for row, (samples, rate) in zip(rows, data.sounds(step, rows), strict=True):
        path = folder / f"row_{row:03d}.wav"
        scale = 0.5 / max(float(np.abs(samples).max()), 1e-9)
        write_wav(path, scale * samples, rate)
        ears = "two cardioids, left and right" if len(samples) == 2 else "mono"
        exhibits.append(Exhibit(f"Row {row}, {ears}, brought to one level.", path, row))
    return exhibits


def _add_exhibit(report: Report, exhibit: Exhibit, folder: Path) -> None:
    if exhibit.path is None:
        report.text(exhibit.caption)
    elif exhibit.path.suffix == ".wav":
        report.audio(exhibit.path, exhibit.caption, folder)
    else:
        report.figure(exhibit.path, exhibit.caption, folder)


_LEAVES = ("array", "shape", "type", "least", "mean", "most")
# 0 where nobody speaks, which is no angle and no distance.
_OF_SPEECH = ("azimuth", "elevation", "distance")


def _leaf_rows(batch: Batch) -> list[tuple[str, ...]]:
    rows = []
    for name, leaf in batch.items():
        values = np.asarray(leaf)
        shape = "x".join(map(str, values.shape)) or "scalar"
        if name in _OF_SPEECH and "speech" in batch:
            values, name = values[np.asarray(batch["speech"], bool)], f"{name}, of speech"
        finite = values[np.isfinite(values)]
        figures = (finite.min(), finite.mean(), finite.max()) if finite.size else ()
        told = [f"{float(value):.4g}" for value in figures] or ["-"] * 3
        rows.append((name, shape, values.dtype.name, *told))
    return rows


def _add_scenes(report: Report, folder: Path) -> None:
    """Pictures and clips that `inspect_scenes` wrote, if it did."""
    picture = folder / "scenes.png"
    if not picture.is_file():
        return
    report.heading("The scenes that batches are drawn from")
    count = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))["count"]
    report.figure(picture, f"{count:,} scenes of the recipe; the numbers: scenes.json.", folder)
    for path in sorted(folder.glob("clip_*.wav")):
        truth = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        report.audio(path, _clip_caption(path.stem, truth), folder)


def _clip_caption(name: str, truth: Mapping[str, Any]) -> str:
    heard = "nobody speaks"
    if truth["speech"]:
        heard = (
            f"azimuth {round(truth['azimuth'])}°, elevation {round(truth['elevation'])}°, "
            f"{truth['distance']:.1f} m"
        )
    room = "x".join(f"{side:.1f}" for side in truth["room"]["dimensions"])
    return f"{name}: {heard}; room of {room} m, RT60 {truth['rt60']:.2f} s (two of its microphones)"


def _add_parameters(report: Report, config: TrainConfig, folder: Path, devices: int) -> None:
    state, frozen = placed_shapes(config, described_mesh(config.mesh, devices))
    report.heading("Parameters")
    report.table(parameter_table.HEADER, parameter_table.module_rows(state["params"], frozen))
    text = parameter_table.parameter_text(state["params"], frozen)
    (folder / "parameters.txt").write_text(text + "\n", encoding="utf-8")
    report.details("Every array (parameters.txt)", text)


def _add_shards(report: Report, config: TrainConfig, folder: Path, devices: int) -> None:
    text = sharding_table(config, devices)
    (folder / "shardings.txt").write_text(text, encoding="utf-8")
    first, *rest = text.splitlines()
    report.heading("What lies where")
    report.text(f"{first}. Arrays are whole on every device where nothing else is said.")
    split = math.prod(described_mesh(config.mesh, devices).shape.values()) > 1
    show = report.code if split and len(rest) <= 60 else None
    if show is not None:
        show("\n".join(rest).strip())
    else:
        report.details("Shapes as a whole and on each device (shardings.txt)", "\n".join(rest))


def _add_settings(report: Report, config: TrainConfig, folder: Path) -> None:
    report.heading("Settings")
    settings, resolved = gin_setup.operative_config(), json.dumps(describe(config), indent=2)
    (folder / "settings.gin").write_text(settings, encoding="utf-8")
    (folder / "settings.json").write_text(resolved + "\n", encoding="utf-8")
    report.text("Everything that counts, defaults included.")
    report.details("As gin (settings.gin)", settings)
    report.details("As it was built (settings.json)", resolved)
