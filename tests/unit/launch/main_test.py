# SPDX-License-Identifier: Apache-2.0
"""The command line: what a dry run tells, and that mistakes are answered in one line."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from absl import flags
from absl.testing import flagsaver

from launch import configurables, main
from launch.modes import MODES, ROOTS
from spatial_core.config import gin_setup
from spatial_core.config.names import parameters_in_sources
from spatial_core.errors import InputError
from tests.integration.fake_bucket import Files

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def _registered():
    configurables.register_all()


def test_every_root_can_be_built():
    assert set(ROOTS) <= set(gin_setup.registered())
    assert all(mode.help and mode.roots for mode in MODES.values())


@pytest.mark.parametrize(("signal", "code"), [(None, 0), ("SIGTERM", 75), ("SIGINT", 130)])
def test_a_stopped_run_exits_with_the_documented_code(tmp_path, monkeypatch, signal, code):
    result = SimpleNamespace(stopped_by=signal, step=3)
    monkeypatch.setattr("spatial_core.train.loop.train", lambda config, workdir: result)
    gin_setup.parse(["experiments/plus.gin"], roots=ROOTS)
    assert MODES["train"].run(tmp_path) == code


def _preview(mode: str, folder: Path, *files: str, bindings: tuple[str, ...] = ()) -> str:
    """What --dry_run says before the settings."""
    gin_setup.parse(files, bindings, roots=ROOTS)
    assert any(map(gin_setup.sets, MODES[mode].needs))
    return MODES[mode].preview(folder, files[0]).split("\n\n")[0]


def test_every_mode_names_an_example_that_has_its_settings():
    for mode in MODES.values():
        required = ["RUN = 'r'", "ABOUT = 'a'"] if "release" in mode.example else []
        gin_setup.parse([mode.example], required, roots=ROOTS)
        assert any(map(gin_setup.sets, mode.needs)), mode.example


def test_precompile_names_its_machine_and_writes_its_report(tmp_path, monkeypatch):
    seen = {}

    def compiled(config, target):
        seen.update(task=config.task.name, target=target)
        return SimpleNamespace(text=lambda: "verdict  fits")

    files, target = ("experiments/quickstart.gin",), ("precompile.target = 'v5p-8'",)
    told = _preview("precompile", tmp_path, *files, bindings=target)
    assert "v5p-8: 4 device(s)" in told and f"v5p-8.txt in {tmp_path}" in told
    monkeypatch.setitem(
        gin_setup._registered, "precompile", lambda config: compiled(config, "v5p-8")
    )
    assert MODES["precompile"].run(tmp_path) == 0
    assert seen["target"] == "v5p-8"
    assert (tmp_path / "v5p-8.txt").read_text() == "verdict  fits\n"


def test_an_evaluation_says_what_it_scores_and_replaces(tmp_path):
    files = ("experiments/plus.gin", "runs/eval.gin")
    told = _preview("eval", tmp_path, *files)
    assert "PhaseCoder: Encoder 'plus-small-2'" in told and "1,024 from 1,024 rooms" in told
    assert "split 'test'" in told and "replaced" not in told
    (tmp_path / "report.json").touch()
    assert "replaced" in _preview("eval", tmp_path, *files)


def test_a_bank_says_its_size_and_what_is_there(tmp_path):
    small = ("BankConfig.count = 6", "BankConfig.shard_size = 4", "ARRAY = 'line_4'")
    told = _preview("generate", tmp_path, "experiments/rir_bank.gin", bindings=small)
    assert "6 in 2 files" in told and "(fresh)" in told and "line_4 (4 microphones)" in told
    gin_setup.parse(["experiments/rir_bank.gin"], small, roots=ROOTS)
    assert MODES["generate"].run(tmp_path) == 0
    told = _preview("generate", tmp_path, "experiments/rir_bank.gin", bindings=small)
    assert "2 of its 2 shards are there" in told
    # The estimate of the size is of the right order.
    claimed = 6 * 4 * 2 * 8e3
    made = sum(path.stat().st_size for path in tmp_path.glob("*.arrayrecord"))
    assert claimed / 3 < made < claimed * 3


def test_a_release_says_which_checkpoint_it_lacks(tmp_path):
    needs = (f"RUN = '{tmp_path}'", "ABOUT = 'card.md'")
    told = _preview("release", tmp_path / "out", "runs/release.gin", bindings=needs)
    assert "it has no checkpoint: train it first" in told and "card.md (missing" in told
    assert "2,048 clips" in told and "split 'validation'" in told


def test_an_export_of_tokens_says_how_many_how_large_and_how_long(tmp_path):
    told = _preview("export_tokens", tmp_path, "experiments/export_tokens.gin")
    assert "2,000 clips of up to 6 s, split 'train', seed 0: about 356 MB, 9 minutes" in told
    assert f"manifest.json in {tmp_path / 'validation'} (fresh)" in told


def test_scenes_are_written_as_was_said(tmp_path):
    small = ("SceneSetConfig.counts = {'test': 4}", "SECONDS = 4.0", "MAX_SOURCES = 2")
    told = _preview("export_scenes", tmp_path, "experiments/sciphi_scenes.gin", bindings=small)
    assert "4 s, 1 to 2 sources, 50% with a background, 8 a room, seed 0" in told
    assert f"in {tmp_path / 'test'} (fresh)" in told
    gin_setup.parse(["experiments/sciphi_scenes.gin"], small, roots=ROOTS)
    assert MODES["export_scenes"].run(tmp_path) == 0
    told = _preview("export_scenes", tmp_path, "experiments/sciphi_scenes.gin", bindings=small)
    assert "1 of its 1 shards are there" in told
    # The estimate of the size, 0.36 MB a scene, is of the right order.
    made = sum(path.stat().st_size for path in (tmp_path / "test").glob("*.arrayrecord"))
    assert 4 * 0.36e6 / 3 < made < 4 * 0.36e6 * 3


def test_an_adaptation_is_compared_with_what_it_started_from(tmp_path):
    for settings, name in (((), "beside shipped,"), (("MODEL = 'plus-small'",), "plus-small,")):
        told = _preview("quickstart", tmp_path, "experiments/adapt.gin", bindings=settings)
        assert name in told and "25,600 (64 a step)" in told and f"{tmp_path / 'train'}" in told


@pytest.mark.parametrize("name", ["experiments/plus.gin", "experiments/rir_bank.gin"])
def test_the_scenes_of_a_training_and_of_a_bank_can_be_looked_at(name, tmp_path, capsys):
    small = ("inspect_scenes.n = 3", "inspect_scenes.clips = 1")
    if "plus" in name:
        small += ("SceneStream.batch_size = 4", "inspect_training.rows = 1")
    told = _preview("inspect", tmp_path, name, bindings=small)
    assert "3 scenes, seed 0: 3 to 8 microphones" in told and "1 clips of 4 s" in told
    assert MODES["inspect"].run(tmp_path) == 0
    assert "3 scenes: speech in" in capsys.readouterr().out
    found = {path.name for path in tmp_path.iterdir()}
    assert found >= {"scenes.png", "scenes.json", "clip_00.wav", "clip_00.json"}
    assert ("index.html" in found) == ("plus" in name)


def _launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_help_teaches_with_examples():
    done = _launch("--help")
    assert done.returncode == 0
    assert "--run_mode=train --gin_file=experiments/quickstart.gin" in done.stdout
    assert "--dry_run" in done.stdout and "Exit codes" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--run_mode=trian",),
            f"--run_mode=trian is unknown; choose among {', '.join(MODES)}; did you mean 'train'?",
        ),
        (("--dryrun",), "Unknown command line flag 'dryrun'. Did you mean: dry_run ?; see --help"),
        (("--num_processes=two",), "flag --num_processes=two: invalid literal"),
        (("words",), "unexpected 'words'; see --help"),
        ((), "give --gin_file=EXPERIMENT. Shipped: experiments/adapt.gin"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_and_code_2(arguments, message):
    done = _launch(*arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert "Traceback" not in done.stderr and "In call to configurable" not in done.stderr


@pytest.mark.parametrize(
    ("mode", "bindings", "message"),
    [
        (
            "eval",
            (),
            "--run_mode=eval needs settings of EvalConfig, and experiments/plus.gin has none: give "
            "--gin_file=runs/eval.gin, or set them",
        ),
        ("generate", (), "--run_mode=generate needs settings of BankConfig"),
        (
            "train",
            ("SceneConfig.min_mics = 1",),
            "min_mics=1, max_mics=8: need 2 <= min <= max <= 64; change SceneConfig.min_mics (the "
            "command line) or SceneConfig.max_mics (",
        ),
    ],
)
def test_settings_that_do_not_do_are_one_line_and_code_2(mode, bindings, message, capsys):
    flags.FLAGS.mark_as_parsed()
    given = {"run_mode": mode, "gin_file": ["experiments/plus.gin"], "dry_run": True}
    with flagsaver.flagsaver(**given):
        assert main._guarded(["main"], list(bindings)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}") and "In call to configurable" not in line


def _write_report(workdir: Path) -> int:
    (workdir / "figures").mkdir()
    (workdir / "figures" / "a.txt").write_text("picture")
    return 0


def test_the_files_of_an_evaluation_are_copied_to_a_bucket(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_BUCKETS", str(tmp_path))
    monkeypatch.setattr("etils.epath.backend.fsspec_backend._get_filesystem", lambda name: Files())
    (tmp_path / "a-bucket").mkdir()
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(run_mode="eval", workdir="gs://a-bucket/eval"):
        assert main._run_in(main._workdir(), SimpleNamespace(run=_write_report)) == 0
    assert (tmp_path / "a-bucket" / "eval" / "figures" / "a.txt").read_text() == "picture"
    assert "copied to gs://a-bucket/eval" in capsys.readouterr().out


def test_a_mode_that_cannot_write_to_a_bucket_says_so_before_it_begins():
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(run_mode="generate", workdir="gs://a-bucket/bank"):
        with pytest.raises(InputError, match="cannot write to gs://a-bucket/bank"):
            main._run_in(main._workdir(), SimpleNamespace(run=_write_report, on_beam=True))


def test_a_pipeline_may_write_to_a_bucket():
    flags.FLAGS.mark_as_parsed()
    given = {"run_mode": "generate", "engine": "beam", "workdir": "gs://a-bucket/bank"}
    with flagsaver.flagsaver(**given):
        mode = SimpleNamespace(run=lambda workdir: 7 if str(workdir).startswith("gs://") else 0)
        assert main._run_in(main._workdir(), mode) == 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"run_mode": "train", "engine": "beam"},
            "--engine=beam is for --run_mode=generate, export",
        ),
        ({"run_mode": "generate", "engine": "beam"}, "install spatial-audio-stack.beam."),
        ({"run_mode": "generate"}, "unexpected '--runner=FlinkRunner'"),
    ],
)
def test_a_pipeline_that_cannot_be_is_refused(given, message, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "spatial_core.data.on_beam", raising=False)
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(gin_file=["experiments/rir_bank.gin"], **given):
        assert main._guarded(["main", "--runner=FlinkRunner"], []) == 2
    assert re.match(f"error: .*{message}", capsys.readouterr().err)


def test_a_reader_who_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "launch.main", "--run_mode=generate", "--dry_run"]
    command += ["--gin_file=experiments/rir_bank.gin"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=240) == 0


def test_a_mistyped_setting_is_one_line_and_code_2():
    done = _launch("--gin_file=experiments/quickstart.gin", "--gin.TrainConfig.stepz=3")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: the command line: TrainConfig has no")
    assert "did you mean 'steps'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("TrainConfg.steps = 3", "unknown name 'TrainConfg'; did you mean 'TrainConfig'"),
        ("STEPZ = 3", "nothing uses STEPZ; did you mean 'STEPS'"),
        ("TrainConfig.steps = %STEPZ", "%STEPZ has no value; did you mean 'STEPS'"),
    ],
)
def test_mistypings_are_found_in_the_files_alone(binding, said, capsys, monkeypatch):
    monkeypatch.setattr(configurables, "register_all", lambda: pytest.fail("imported all"))
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(run_mode="train", gin_file=["experiments/quickstart.gin"]):
        assert main._guarded(["main"], [binding]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: the command line: {said}")


def test_a_mistyped_setting_is_answered_without_importing_jax():
    words = ["--gin_file=experiments/quickstart.gin", "--gin.TrainConfig.stepz=3"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "launch.main", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 2 and "did you mean 'steps'" in done.stderr
    assert not re.search(r"\| +(jax|flax|numba|matplotlib)$", done.stderr, re.MULTILINE)


def test_parameters_read_from_files_are_those_of_the_code():
    found = parameters_in_sources(configurables.CONFIGURABLES)
    known = {name: parameters for name, parameters in found.items() if parameters is not None}
    assert found.keys() == configurables_of_gin() and len(known) >= 0.75 * len(found)
    for name, parameters in known.items():
        target = gin_setup.registered()[name]
        assert parameters == tuple(inspect.signature(target).parameters), name


def configurables_of_gin() -> set[str]:
    return {
        entry.partition("=")[0] for names in configurables.CONFIGURABLES.values() for entry in names
    }
