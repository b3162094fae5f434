# SPDX-License-Identifier: Apache-2.0
"""Writes what follows the first paragraph (the command) of each file in tests/golden/launch anew.

    python tests/golden/make_launch.py

Read the difference before you keep it, against the tools' own --help: each line is run as it stands.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from absl import flags

from launch import queued_resources, submit, tpu_vm, xpk

FOLDER = Path(__file__).parent / "launch"
LAUNCHERS = {
    "launch.xpk": xpk.LAUNCHER,
    "launch.queued_resources": queued_resources.LAUNCHER,
    "launch.tpu_vm": tpu_vm.LAUNCHER,
}


def plan(command: str) -> submit.Plan:
    """The plan of 'python -m launch.xpk ...', without a look at the gin names."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["python", "-m"]
    launcher, values = LAUNCHERS[words[2]], flags.FlagValues()
    submit.define_flags(values)
    launcher.define(values)
    given = submit.parse(words[2:], values)
    return launcher.plan(submit.spec(given, values.name, values.workdir), values)


def main() -> None:
    for path in sorted(FOLDER.glob("*.txt")):
        command = path.read_text(encoding="utf-8").split("\n\n")[0]
        text = f"{command}\n\n{submit.show(plan(command.removeprefix('$ ')))}\n"
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
