# SPDX-License-Identifier: Apache-2.0
"""An evaluation by several processes: each answers its share of the batches, process 0 gets all answers.

They are handed over as files in a folder that all reach, because hosts are done minutes apart, and
operations between them do not wait that long. A process that dies is noticed by jax.distributed, which
ends the others.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from spatial_core.errors import InputError
from spatial_core.io import places

T = TypeVar("T")

_PREFIX, _ARRAY = ".answers-", "npy"


class HandedOver(Exception):
    """This process has done its share; process 0 scores all of them."""


@dataclass(frozen=True)
class Share:
    """What process `host` of `hosts` does of an evaluation.

    folder: where answers are handed over. run: a name that all processes of this run give, and those of
    no other run.
    """

    host: int = 0
    hosts: int = 1
    folder: Path | None = None
    run: str = ""

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of the items: every `hosts`-th."""
        return items[self.host :: self.hosts]

    def gather(self, made: Sequence[Any], say: Callable[[str], None] = print) -> list[Any]:
        """What all processes made of their own items, in the order of all items; once in an evaluation.

        made: texts, numbers, None, arrays without objects, and lists and dicts of them (tuples become
        lists). Returns on process 0 when all others are done; raises HandedOver on those.
        """
        if self.hosts == 1:
            return list(made)
        if self.folder is None:
            raise ValueError("processes that share an evaluation need a folder")
        if not places.is_remote(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if self.host:
            places.write_whole(self._part(self.host), json.dumps(_packed(made)))
            raise HandedOver(f"host {self.host}: {len(made)} batches answered; process 0 reports")
        parts = [made, *(self._wait_for(host, say) for host in range(1, self.hosts))]
        for path in list(self.folder.iterdir()):
            if path.name.startswith(_PREFIX):  # also what a killed run left
                path.unlink(missing_ok=True)
        sizes = [len(part) for part in parts]
        if sizes != sorted(sizes, reverse=True) or sizes[0] - sizes[-1] > 1:
            raise InputError(
                f"the hosts answered {sizes} batches: they do not read the same data. Give all of them the same "
                "settings and files"
            )
        return [parts[n % self.hosts][n // self.hosts] for n in range(sum(sizes))]

    def _part(self, host: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{_PREFIX}{self.run}-{host}.json"

    def _wait_for(self, host: int, say: Callable[[str], None]) -> list[Any]:
        path = self._part(host)
        places.wait_for(
            path.parent, lambda: "" if path.is_file() else f"the answers of host {host}", say
        )
        found: list[Any] = json.loads(path.read_text(encoding="utf-8"), object_hook=_unpacked)
        return found


ALONE = Share()


def _packed(value: Any) -> Any:
    """JSON values; arrays as the text of their .npy file."""
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "__array__"):  # numpy's, and JAX's without a need of JAX
        file = io.BytesIO()
        np.save(file, np.asarray(value), allow_pickle=False)
        return {_ARRAY: base64.b64encode(file.getvalue()).decode()}
    if isinstance(value, Mapping):
        return {str(key): _packed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(item) for item in value]
    return value


def _unpacked(value: dict[str, Any]) -> Any:
    if value.keys() == {_ARRAY}:
        return np.load(io.BytesIO(base64.b64decode(value[_ARRAY])), allow_pickle=False)
    return value
