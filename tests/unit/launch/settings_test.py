# SPDX-License-Identifier: Apache-2.0
"""Every shipped .gin file is read and dry-run, by the command in its own header, made small."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest

from launch import configurables
from launch.modes import MODES, ROOTS
from spatial_core.config import gin_setup
from spatial_core.config.paths import config_files, config_root, resolve_config
from spatial_core.train import dry_run
from spatial_core.train.config import TrainConfig

# A network of one small block compiles in seconds; what is checked is how the files fit together.
_SMALL = {
    "SceneStream": ("batch_size = 8",),
    "PaperConfig": ("width = 32", "heads = 1", "head_width = 16", "hidden = 32", "blocks = 1"),
    "PlusConfig": ("width = 32", "heads = 1", "head_width = 16", "hidden = 32", "blocks = 1"),
    "BankStream": ("batch_size = 8",),
    "load_encoder": ("path = None",),
    "pretrained_task": ("path = None",),
    "QuickstartConfig": ("compare_with = None",),
}
# What a header leaves to its reader: an array file, a number of devices.
_MACROS = {"ARRAY": "'tetrahedron'", "FSDP": "1"}


@dataclass(frozen=True)
class Command:
    """A command of a header: its run mode, files and overrides."""

    file: str
    mode: str
    files: tuple[str, ...]
    bindings: tuple[str, ...]


def _commands() -> list[Command]:
    """The commands of all headers, the first of each file."""
    found = []
    for name in config_files():
        header = (config_root() / name).read_text().split("\n\n")[0]
        text = " ".join(line.removeprefix("#").strip() for line in header.splitlines())
        match = re.search(r"python -m launch\.main (.*)", text.replace(" \\ ", " "))
        if match:
            # Prose goes on after the last flag.
            words = re.match(r"(?:--\S+?=(?:'[^']*'|\S+) ?)+", match[1])
            assert words, f"{name}: {match[1]}"
            rest, bindings = gin_setup.split_argv(shlex.split(words[0]))
            given = [argument.removeprefix("--").split("=", 1) for argument in rest]
            files = tuple(value for flag, value in given if flag == "gin_file")
            mode = dict(given).get("run_mode", "train")
            found.append(Command(name, mode, files, tuple(bindings)))
    return found


COMMANDS = _commands()


@pytest.fixture(scope="module", autouse=True)
def _registered():
    configurables.register_all()


@pytest.fixture(scope="module")
def compiled():
    return {}


@pytest.fixture
def _one_compilation_for_all_of_a_shape(compiled, monkeypatch):
    """Files whose parameters and batches have the same shapes share the compiler's figures.

    Without the compiler's optimisations, which take it most of its time.
    """

    def remembered(program, batch):
        leaves = jax.tree_util.tree_leaves_with_path((program.abstract_state["params"], batch))
        key = tuple((str(path), leaf.shape, leaf.dtype) for path, leaf in leaves)
        if key not in compiled:
            lowered = program.step.lower(program.abstract_state, program.abstract_frozen, batch)
            compiled[key] = lowered.compile({"xla_backend_optimization_level": 0})
        return compiled[key]

    monkeypatch.setattr(dry_run, "compile_step", remembered)


def _parse_small(command: Command) -> list[Path]:
    """Parses the command's files twice: as they are, and with what makes them small."""
    gin_setup.parse(command.files, command.bindings, roots=ROOTS)
    text = gin_setup.bound_config()
    small = [
        f"{name}.{value}"
        for name, values in _SMALL.items()
        if gin_setup.sets(name) or re.search(rf"[@/]{name}\(", text)
        for value in values
    ]
    small += [f"{name} = {value}" for name, value in _MACROS.items() if f"%{name}\n" in text]
    # The model of an example is not here; its macro would have no user once the default is taken.
    kept = [binding for binding in command.bindings if not binding.startswith("MODEL = ")]
    return gin_setup.parse(command.files, [*kept, *small], roots=ROOTS)


def test_every_file_is_part_of_a_command():
    read = set()
    for command in COMMANDS:
        read |= set(gin_setup.parse(command.files, command.bindings, roots=ROOTS))
        assert command.file in command.files, f"{command.file}: its header does not name it"
    assert read == {resolve_config(name) for name in config_files()}
    assert {name for name in config_files() if name.startswith("experiments/")} <= {
        command.file for command in COMMANDS
    }


@pytest.mark.parametrize("command", COMMANDS, ids=[command.file for command in COMMANDS])
@pytest.mark.usefixtures("_one_compilation_for_all_of_a_shape")
def test_the_command_of_the_header_can_be_dry_run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _parse_small(command)
    text = MODES[command.mode].preview(tmp_path / "run", command.file)
    summary = text.split("\n\n")[0].splitlines()
    assert 4 <= len(summary) <= 15
    assert summary[0].startswith("experiment") and command.file in summary[0]
    assert str(tmp_path / "run") in text.split("\n\n")[0]
    if command.mode == "train":
        assert "parameters" in text and "GFLOP" in text
        assert isinstance(gin_setup.build("TrainConfig"), TrainConfig)
    else:
        assert "== settings ==" in text
    assert list(tmp_path.iterdir()) == []
