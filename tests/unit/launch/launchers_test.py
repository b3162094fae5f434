# SPDX-License-Identifier: Apache-2.0
"""The launchers: exact command lines, what they refuse, and that the scripts they send do what is said."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch import job, modes, queued_resources, submit, sweep, tpu_vm, xpk
from spatial_core.errors import InputError

ROOT = Path(__file__).parents[3]
GOLDEN = sorted((ROOT / "tests" / "golden" / "launch").glob("*.txt"))
TOOL_FLAGS = json.loads((ROOT / "tests" / "golden" / "tool_flags.json").read_text(encoding="utf-8"))
JOB = {
    "name": "paper-m",
    "workdir": "gs://my-bucket/runs/paper-m",
    "gin_files": ("experiments/phasecoder_paper_m.gin",),
    "image": "us-docker.pkg.dev/my-project/spatial/spatial:0.1.0",
    "project": "my-project",
    "zone": "us-east5-a",
}
ARGV = [
    "x",
    "--name=paper-m",
    "--workdir=gs://my-bucket/runs/paper-m",
    "--gin_file=experiments/phasecoder_paper_m.gin",
    f"--image={JOB['image']}",
    "--project=my-project",
    "--zone=us-east5-a",
]


def _golden(name):
    """tests/golden/NAME.py, which is no package."""
    path = ROOT / "tests" / "golden" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _golden("make_launch")


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_command_lines_are_those_of_the_golden_files(path):
    text = path.read_text(encoding="utf-8")
    command = text.split("\n\n")[0]
    assert text == f"{command}\n\n{submit.show(make.plan(command.removeprefix('$ ')))}\n"


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_is_printed_is_what_would_run(path):
    """A shell takes the printed line apart into the very arguments that --submit passes."""
    plan = make.plan(path.read_text(encoding="utf-8").split("\n\n")[0].removeprefix("$ "))
    for action in submit.ACTIONS:
        for command in plan.of(action):
            assert tuple(shlex.split(submit.line(command).replace("\\\n", " "))) == command
            assert all(isinstance(word, str) for word in command)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_every_flag_is_in_the_help_of_its_tool(path):
    plan = make.plan(path.read_text(encoding="utf-8").split("\n\n")[0].removeprefix("$ "))
    for command in (command for action in submit.ACTIONS for command in plan.of(action)):
        if command[0] != "kubectl":
            tool = next(tool for tool in TOOL_FLAGS if " ".join(command).startswith(tool + " "))
            flags = {word[2:].split("=")[0] for word in command if word.startswith("--")}
            assert flags <= set(TOOL_FLAGS[tool]["flags"]), tool


@pytest.mark.parametrize("tool", TOOL_FLAGS)
def test_an_installed_tool_still_lists_the_flags_that_are_used(tool):
    """Newer xpk or gcloud than that of tool_flags.json, where one is at hand."""
    if shutil.which(tool.split()[0]) is None:
        pytest.skip(f"{tool.split()[0]} is not installed")
    lines = " ".join(path.read_text(encoding="utf-8") for path in GOLDEN)
    used = {flag for flag in TOOL_FLAGS[tool]["flags"] if f"--{flag}" in lines}
    assert used <= set(_golden("make_tool_flags").flags(tool))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "Paper"}, "lower-case"),
        ({"name": "paper_m"}, "lower-case"),
        ({"name": "3-m"}, "letter first"),
        ({"name": "m-"}, "no dash last"),
        ({"name": "m" * 64}, "at most 63"),
        ({"name": "m; rm -rf /"}, "lower-case"),
        ({"workdir": "runs/paper-m"}, "share no disk"),
        ({"workdir": "gs://my-bucket"}, "gs://BUCKET/FOLDER"),
        ({"workdir": "gs://My_Bucket/x"}, "gs://BUCKET/FOLDER"),
        ({"workdir": "gs://my-bucket/a/../b"}, "without '..'"),
        ({"workdir": "gs://my-bucket//b"}, "write it as 'gs://my-bucket/b'"),
        ({"project": "x"}, "project id"),
        ({"zone": "us-east5"}, "us-east5-a"),
        ({"image": "Spatial image"}, "no image"),
        ({"image": "--privileged"}, "no image"),
        ({"run_mode": "trian"}, "did you mean 'train'"),
        ({"run_mode": "generate"}, "cannot write to gs://"),
        ({"gin_files": ()}, "--gin_file"),
        ({"gin_files": ("experiments/phasecoder_paper_n.gin",)}, "did you mean"),
        ({"gin_files": ("my.gin",)}, "not in the image"),
        ({"overrides": ("ABOUT=$(whoami)",)}, "'$'"),
        ({"overrides": ("ABOUT=a\nb",)}, "leave it out"),
        ({"arguments": ("rm",)}, "no flag of launch.main"),
        ({"env": (("A B", "c"),)}, "no name of a variable"),
        ({"slices": 0}, "at least 1"),
        ({"restarts": -1}, "0 or more"),
        ({"capacity": "free"}, "choose among"),
        ({"reservation": "r"}, "--capacity=reserved"),
    ],
)
def test_a_job_that_cannot_be_is_refused(changed, said):
    with pytest.raises(InputError, match=re.escape(said)):
        job.JobSpec(**{**JOB, **changed})


@pytest.mark.parametrize(
    ("name", "accelerator", "chips", "hosts"),
    [
        # cloud.google.com/tpu/docs/v5p, .../v5e, .../v6e: cores or chips, chips, machines.
        ("v5p-8", "v5p-8", 4, 1),
        ("v5p-16", "v5p-16", 8, 2),
        ("v5p-128", "v5p-128", 64, 16),
        ("v5p-12288", "v5p-12288", 6144, 1536),
        ("v5e-8", "v5litepod-8", 8, 1),
        ("v5litepod-16", "v5litepod-16", 16, 4),
        ("v6e-256", "v6e-256", 256, 64),
        ("v4-8", "v4-8", 4, 1),
    ],
)
def test_sizes_of_slices(name, accelerator, chips, hosts):
    tpu = job.parse_tpu(name)
    assert (tpu.accelerator_type, tpu.chips, tpu.hosts) == (accelerator, chips, hosts)


@pytest.mark.parametrize("name", ["v5p-4", "v5p-100", "v5e-3", "v7-8", "v5p", "h100-8"])
def test_a_slice_that_is_not_on_offer_is_refused(name):
    with pytest.raises(InputError, match=r"v5p-8|no slice of that size"):
        job.parse_tpu(name)


@pytest.mark.parametrize(
    ("launcher", "extra", "said"),
    [
        (xpk.LAUNCHER, [], "--cluster"),
        (xpk.LAUNCHER, ["--cluster=c", f"--name={'m' * 41}"], "at most 40"),
        (xpk.LAUNCHER, ["--cluster=c", "--capacity=reserved"], "--reservation"),
        (xpk.LAUNCHER, ["--clutser=c"], "Did you mean: cluster"),
        (xpk.LAUNCHER, ["--cluster=c", "--capacity=cheap"], "capacity"),
        (xpk.LAUNCHER, ["--cluster=c", "--env=A"], "NAME=VALUE"),
        (xpk.LAUNCHER, ["--cluster=c", "--gin.steps"], "--gin.Name.parameter=value"),
        (xpk.LAUNCHER, ["--cluster=c", "--project="], "give --project"),
        (xpk.LAUNCHER, ["--cluster=c", "stray"], "after --"),
        (queued_resources.LAUNCHER, ["--capacity=reserved", "--reservation=r"], "launch.xpk"),
        (tpu_vm.LAUNCHER, ["--slices=2"], "one TPU VM is one slice"),
        (tpu_vm.LAUNCHER, ["--node=Bad_Node"], "lower-case"),
        (tpu_vm.LAUNCHER, ["--grace_seconds=0"], "at least 1"),
        (tpu_vm.LAUNCHER, ["--volume=data:/data"], "/HOST/FOLDER:/FOLDER"),
        (queued_resources.LAUNCHER, ["--volume=/a:/b:rw"], "/HOST/FOLDER:/FOLDER"),
        (xpk.LAUNCHER, ["--cluster=c", "--storage=My Data"], "--storage='My Data'"),
    ],
)
def test_a_launcher_says_what_it_cannot_do(launcher, extra, said, capsys):
    assert submit.main(launcher, [*ARGV, *extra, "--nocheck"]) == 2
    told = capsys.readouterr()
    assert said in told.err and told.err.startswith("error: ") and told.out == ""


def test_a_gin_name_that_nobody_knows_is_refused_before_anything_starts(capsys):
    argv = [*ARGV, "--cluster=c", "--gin.TrainConfig.stesp=3", "--submit"]
    assert submit.main(xpk.LAUNCHER, argv) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err


def test_a_flag_that_the_job_would_not_know_is_refused(capsys):
    argv = [*ARGV, "--cluster=c", "--", "--compile_cahce=gs://my-bucket/cache"]
    assert submit.main(xpk.LAUNCHER, argv) == 2
    assert "no flag --compile_cahce; did you mean 'compile_cache'?" in capsys.readouterr().err


def test_a_missing_tool_is_named_with_the_way_to_it(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    assert submit.main(xpk.LAUNCHER, [*ARGV, "--cluster=c", "--nocheck", "--submit"]) == 2
    assert "xpk is not installed here: `pip install xpk`" in capsys.readouterr().err


def _fake_tool(folder: Path, name: str, code: int = 0) -> None:
    """A program that writes its arguments to a file and ends with `code`."""
    tool = folder / name
    tool.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\n"
        f"with pathlib.Path({str(folder / 'calls')!r}).open('a') as f:\n"
        f"    f.write(json.dumps(sys.argv[1:]) + '\\n')\nsys.exit({code})\n"
    )
    tool.chmod(0o755)


def test_submit_passes_the_arguments_as_they_are(tmp_path, monkeypatch, capsys):
    import json

    _fake_tool(tmp_path, "gcloud")
    monkeypatch.setenv("PATH", str(tmp_path))
    argv = [*ARGV, "--nocheck", "--submit", "--env=A=it's; so"]
    assert submit.main(tpu_vm.LAUNCHER, argv) == 0
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call[3] for call in calls] == ["create", "ssh"]
    assert any("A=it" in word for word in calls[1])
    (tmp_path / "calls").unlink()
    assert submit.main(tpu_vm.LAUNCHER, [*argv, "--action=stop"]) == 0
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call[3] for call in calls] == ["ssh", "delete"]


def test_a_tool_that_fails_ends_the_plan(tmp_path, monkeypatch, capsys):
    _fake_tool(tmp_path, "gcloud", code=3)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert submit.main(tpu_vm.LAUNCHER, [*ARGV, "--nocheck", "--submit"]) == 1
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert "ended with code 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("codes", "starts", "last"),
    [
        ([0], 1, 0),
        ([75, 75, 0], 3, 0),
        ([137, 0], 2, 0),
        ([2], 1, 2),
        ([75, 3], 2, 3),
        ([76, 0], 2, 0),
        ([75, 75, 75, 75], 3, 75),
    ],
)
def test_the_script_of_a_host_starts_the_job_again_only_after_a_stop(
    tmp_path, monkeypatch, codes, starts, last
):
    """docker stands in as a program that ends with the given codes in turn; restarts=2."""
    docker = tmp_path / "docker"
    docker.write_text(
        '#!/bin/bash\n[ "$1" = run ] || exit 0\n'
        f'echo "$@" >> {tmp_path}/runs\n'
        f"codes=({' '.join(map(str, codes))})\n"
        f'exit "${{codes[$(($(wc -l < {tmp_path}/runs) - 1))]}}"\n'
    )
    docker.chmod(0o755)
    spec = job.JobSpec(**{**JOB, "image": "my-registry/spatial:1", "restarts": 2})
    script = job.container_script(spec, grace_seconds=30)
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False
    )
    runs = (tmp_path / "runs").read_text().splitlines()
    assert (len(runs), done.returncode) == (starts, last)
    assert runs[0].endswith(" ".join(["my-registry/spatial:1", *spec.command()[3:]]))


def test_a_stop_reaches_the_training_through_the_shell_of_xpk():
    """xpk runs `(COMMAND) &` and sends SIGTERM to that: with exec it is the job itself that gets it."""
    command = make.plan(f"python -m launch.xpk --cluster=c {shlex.join(ARGV[1:])}").start[0][-1]
    assert command.startswith("--command=exec python -m launch.main ")
    program = "import signal, sys, time; signal.signal(15, lambda *a: sys.exit(75)); print('up', flush=True); time.sleep(60)"
    inner = shlex.join([sys.executable, "-c", program])
    shell = subprocess.Popen(
        ["bash", "-c", f"(exec {inner}) & PID=$!; read line; kill -TERM $PID; wait $PID; exit $?"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert shell.stdout.readline() == b"up\n"
    shell.communicate(b"go\n", timeout=30)
    assert shell.returncode == 75


def test_help_shows_an_example_and_every_flag():
    done = subprocess.run(
        [sys.executable, "-m", "launch.xpk", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stderr == ""
    assert "python -m launch.xpk --cluster=my-cluster" in done.stdout
    assert "--restarts" in done.stdout and "--priority" in done.stdout


def _docs_commands() -> list[str]:
    """The commands of docs/launch.md that start a launcher."""
    text = (ROOT / "docs" / "launch.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    found = re.findall(r"^python -m launch\.(?:\\\n|.)*", blocks, re.MULTILINE)
    return [command.replace("\\\n", " ") for command in found]


def test_the_commands_of_the_docs_do_what_they_say(capsys):
    commands = _docs_commands()
    kinds = {shlex.split(command)[2] for command in commands}
    assert kinds == {"launch.xpk", "launch.queued_resources", "launch.tpu_vm", "launch.sweep"}
    for command in commands:
        words = shlex.split(command)[2:]
        if words[0] == "launch.sweep":
            given = sweep._parse(words)
            assert given.values.collect or sweep._points(given.values)
        else:
            assert make.plan(command).start


def test_the_output_in_the_docs_is_that_of_the_golden_file():
    text = (ROOT / "docs" / "launch.md").read_text(encoding="utf-8")
    golden = (ROOT / "tests" / "golden" / "launch" / "xpk_v5p_128_spot.txt").read_text()
    command, printed = golden.split("\n\n")[:2]
    assert command.removeprefix("$ ") in text and printed in text


def test_the_runbook_explains_every_exit_code():
    page = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    table = page.split("\n\n")[2]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    known = {value for name, value in vars(modes).items() if name.startswith("EXIT_")}
    assert known | {0, 1} <= told and set(job.RESTART_CODES) <= told
