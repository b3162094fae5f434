# SPDX-License-Identifier: Apache-2.0
"""What the README and the docs tell people to type exists: commands, flags, files, links."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from absl import flags

from launch import configurables, main, modes
from llm_bridge import bridge_cli
from llm_bridge import cli as ask
from phasecoder import cli
from sciphi import cli as describe
from spatial_core.config import gin_setup
from spatial_core.geometry.arrays import MicArray

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "phasecoder" / "README.md", *ROOT.glob("docs/*.md")])
_CODE = re.compile(r"```(?:bash|sh|shell|text|console)\n(.*?)```|`([^`\n]+)`", re.DOTALL)


def _commands(name: str) -> list[tuple[str, str]]:
    """(page, command) for every command of the docs that starts with `name`; one line each."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block, inline in _CODE.findall(text):
            lines = (block or inline).replace("\\\n", " ").splitlines()
            for line in lines:
                for part in re.split(r"&&|\||;", line):
                    command = part.split("  #")[0].strip().removeprefix("$ ")
                    command = command.removeprefix(".venv/bin/")
                    if command.startswith(name):
                        found.append((page.relative_to(ROOT).as_posix(), command))
    return found


def _first_screen() -> list[str]:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    return [line for line in lines[:25] if line.startswith("python3 -m venv")]


def test_first_screen_holds_the_two_commands():
    job, tests = _first_screen()
    assert "launch.main --run_mode=quickstart" in job and tests.endswith("-m pytest -q -n 2")


def test_continuous_integration_runs_the_same_command():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert _first_screen()[1] in script


def _parse_all(commands, parse) -> None:
    for page, command in commands:
        words = shlex.split(re.split("[<>]", command)[0])[1:]
        try:
            parse(words)
        except SystemExit as stop:
            pytest.fail(f"{page}: {command!r} does not parse (exit {stop.code})")


def test_phasecoder_commands_parse():
    commands = [
        (page, command)
        for page, command in _commands("phasecoder ")
        if not re.search(r"^phasecoder ?(localize|model|array( check| show)?)?\s*$", command)
    ]
    assert len(commands) >= 8
    parser = cli.build_parser()
    _parse_all(commands, parser.parse_args)


def test_spatial_ask_commands_parse():
    commands = [(page, command) for page, command in _commands("spatial-ask ") if "--" in command]
    assert len(commands) >= 5
    parser = ask.build_parser()
    _parse_all(commands, parser.parse_intermixed_args)


def test_sciphi_commands_parse():
    commands = [
        (page, command)
        for page, command in _commands("sciphi ")
        if not re.search(r"^sciphi (describe|convert)$", command)
    ]
    assert len(commands) >= 5
    parser = describe.build_parser()
    _parse_all(commands, parser.parse_args)


def test_spatial_bridge_commands_parse():
    commands = [part for part in _commands("spatial-bridge ") if len(part[1].split()) > 2]
    assert len(commands) >= 4
    parser = bridge_cli.build_parser()
    _parse_all(commands, parser.parse_args)


def test_launch_commands_have_known_modes_flags_files_and_settings():
    configurables.register_all()
    commands = _commands("python -m launch.main")
    assert len(commands) >= 5
    for page, command in commands:
        words = [*shlex.split(command)[3:], "--"]
        words = words[: words.index("--")]  # what follows is for Apache Beam
        rest, bindings = gin_setup.split_argv(words)
        given = dict(part.removeprefix("--").partition("=")[::2] for part in rest)
        assert main and set(given) <= set(flags.FLAGS), f"{page}: {command}"
        assert given.get("run_mode", "train") in modes.MODES, f"{page}: {command}"
        files = [part.partition("=")[2] for part in rest if part.startswith("--gin_file=")]
        if files and all(file.startswith(("experiments/", "runs/")) for file in files):
            gin_setup.parse(files, bindings, roots=modes.ROOTS)


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not link.startswith(("http://", "https://", "mailto:")):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_array_examples_are_valid_arrays(tmp_path):
    examples = []
    for page in PAGES:
        for block in re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            if "positions" in block:
                examples.append((page.name, block))
    assert examples
    for name, block in examples:
        path = tmp_path / "array.json"
        path.write_text(json.dumps(json.loads(block)))
        assert MicArray.from_json(path).num_mics >= 2, name


def test_paths_named_in_the_layout_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    layout = text.split("## What is where")[1].split("```")[1]
    for line in layout.strip().splitlines():
        if not line.startswith(" "):
            for name in line.split("  ")[0].split():
                assert (ROOT / name).is_dir(), name
