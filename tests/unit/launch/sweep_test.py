# SPDX-License-Identifier: Apache-2.0
"""Sweeps: points and their folders, running and going on, one launcher command each, the table."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from launch import sweep, sweep_points, sweep_table
from spatial_core.errors import InputError

ARGV = ["x", "--gin_file=experiments/quickstart.gin", "--gin.TrainConfig.steps=2"]
GRID = ["--grid=OptimizerConfig.peak_lr=1e-3,3e-3", "--grid=TrainConfig.seed=0,1"]


def test_a_grid_is_all_combinations_under_names_that_say_what_they_are():
    points = sweep_points.grid(["OptimizerConfig.peak_lr=1e-3,3e-3", "TrainConfig.seed=0,1"])
    assert [point.name for point in points] == [
        "peak_lr-1e-3_seed-0",
        "peak_lr-1e-3_seed-1",
        "peak_lr-3e-3_seed-0",
        "peak_lr-3e-3_seed-1",
    ]
    assert points[1].arguments() == ("OptimizerConfig.peak_lr=1e-3", "TrainConfig.seed=1")


def test_commas_inside_brackets_and_quotes_belong_to_the_value():
    points = sweep_points.grid(["SceneConfig.gain_db=(0.0, 0.0),(-6.0, 6.0)", "ABOUT='a,b',c"])
    assert [point.overrides[0][1] for point in points[::2]] == ["(0.0, 0.0)", "(-6.0, 6.0)"]
    assert [point.overrides[1][1] for point in points[:2]] == ["'a,b'", "c"]


def test_names_are_folders_and_differ_where_settings_differ():
    points = sweep_points.grid(["A=/data/x y,/data/x/y", f"B={'b' * 200}"])
    names = [point.name for point in points]
    assert len(set(names)) == 2 and all(len(name) <= 100 and "/" not in name for name in names)
    assert names == [
        point.name for point in sweep_points.grid(["A=/data/x y,/data/x/y", f"B={'b' * 200}"])
    ]


def test_a_list_of_points_is_read_from_json(tmp_path):
    path = tmp_path / "points.json"
    path.write_text(json.dumps([{"TrainConfig.seed": 3}, {"OptimizerConfig.schedule": "constant"}]))
    assert [point.arguments() for point in sweep_points.read(path)] == [
        ("TrainConfig.seed=3",),
        ("OptimizerConfig.schedule=constant",),
    ]


@pytest.mark.parametrize("text", ["{}", "[]", "[{}]", "[1]", "not json"])
def test_a_list_that_cannot_be_read_is_refused(tmp_path, text):
    path = tmp_path / "points.json"
    path.write_text(text)
    with pytest.raises(InputError, match="points"):
        sweep_points.read(path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workdir=w"], "either --grid"),
        (["--workdir=w", "--grid=A=1", "--points=p"], "either --grid"),
        (["--workdir=w", "--grid=A"], "NAME.PARAMETER=VALUE"),
        (["--workdir=w", "--grid=A=1,,2"], "NAME.PARAMETER=VALUE"),
        (["--workdir=w", "--grid=A=1", "--grid=A=2"], "twice"),
        (["--workdir=w", "--grid=A=1,1"], "the same overrides"),
        (["--grid=A=1"], "--workdir"),
        (["--workdir=gs://b-b/w", "--grid=A=1"], "--launcher"),
        (["--workdir=w", "--grid=A=1", "--run_mode=trian"], "did you mean 'train'"),
        (["--workdir=w", "--grid=A=1", "--launcher=xkp"], "xpk"),
        (["--workdir=w", "--grid=A=1", "--cluster=c"], "cluster"),
        (["--workdir=w", "--collect"], "is no sweep"),
    ],
)
def test_what_cannot_be_swept_is_refused(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sweep.main([*ARGV, *arguments]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def runs(monkeypatch):
    """The commands of the children; each ends with the next of `codes` and leaves metrics like a run."""
    commands, codes = [], []

    def run_one(command):
        commands.append(command)
        workdir = Path(command[-1].removeprefix("--workdir="))
        workdir.mkdir(exist_ok=True)
        seed = int(command[-2].rpartition("=")[2])
        lines = [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 2.0 + seed, "validation/mae": "nan"}]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        code = codes.pop(0) if codes else 0
        return code if isinstance(code, tuple) else (code, 0)

    monkeypatch.setattr(sweep, "_run_one", run_one)
    return commands, codes


def test_a_sweep_goes_on_where_it_was_stopped(tmp_path, runs, capsys):
    commands, codes = runs
    argv = [*ARGV, *GRID, f"--workdir={tmp_path}"]
    codes[:] = [0, 75]
    assert sweep.main(argv) == 75 and len(commands) == 2
    assert sweep.main(argv) == 0 and len(commands) == 5
    assert commands[1] == commands[2]
    assert commands[1][1:] == [
        *("-m", "launch.main", "--run_mode=train", "--gin_file=experiments/quickstart.gin"),
        *(
            "--gin.TrainConfig.steps=2",
            "--gin.OptimizerConfig.peak_lr=1e-3",
            "--gin.TrainConfig.seed=1",
        ),
        f"--workdir={tmp_path / 'peak_lr-1e-3_seed-1'}",
    ]
    assert sweep.main(argv) == 0 and len(commands) == 5
    more = [*argv[:-2], "--grid=TrainConfig.seed=0,1,2", argv[-1]]
    assert sweep.main(more) == 0 and len(commands) == 7


def test_a_stop_that_comes_in_the_last_step_of_a_run_ends_the_sweep_after_it(tmp_path, runs):
    commands, codes = runs
    codes[:] = [(0, 75)]
    argv = [*ARGV, *GRID, f"--workdir={tmp_path}"]
    assert sweep.main(argv) == 75 and len(commands) == 1
    assert sweep.main(argv) == 0 and len(commands) == 4


def test_a_failure_is_told_at_the_end_and_the_others_run(tmp_path, runs, capsys):
    commands, codes = runs
    codes[:] = [0, 3, 0, 0]
    argv = [*ARGV, *GRID, f"--workdir={tmp_path}"]
    assert sweep.main(argv) == 3 and len(commands) == 4
    assert "exit code 3" in capsys.readouterr().err
    assert sweep.main(argv) == 0 and len(commands) == 5


def test_a_folder_of_another_sweep_is_refused(tmp_path, runs, capsys):
    argv = [*ARGV, *GRID, f"--workdir={tmp_path}"]
    assert sweep.main(argv) == 0
    assert sweep.main([*argv, "--gin.TrainConfig.steps=3"]) == 2
    assert "holds a sweep of something else" in capsys.readouterr().err


def test_the_table_holds_settings_and_results_in_markdown_and_csv(tmp_path, runs, capsys):
    _, codes = runs
    codes[:] = [0, 0, 3]
    assert sweep.main([*ARGV, *GRID, f"--workdir={tmp_path}"]) == 3
    (tmp_path / "peak_lr-1e-3_seed-1" / "report.json").write_text(
        json.dumps(
            {
                "info": {"clips": 7},
                "localizers": {
                    "m": {
                        "overall": {"azimuth": {"value": 3.25, "low": 3.0, "high": 3.5}},
                        "groups": {"2": {"azimuth": {"value": 9.0, "low": 8.0, "high": 9.9}}},
                    }
                },
            }
        )
    )
    assert sweep.main(["x", f"--workdir={tmp_path}", "--collect", "--sort_by=loss"]) == 0
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [row["loss"] for row in rows] == ["2.0", "2.0", "3.0", "3.0"]
    assert [row["state"] for row in rows if row["run"] == "peak_lr-3e-3_seed-0"] == ["exit code 3"]
    assert {row["m/azimuth"] for row in rows} == {"", "3.25"} and len(rows[0]) == 8
    assert rows[0]["OptimizerConfig.peak_lr"] == "1e-3" and rows[0]["step"] == "2.0"
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len(lines) == 6 and lines[1].startswith("| --- | --- | --- | --- | ---: |")
    assert sweep.main(["x", f"--workdir={tmp_path}", "--collect", "--metric=los"]) == 2
    assert "did you mean 'loss'" in capsys.readouterr().err


def test_models_of_different_runs_share_the_columns_of_the_table(tmp_path):
    """A report calls its model by the run; its controls have the same names everywhere."""
    sweep_points.remember(tmp_path, {}, sweep_points.grid(["MODEL=runs/a,runs/b"]))
    for name, value in (("a", 1.0), ("b", 2.0)):
        run = tmp_path / f"MODEL-runs-{name}"
        run.mkdir()
        results = {f"{name}, step 6": {"count": value}, "chance": {"count": 0.5}}
        (run / "report.json").write_text(json.dumps({"results": results}))
    table = sweep_table.collect(tmp_path)
    assert table.heading[-2:] == ("model/count", "chance/count")
    assert [row[-2:] for row in table.rows] == [(1.0, 0.5), (2.0, 0.5)]


def test_runs_that_a_launcher_started_are_finished_when_their_steps_are_done(tmp_path):
    sweep_points.remember(tmp_path, {}, sweep_points.grid(["TrainConfig.seed=0,1,2"]))
    for name, step in (("seed-0", 40), ("seed-1", 39)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"steps": 40}')
        (tmp_path / name / "metrics.jsonl").write_text(f'{{"step": {step}, "loss": 1.0}}\n{{"ste')
    assert [row[2] for row in sweep_table.collect(tmp_path).rows] == [
        "finished",
        "begun",
        "not begun",
    ]


def test_a_launcher_gets_one_job_for_each_point(capsys):
    argv = [
        *ARGV,
        *GRID,
        *("--launcher=xpk", "--cluster=c", "--name=lr", "--tpu=v5p-8", "--nocheck"),
        *("--project=my-project", "--zone=us-east5-a", "--image=gcr.io/my-project/spatial:1"),
        "--workdir=gs://my-bucket/sweep",
    ]
    assert sweep.main(argv) == 0
    told = capsys.readouterr().out
    assert told.count("xpk workload create") == 4
    assert "--workload=lr-003" in told
    assert (
        "--gin.OptimizerConfig.peak_lr=3e-3 --gin.TrainConfig.seed=1 "
        "--workdir=gs://my-bucket/sweep/peak_lr-3e-3_seed-1" in told
    )


@pytest.mark.parametrize(("number", "asked"), [(None, 0), ("SIGTERM", 75)])
def test_a_stop_is_handed_to_the_child_and_its_end_awaited(number, asked):
    program = "import os, signal, sys, time\nsignal.signal(15, lambda *a: sys.exit(4))\n"
    program += (
        f"os.kill(os.getppid(), signal.{number})\ntime.sleep(60)" if number else "sys.exit(4)"
    )
    assert sweep._run_one([sys.executable, "-c", program]) == (4, asked)


def test_a_killed_child_has_the_code_that_a_shell_gives_it():
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert sweep._run_one([sys.executable, "-c", program]) == (137, 0)
