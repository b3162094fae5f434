# SPDX-License-Identifier: Apache-2.0
"""Read exported tokens: a folder of shards as a sequence of records."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llm_bridge.tokens import manifest as manifests
from llm_bridge.tokens.record import Talker, TokenRecord, decode, decode_talkers
from spatial_core.data.records import HOP, SAMPLE_RATE
from spatial_core.data.shards import open_shard, shard_fault
from spatial_core.errors import InputError

_AGAIN = "export the tokens again with the same settings, which keeps what is whole"


class TokenSet:
    """The records of an exported folder, in their order: `len(set)`, `set[i]`, iteration.

    verify: read every shard against its SHA-256 first (some seconds a GB).

    Raises InputError: no manifest, an edited or unfinished one, tokens on another grid than 160 ms
    at 16 kHz, a shard that is missing or damaged. Safe to call from several threads.
    """

    def __init__(self, directory: str | Path, verify: bool = True) -> None:
        self.directory = Path(directory)
        self._manifest = manifests.load(self.directory)
        _check_grid(self._manifest, self.directory)
        if not self._manifest.complete:
            raise InputError(
                f"{self.directory} is unfinished: {len(self._manifest.shards)} of "
                f"{self._manifest.num_shards} shards. Run the same export again to finish it"
            )
        shards = dict(sorted(self._manifest.shards.items()))
        if verify:
            faults = [shard_fault(self.directory, name, shard) for name, shard in shards.items()]
            found = [fault for fault in faults if fault is not None]
            if found:
                raise InputError(f"{self.directory}: {'; '.join(found[:3])}: {_AGAIN}")
        self._names = list(shards)
        self._readers = [
            open_shard(self.directory / name, shard, _AGAIN) for name, shard in shards.items()
        ]
        self._locks = [threading.Lock() for _ in shards]
        self._edges = np.cumsum([shard.records for shard in shards.values()])

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return self._manifest.to_json()

    @property
    def digest(self) -> str:
        """SHA-256 that names this set's content."""
        return self._manifest.digest

    @property
    def encoder_digest(self) -> str:
        """Digest of the encoder's parameters."""
        return self._manifest.encoder["digest"]

    def __len__(self) -> int:
        return self._manifest.count

    def __getitem__(self, index: int) -> TokenRecord:
        """Record `index`; InputError if it is damaged."""
        return decode(self._read(index))

    def __iter__(self) -> Iterator[TokenRecord]:
        return (self[index] for index in range(len(self)))

    def without_audio(self, index: int) -> TokenRecord:
        """Record `index` with empty `audio` and `mixed`: twenty times as fast, for who reads tokens only."""
        return decode(self._read(index), audio=False)

    def talkers(self, index: int) -> tuple[Talker, ...]:
        """The talkers of a record, without unpacking its tokens and audio."""
        return decode_talkers(self._read(index))[1]

    def require_encoder(self, digest: str) -> None:
        """InputError with both digests unless the tokens are of this encoder."""
        if self.encoder_digest != digest:
            raise InputError(
                f"{self.directory} holds tokens of encoder {self._manifest.encoder['name']!r}, "
                f"digest {self.encoder_digest[:16]}.., but {digest[:16]}.. is wanted: export the "
                "tokens with that encoder"
            )

    def _read(self, index: int) -> bytes:
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        index %= len(self)
        shard = int(np.searchsorted(self._edges, index, side="right"))
        place = index - (int(self._edges[shard - 1]) if shard else 0)
        with self._locks[shard]:
            data = self._readers[shard].read([place])[0]
        return bytes(data)


def _check_grid(manifest: manifests.Manifest, folder: Path) -> None:
    have, want = (manifest.hop, manifest.sample_rate), (HOP, SAMPLE_RATE)
    if have != want:
        raise InputError(
            f"{folder} holds a token each {have[0]} samples at {have[1]} Hz "
            f"({1000 * have[0] / have[1]:.0f} ms); the language model shares a grid of {HOP} samples "
            f"at {SAMPLE_RATE} Hz (160 ms) with its audio encoder: export the tokens again"
        )
