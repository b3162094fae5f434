# SPDX-License-Identifier: Apache-2.0
"""The manifest of a token set: what made it, on which grid, and the checksum of every shard."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatial_core.config import resolved
from spatial_core.data.shards import Shard, json_digest, parse_shards, read_manifest, write_json
from spatial_core.errors import InputError

NAME = "manifest.json"
PREFIX = "tokens"
FORMAT = "llm_bridge token set"
VERSION = 1
MAX_SHARDS = 10**5
_PLAIN = (
    "encoder",
    "hop",
    "window",
    "sample_rate",
    "width",
    "seed",
    "split",
    "count",
    "labelled",
    "config",
)


@dataclass(frozen=True)
class Manifest:
    """What a token set was made from, and its finished shards by name.

    encoder: its name and digest. hop, window: samples at `sample_rate`. width: of a token. split,
    seed: of conversations; "recordings" and 0 otherwise. config: JSON values, all that the bytes
    depend on besides the encoder. labelled: whether who talks where is known.
    """

    encoder: Mapping[str, str]
    hop: int
    window: int
    sample_rate: int
    width: int
    seed: int
    split: str
    count: int
    labelled: bool
    config: Mapping[str, Any]
    num_shards: int
    shards: Mapping[str, Shard]

    @property
    def complete(self) -> bool:
        """Whether every shard is finished."""
        return len(self.shards) == self.num_shards

    @property
    def bytes(self) -> int:
        """Size of the finished shards."""
        return sum(shard.bytes for shard in self.shards.values())

    @property
    def digest(self) -> str:
        """SHA-256 that names the content: configuration, encoder and the checksums of all shards."""
        content = self.to_json()
        return json_digest({key: content[key] for key in (*_PLAIN, "shards")})

    def with_shard(self, name: str, shard: Shard) -> Manifest:
        """The manifest with one more finished shard."""
        return dataclasses.replace(self, shards={**self.shards, name: shard})

    def require_same(self, wanted: Manifest, folder: Path) -> None:
        """InputError that lists what differs, unless the set is of the wanted configuration."""
        ours, theirs = self._identity(), wanted._identity()
        different = list(resolved.differences(ours, theirs))
        if different:
            raise InputError(
                f"{folder} holds tokens of another configuration; choose another folder, or delete "
                "it.\n  " + "\n  ".join(different)
            )

    def _identity(self) -> dict[str, Any]:
        content = self.to_json()
        return {key: content[key] for key in (*_PLAIN, "num_shards")}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        content = dataclasses.asdict(self)
        content["shards"] = {name: content["shards"][name] for name in sorted(self.shards)}
        return {
            "format": FORMAT,
            "version": VERSION,
            "config_sha256": json_digest({key: content[key] for key in _PLAIN}),
            **content,
        }


def shard_name(number: int, shards: int) -> str:
    """File name of a shard."""
    return f"{PREFIX}-{number:05d}-of-{shards:05d}.arrayrecord"


def save(manifest: Manifest, folder: Path) -> None:
    """Write the manifest; a reader sees the old one or the new one, never a part."""
    write_json(folder / NAME, manifest.to_json())


def load(folder: Path) -> Manifest:
    """Read the manifest; InputError when there is none, or it is not one that this version reads."""
    path = folder / NAME
    content = read_manifest(path, "token set", FORMAT, VERSION, "export the tokens again")
    try:
        return _parsed(content, path)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path} lacks or garbles a part: {error}. Export the tokens again"
        ) from error


def _parsed(content: Mapping[str, Any], path: Path) -> Manifest:
    if content["config_sha256"] != json_digest({key: content[key] for key in _PLAIN}):
        raise InputError(
            f"{path} was edited: what it says no longer fits its checksum, so it cannot tell what "
            "the shards hold. Restore it, or export the tokens again"
        )
    shards = parse_shards(content["shards"])
    count = int(content["num_shards"])
    names = {shard_name(number, count) for number in range(min(count, MAX_SHARDS))}
    if not shards.keys() <= names:
        raise InputError(f"{path} names other shards than a token set has: export it again")
    fields = {field.name: content[field.name] for field in dataclasses.fields(Manifest)}
    return Manifest(**{**fields, "shards": shards})
