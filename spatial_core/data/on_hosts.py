# SPDX-License-Identifier: Apache-2.0
"""Shards made by several processes of one run: each makes its share, process 0 writes the manifest.

As in a Beam pipeline each shard's entry is left beside it, and whole shards are kept. An entry says in which
run it was written: process 0 goes by those of its own run alone, because what an earlier one left may be
damaged, and its maker about to replace it. All processes must reach the folder. A process that dies is
noticed by jax.distributed, which ends the others; the same command goes on, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from spatial_core.data import making, shards
from spatial_core.data.making import Engine, ShardMaker, Shards, ShardWork
from spatial_core.data.shards import Progress, Report, Shard
from spatial_core.io import places


def engine(host: int, hosts: int, run: str) -> Engine:
    """The engine of process `host` of `hosts`: shard n is made by process n % hosts.

    run: a name that all processes of this run give, and those of no other run. Process 0 returns when all
    shards are there, the others when their own are.
    """
    return partial(_make, host, hosts, run)


def _make(
    host: int,
    hosts: int,
    run: str,
    work: ShardWork,
    folder: Path,
    there: Shards,
    save: Callable[[Shards], None],
    progress: Progress,
) -> Shards:
    if host == 0:
        save(there)
    known = {**there, **making.noted(work, folder)}
    own = range(host, work.num_shards, hosts)
    said = _of_host(progress, host)
    made = _make_share(work, folder, known, own, run, said)
    if host != 0:
        return {**known, **made}
    done = {**made, **_of_others(work, folder, made, run, said)}
    making.require_budget(work, done)
    making.finish(work, folder, done, save)
    progress(f"{folder}: {work.count:,} {work.what} by {hosts} hosts")
    return done


def _make_share(
    work: ShardWork, folder: Path, known: Shards, own: range, run: str, say: Progress
) -> dict[str, Shard]:
    """Makes the shards with these numbers, or keeps those that are whole; leaves an entry of each."""
    report = Report(sum(len(work.indices(number)) for number in own), work.what, say)
    done: dict[str, Shard] = {}
    maker: ShardMaker | None = None
    for number in own:
        name = work.name(number)
        fault = shards.shard_fault(folder, name, known[name]) if name in known else "not there"
        if fault is None:
            done[name] = known[name]
            report.kept(len(work.indices(number)))
        else:
            maker = maker or work.open(None)
            done[name] = making.make_shard(work, maker, number, folder, report.made)
        making.note(folder, name, done[name], run)
        making.require_budget(work, done)
    report.done(folder)
    return done


def _of_others(
    work: ShardWork, folder: Path, made: Shards, run: str, say: Progress
) -> dict[str, Shard]:
    """The entries of all other shards, once their makers have left them in this run."""
    found: dict[str, Shard] = {}
    others = [name for name in map(work.name, range(work.num_shards)) if name not in made]

    def missing() -> str:
        for name in others:
            entry = None if name in found else making.read_note(folder, name, run)
            if entry is not None and _is_there(folder / name, entry):
                found[name] = entry
        left = len(others) - len(found)
        return f"{left:,} shards of other hosts" if left else ""

    places.wait_for(folder, missing, say)
    return found


def _is_there(path: Path, shard: Shard) -> bool:
    return path.is_file() and places.size(path) == shard.bytes


def _of_host(progress: Progress, host: int) -> Progress:
    return lambda line: progress(f"host {host}: {line}")
