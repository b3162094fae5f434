# SPDX-License-Identifier: Apache-2.0
"""A checkpoint damaged on disk between two starts: set aside, said, and trained again."""

from __future__ import annotations

from tests.integration import toy_run


def _damage(folder):
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x10
    path.write_bytes(content)


def test_the_previous_checkpoint_takes_over(tmp_path, whole_run):
    toy_run.finish(toy_run.start(tmp_path, "--steps=20"))
    newest = tmp_path / "checkpoints" / "00000020"
    _damage(newest / "state")
    process = toy_run.start(tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "checkpoint 20 is damaged" in output
    assert "set aside as 00000020.damaged" in output
    assert "resuming from step 15" in output
    assert whole_run.report["digest"] in output
    assert (newest.parent / "00000020.damaged").is_dir()
