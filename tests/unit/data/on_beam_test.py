# SPDX-License-Identifier: Apache-2.0
"""Shards made by Apache Beam: those of local workers, bit for bit, whatever stopped either.

Needs the extra [beam] (.ci/beam); the pipelines run in this process.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("apache_beam", reason="needs the extra [beam]")
pytestmark = pytest.mark.slow

from llm_bridge.conversations import ConversationConfig  # noqa: E402
from llm_bridge.tokens.clips import ConversationSource  # noqa: E402
from llm_bridge.tokens.export import ExportConfig, export_tokens  # noqa: E402
from sciphi.scene_set import export_scenes  # noqa: E402
from spatial_core.data import bank_manifest, on_beam  # noqa: E402
from spatial_core.data.bank import generate_bank  # noqa: E402
from spatial_core.data.budget import DataBudgetError  # noqa: E402
from spatial_core.errors import InputError  # noqa: E402
from tests.unit.data import streams  # noqa: E402
from tests.unit.data.bank_test import checksums, flip, quiet, small_config  # noqa: E402
from tests.unit.sciphi.scene_set_test import CONFIG, contents  # noqa: E402

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def whole_bank(tmp_path_factory) -> Path:
    """Made by local workers."""
    folder = tmp_path_factory.mktemp("bank")
    generate_bank(small_config(), folder, progress=quiet)
    return folder


def beam_bank(folder: Path, *flags: str) -> list[str]:
    said: list[str] = []
    generate_bank(small_config(), folder, progress=said.append, engine=on_beam.engine(flags))
    return said


def test_a_bank_is_that_of_local_workers(whole_bank, tmp_path):
    said = beam_bank(tmp_path)
    assert "20 rooms in 3 shards" in said[-1]
    assert checksums(tmp_path) == checksums(whole_bank)


def test_scenes_are_those_of_local_workers(tmp_path):
    export_scenes(CONFIG, tmp_path / "here", quiet)
    export_scenes(CONFIG, tmp_path / "beam", quiet, on_beam.engine())
    (split,) = CONFIG.counts
    assert contents(tmp_path / "beam" / split) == contents(tmp_path / "here" / split)


def test_tokens_are_those_of_local_workers(tmp_path):
    talks = ConversationConfig(max_seconds=4.0, two_talkers=0.0)
    config = ExportConfig(
        sources={"test": ConversationSource(conversation=talks, count=3, split="test")},
        shard_size=2,
        threads=1,
    )
    export_tokens(config, tmp_path / "here", quiet)
    export_tokens(config, tmp_path / "beam", quiet, on_beam.engine())
    assert contents(tmp_path / "beam" / "test") == contents(tmp_path / "here" / "test")


@pytest.mark.parametrize("flags", [None, ()], ids=["local workers", "a pipeline"])
def test_a_killed_pipeline_is_finished_by_either_engine(whole_bank, tmp_path, flags):
    """Killed while it writes the second of three shards."""
    code = (
        "import os, signal, sys\n"
        "from spatial_core.data import bank, bank_record, on_beam\n"
        "from tests.unit.data.bank_test import small_config\n"
        "made, encode = [], bank_record.encode\n"
        "def encode_or_die(*arguments):\n"
        "    made.append(1)\n"
        "    if len(made) == 13: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return encode(*arguments)\n"
        "bank_record.encode = encode_or_die\n"
        "bank._SLICE = 2\n"
        "bank.generate_bank(small_config(), sys.argv[1], engine=on_beam.engine())\n"
    )
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", code, str(folder)]
    killed = subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    notes = list(folder.glob(".rirs-*.json"))
    assert len(notes) == 1 and len(list(folder.glob(".rirs-*.tmp"))) == 1
    kept = folder / notes[0].name[1:].removesuffix(".json")
    before = kept.stat().st_mtime_ns
    with pytest.raises(InputError, match="seed: 5 -> 6"):
        generate_bank(small_config(seed=6), folder, progress=quiet, engine=on_beam.engine())
    if flags is None:
        generate_bank(small_config(), folder, progress=quiet)
    else:
        beam_bank(folder, *flags)
    assert kept.stat().st_mtime_ns == before
    assert checksums(folder) == checksums(whole_bank)


def test_a_damaged_shard_is_made_again_and_no_other(whole_bank, tmp_path):
    beam_bank(tmp_path)
    files = [tmp_path / bank_manifest.shard_name(number, 3) for number in range(3)]
    before = [path.stat().st_mtime_ns for path in files]
    flip(files[1], files[1].stat().st_size // 2)
    beam_bank(tmp_path)
    after = [path.stat().st_mtime_ns for path in files]
    assert (after[0], after[2]) == (before[0], before[2]) and after[1] > before[1]
    assert checksums(tmp_path) == checksums(whole_bank)


def test_two_worker_processes_make_the_same(whole_bank, tmp_path):
    beam_bank(tmp_path, "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert checksums(tmp_path) == checksums(whole_bank)


def test_scenes_that_fail_are_replaced_and_counted_over_all_shards(tmp_path):
    faulty = small_config(simulator=streams.FaultySimulator(0.2))
    here = generate_bank(faulty, tmp_path / "here", progress=quiet)
    beam = generate_bank(faulty, tmp_path / "beam", progress=quiet, engine=on_beam.engine())
    assert beam == here
    count = sum(len(shard.replaced) for shard in here.shards.values())
    with pytest.raises(DataBudgetError, match=f"{count} bad records"):
        strict = replace(faulty, max_bad_records=count - 1)
        generate_bank(strict, tmp_path / "beam", progress=quiet, engine=on_beam.engine())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--direct_num_wokers=2"], "--direct_num_wokers is unknown.*direct_num_workers"),
        (["--direct_num_workers=two"], "a value is of the wrong kind"),
        (["runner=FlinkRunner"], "write --NAME=VALUE"),
    ],
)
def test_flags_that_beam_cannot_use_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        on_beam.engine(flags)
