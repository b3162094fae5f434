# SPDX-License-Identifier: Apache-2.0
"""Where metrics go: JSONL that survives a stop, console lines, TensorBoard without TensorFlow."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from spatial_core.io.writers import (
    ConsoleWriter,
    JsonlWriter,
    TensorBoardWriter,
    format_metrics,
    format_seconds,
)


def test_jsonl_drops_what_a_resumed_run_writes_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = JsonlWriter(path)
    for step in (10, 20, 30):
        first.write(step, {"loss": 1.0 / step, "bad": float("nan")})
    first.close()
    with path.open("a") as file:
        file.write('{"step": 40, "lo')  # the process died here
    second = JsonlWriter(path, step=20)
    second.write(30, {"loss": 5.0})
    second.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["step"] for record in records] == [10, 20, 30]
    assert records[0]["bad"] == "nan" and records[2] == {"step": 30, "loss": 5.0}


def test_tensorboard_forgets_points_after_the_resumed_step(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoardWriter(tmp_path)
    for step in (10, 20, 30):
        first.write(step, {"loss": float(step)})
    first.close()
    second = TensorBoardWriter(tmp_path, step=20)
    second.write(30, {"loss": 0.5})
    second.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(p.step, p.value) for p in events.Scalars("loss")] == [(10, 10), (20, 20), (30, 0.5)]


def test_writers_do_not_import_tensorflow(tmp_path):
    code = (
        "import sys; from spatial_core.io.writers import TensorBoardWriter as W; "
        f"w = W(__import__('pathlib').Path({str(tmp_path)!r})); w.write(1, {{'a': 1.0}}); w.close(); "
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "" and done.stderr == ""


def test_a_plain_line_for_each_record_when_not_on_a_terminal():
    stream = io.StringIO()
    console = ConsoleWriter(200, stream=stream)
    values = {"azimuth_mae": 12.5, "loss": 0.5, "examples_per_second": 310.4, "data_wait": 0.03}
    console.write(100, values, eta_seconds=200)
    console.close()
    line = "step 100/200  loss 0.5  azimuth_mae 12.5  310 examples/s  data wait 3%  ETA 3m20s\n"
    assert stream.getvalue() == line


def test_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    console = ConsoleWriter(200, stream=stream)
    console.say("resuming from step 50 [not markup]")
    console.write(100, {"loss": 0.25}, eta_seconds=1)
    console.close()
    assert "resuming from step 50 [not markup]" in stream.getvalue()
    assert "step 100/200" in stream.getvalue() and "loss 0.25" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.9, "3s"), (200, "3m20s"), (3725, "1h02m"), (float("nan"), "?")]
)
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_skipped_steps_are_shown_and_zero_is_not():
    assert format_metrics({"loss": 1.0, "skipped": 2.0}) == "loss 1  skipped 2"
    assert format_metrics({"loss": 1.0, "skipped": 0.0, "grad_norm": 3.0}) == "loss 1"
