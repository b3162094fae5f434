# SPDX-License-Identifier: Apache-2.0
"""Writes tool_flags.json anew: what xpk and gcloud, both on the PATH, list in their own --help.

    python tests/golden/make_tool_flags.py

launchers_test.py holds the golden command lines against it everywhere, and it against tools that are installed.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

FILE = Path(__file__).parent / "tool_flags.json"
TPUS = "gcloud compute tpus"
TOOLS = (
    *(f"xpk workload {verb}" for verb in ("create", "list", "delete")),
    *(f"{TPUS} queued-resources {verb}" for verb in ("create", "describe", "delete")),
    *(f"{TPUS} tpu-vm {verb}" for verb in ("create", "describe", "delete", "ssh")),
)


def flags(tool: str) -> list[str]:
    """Long flags in the help of "gcloud compute tpus tpu-vm ssh", without dashes; those of every command, too."""
    command = [*tool.split(), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    return sorted(
        set(re.findall(r"--([a-z][a-z0-9-]*[a-z0-9])", re.sub(r"\x1b\[[0-9]*m", "", text)))
    )


def version(program: str) -> str:
    command = [program, "version" if program == "xpk" else "--version"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    found = re.search(r"(Google Cloud SDK|xpk).*?([0-9]+[.][0-9]+[.][0-9]+)", text, re.IGNORECASE)
    return f"{found[1] if program == 'gcloud' else program} {found[2]}" if found else text.strip()


def main() -> None:
    versions = {program: version(program) for program in ("xpk", "gcloud")}
    kept = {
        tool: {"source": f"{versions[tool.split()[0]]}, --help", "flags": flags(tool)}
        for tool in TOOLS
    }
    FILE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
