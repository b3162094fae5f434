# SPDX-License-Identifier: Apache-2.0
"""Every job script in .ci is run by some workflow, with few rights, a limit of time and its log kept."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPTS = {path.name for path in (ROOT / ".ci").iterdir()}


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def runs(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The values of the matrix for each run of a job."""
    matrix = job["strategy"]["matrix"]
    if "include" in matrix:
        return matrix["include"]
    ((name, values),) = matrix.items()
    return [{name: value} for value in values]


def filled(text: str, values: dict[str, Any]) -> str:
    return re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda match: str(values[match[1]]), text)


def called(path: Path) -> list[str]:
    """The scripts that a workflow runs, in all steps of all runs of its jobs."""
    return [
        name
        for job in load(path)["jobs"].values()
        for values in runs(job)
        for step in job["steps"]
        for name in re.findall(r"\.ci/(\w+)", filled(step.get("run", ""), values))
    ]


def test_every_script_is_run_by_a_workflow_and_every_run_is_of_a_script():
    assert {name for path in WORKFLOWS for name in called(path)} == SCRIPTS
    assert all(os.access(ROOT / ".ci" / name, os.X_OK) for name in SCRIPTS)


def test_a_push_runs_the_quick_checks_alone_and_the_rest_can_be_started_by_hand():
    by_name = {path.stem: path for path in WORKFLOWS}
    assert set(called(by_name["checks"])) == {"run"} and "push" in load(by_name["checks"])["on"]
    weekly = load(by_name["weekly"])["on"]
    assert set(weekly) == {"schedule", "workflow_dispatch"}
    assert sorted(called(by_name["weekly"])) == sorted(SCRIPTS - {"run"})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_may_only_read_end_in_time_and_keep_their_logs(path):
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job and job["strategy"]["fail-fast"] is False
        for values in runs(job):
            # GitHub ends a job after six hours, without the steps that keep its log.
            step = int(filled(str(job["steps"][-2]["timeout-minutes"]), values))
            assert 0 < step < int(job["timeout-minutes"]) < 360
        used = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", name) for name in used)
        *_, script, keep = job["steps"]
        assert script["shell"] == "bash" and keep["if"] == "failure()"
        assert script["run"].endswith(f"| tee {keep['with']['path']}")
