# SPDX-License-Identifier: Apache-2.0
"""Shards made by an Apache Beam pipeline: on this machine, on Dataflow, on Flink.

Each worker makes whole shards with the function that local workers call, and leaves an entry beside
each. When the pipeline is done the entries become the manifest. A shard whose entry and checksum fit is
kept, so the same command goes on after anything that stopped it. Needs the extra [beam].
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.utils.shared import Shared

from spatial_core.config.bindings import near
from spatial_core.data import making, shards
from spatial_core.data.making import Engine, ShardMaker, Shards, ShardWork
from spatial_core.data.shards import Progress, Shard
from spatial_core.errors import InputError
from spatial_core.io import places

_log = logging.getLogger(__name__)
_DIRECT_RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
"""The DirectRunner in Python; under its own name it first tries to download a program in Go."""


def engine(flags: Sequence[str] = ()) -> Engine:
    """The engine that runs a pipeline, and returns when it is done.

    flags: of the pipeline, such as "--runner=DataflowRunner"; none of them: this machine. All workers
    must reach the folder of the shards. Raises InputError for flags that Beam does not know.
    """
    return partial(_make, _options(flags))


def _make(
    options: PipelineOptions,
    work: ShardWork,
    folder: Path,
    there: Shards,
    save: Callable[[Shards], None],
    progress: Progress,
) -> Shards:
    save(there)
    entries = {**there, **making.noted(work, folder)}
    jobs = [(number, entries.get(work.name(number))) for number in range(work.num_shards)]
    progress(
        f"{folder}: a pipeline of {len(jobs):,} shards, {len(entries):,} of them to be checked"
    )
    with beam.Pipeline(options=options) as pipeline:
        made = (
            pipeline
            | "shards" >> beam.Create(jobs)
            | "to all workers" >> beam.Reshuffle()
            | "make" >> beam.ParDo(_MakeShard(work, str(folder)))
        )
        del made  # what is made lies in the folder
    done = {**there, **making.noted(work, folder)}
    missing = [name for name in map(work.name, range(work.num_shards)) if name not in done]
    if missing:
        raise InputError(
            f"the pipeline ended, and {folder} lacks {len(missing)} of {work.num_shards} shards, such "
            f"as {missing[0]}: is it a folder that this machine and all workers share?"
        )
    making.require_budget(work, done)
    making.finish(work, folder, done, save)
    progress(f"{folder}: {work.count:,} {work.what} in {work.num_shards:,} shards")
    return done


class _MakeShard(beam.DoFn):  # type: ignore[misc, unused-ignore]
    """(number, its entry if it has one) -> name of a shard that is whole now."""

    def __init__(self, work: ShardWork, folder: str) -> None:
        self._work, self._folder = work, folder
        self._shared = Shared()

    def process(self, job: tuple[int, Shard | None]) -> Iterator[str]:
        number, entry = job
        folder, name = places.place(self._folder), self._work.name(number)
        # A bundle that is tried again finds here what its last attempt made.
        entry = making.read_note(folder, name) or entry
        fault = shards.shard_fault(folder, name, entry) if entry is not None else "not made yet"
        if fault is None:
            beam.metrics.Metrics.counter("shards", "kept").inc()
        else:
            _log.info("%s: %s", name, fault)
            # One maker for all threads of the process: the material takes memory and time to open.
            maker = self._shared.acquire(self._open)
            making.note(folder, name, making.make_shard(self._work, maker, number, folder))
            beam.metrics.Metrics.counter("shards", "made").inc()
        yield name

    def _open(self) -> ShardMaker:
        # An engine runs one process or thread for each processor, so that one more is none too many.
        return self._work.open(1)


def _options(flags: Sequence[str]) -> PipelineOptions:
    """The pipeline's options; InputError for flags that are unknown or have unusable values."""
    stray = [flag for flag in flags if not flag.startswith("--") or len(flag) == 2]
    if stray:
        raise InputError(f"{stray[0]!r} is no flag of a pipeline: write --NAME=VALUE")
    options = PipelineOptions(list(flags))
    try:
        known = options.get_all_options()
        given = options.get_all_options(retain_unknown_options=True)
    except SystemExit:  # what argparse raises
        raise InputError(
            f"Beam cannot use the pipeline's flags {' '.join(flags)}: a value is of the wrong kind"
        ) from None
    unknown = sorted(given.keys() - known.keys())
    # Other runners ask their job server for more flags than Beam knows here.
    if unknown and known["runner"] in (None, "DirectRunner", "DataflowRunner"):
        raise InputError(
            f"the pipeline's flag --{unknown[0]} is unknown to Beam{near(unknown[0], known)}"
        )
    if known["runner"] in (None, "DirectRunner"):
        options.view_as(StandardOptions).runner = _DIRECT_RUNNER
    return options
