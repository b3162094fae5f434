# SPDX-License-Identifier: Apache-2.0
"""The manifest of a bank: what it was made from, and the checksum of every shard."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spatial_core.config import resolved
from spatial_core.data.shards import Shard, json_digest, read_manifest, shard_fault, write_json
from spatial_core.errors import InputError
from spatial_core.geometry.arrays import MicArray
from spatial_core.sim.rir import RirSimulator
from spatial_core.sim.rooms import RoomConfig
from spatial_core.sim.scene import SceneConfig

NAME = "manifest.json"
PREFIX = "rirs"
FORMAT = "spatial_core room response bank"
VERSION = 1
_MAX_TAPS = 2**20
MAX_SHARDS = 10**5
# What a stream may choose anew; all other settings of a scene shape its room responses.
_CROP_FIELDS = (
    "speech_dropout",
    "distractor",
    "distractor_dropout",
    "snr_db",
    "sensor_noise_db",
    "gain_mismatch_db",
    "gain_db",
)


@dataclass(frozen=True)
class Manifest:
    """What a bank was made from (`config`, JSON values), and its finished shards by name."""

    config: Mapping[str, Any]
    taps: int
    lead: int
    num_shards: int
    shards: Mapping[str, Shard]

    @property
    def split(self) -> str:
        """The split whose seeds the bank was made from."""
        return str(self.config["split"])

    @property
    def records(self) -> int:
        """Records of the finished shards."""
        return sum(shard.records for shard in self.shards.values())

    @property
    def scene(self) -> SceneConfig:
        """What the bank's scenes were drawn from."""
        return _scene_from(self.config["scene"])

    def with_shard(self, name: str, shard: Shard) -> Manifest:
        """The manifest with one more finished shard."""
        return dataclasses.replace(self, shards={**self.shards, name: shard})

    def require_same(self, config: Mapping[str, Any], folder: Path) -> None:
        """InputError that lists what differs, unless the bank is of this configuration."""
        different = list(resolved.differences(self.config, config))
        if different:
            raise InputError(
                f"{folder} holds a bank of another configuration; choose another folder, or delete "
                "it.\n  " + "\n  ".join(different)
            )

    def require_complete(self, folder: Path) -> None:
        """InputError unless every shard is finished."""
        if len(self.shards) != self.num_shards:
            raise InputError(
                f"{folder} is unfinished: {len(self.shards)} of {self.num_shards} shards. Run "
                "generate again with the same settings to finish it"
            )

    def require_rooms_of(self, scene: SceneConfig, folder: Path) -> None:
        """InputError unless the bank's room responses are those that `scene` asks for."""
        have, want = dict(self.config["scene"]), resolved.describe(scene)
        if want["distractor"] and not have["distractor"]:
            raise InputError(
                f"{folder} was made without distractors: set distractor=False, or make another bank"
            )
        for name in _CROP_FIELDS:
            have.pop(name), want.pop(name)
        different = list(resolved.differences(have, want))
        if different:
            raise InputError(
                f"{folder} holds other rooms than the scene asks for (bank -> scene); change the "
                "scene, or make another bank.\n  " + "\n  ".join(different)
            )


def describe(
    scene: SceneConfig,
    simulator: RirSimulator,
    count: int,
    seed: int,
    split: str,
    shard_size: int,
) -> dict[str, Any]:
    """The configuration of a bank as JSON values: all that its bytes depend on."""
    engine = resolved.describe(simulator)
    if isinstance(engine, dict):
        engine.pop("threads", None)
    return {
        "scene": resolved.describe(scene),
        "simulator": engine,
        "count": count,
        "seed": seed,
        "split": split,
        "shard_size": shard_size,
    }


def shard_name(number: int, shards: int) -> str:
    """File name of a shard."""
    return f"{PREFIX}-{number:05d}-of-{shards:05d}.arrayrecord"


def _shard_names(shards: int) -> set[str]:
    return {shard_name(number, shards) for number in range(min(shards, MAX_SHARDS))}


def verify_bank(folder: str | Path) -> list[str]:
    """Read the whole bank against its checksums: a sentence for each fault, none if it is whole."""
    folder = Path(folder)
    manifest = load(folder)
    manifest.require_complete(folder)
    faults = [shard_fault(folder, name, shard) for name, shard in manifest.shards.items()]
    return [fault for fault in faults if fault is not None]


def save(manifest: Manifest, folder: Path) -> None:
    """Write the manifest; a reader sees the old one or the new one, never a part."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": manifest.config,
        "config_sha256": json_digest(manifest.config),
        "taps": manifest.taps,
        "lead": manifest.lead,
        "num_shards": manifest.num_shards,
        "shards": {
            name: dataclasses.asdict(shard) for name, shard in sorted(manifest.shards.items())
        },
    }
    write_json(folder / NAME, content)


def load(folder: Path) -> Manifest:
    """Read the manifest; InputError when there is none, or it is not one that this version reads."""
    path = folder / NAME
    content = read_manifest(
        path, "room response bank", FORMAT, VERSION, "make the bank with --run_mode=generate"
    )
    try:
        if content["config_sha256"] != json_digest(content["config"]):
            raise InputError(
                f"{path} was edited: its configuration no longer fits its checksum, so it cannot "
                "tell what the shards hold. Restore it, or make the bank again"
            )
        shards = {
            str(name): Shard(
                int(entry["records"]),
                int(entry["bytes"]),
                str(entry["sha256"]),
                tuple(entry["replaced"]),
            )
            for name, entry in content["shards"].items()
        }
        taps, lead, count = (int(content[name]) for name in ("taps", "lead", "num_shards"))
        if not 1 <= taps <= _MAX_TAPS or not shards.keys() <= _shard_names(count):
            raise InputError(f"{path} names other shards than a bank has: make the bank again")
        return Manifest(content["config"], taps, lead, count, shards)
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} lacks or garbles a part: {error}. Make the bank again") from error


def _scene_from(described: Mapping[str, Any]) -> SceneConfig:
    """The SceneConfig that `resolved.describe` described."""
    fields = {name: _tupled(value) for name, value in described.items() if name != "class"}
    room = {name: _tupled(value) for name, value in described["room"].items() if name != "class"}
    fields["room"] = RoomConfig(**room)
    if described["array"] is not None:
        array = described["array"]
        fields["array"] = MicArray(np.array(array["positions"]), array["name"])
    return SceneConfig(**fields)


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
