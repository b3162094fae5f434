# SPDX-License-Identifier: Apache-2.0
"""Folders of our shards as data sets of TensorFlow Datasets: read where they lie, nothing is copied.

`tfds.data_source` then gives random access, parts of splits ("train[:10%]") and what Grain and PyTorch
ask of a data source. TensorFlow is not needed and not imported.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from spatial_core.data import shards
from spatial_core.data.shards import Shard
from spatial_core.errors import InputError

_FORMAT = "array_record"


@dataclass(frozen=True)
class Part:
    """The shards of one split: their folder and, by name, their entries of its manifest."""

    folder: Path
    prefix: str
    shards: Mapping[str, Shard]


class RecordFeatures(tfds.features.FeaturesDict):  # type: ignore[misc, unused-ignore]
    """What an example holds, and how to read one from the bytes of a record (not a tf.train.Example)."""

    def __init__(
        self, features: Mapping[str, Any], decode: Callable[[bytes], dict[str, Any]]
    ) -> None:
        super().__init__(features)
        self._decode = decode

    def deserialize_example_np(self, serialized_example: Any, *, decoders: Any = None) -> Any:
        """The example of a record."""
        if decoders:
            raise InputError(
                "decoders are for tf.train.Example; these records have a form of their own"
            )
        return self._decode(bytes(serialized_example))


class FolderBuilder(tfds.core.DatasetBuilder, skip_registration=True):  # type: ignore[call-arg, misc, unused-ignore]
    """A data set whose shards are in a folder of ours.

    folder: given as builder_kwargs={"folder": ...}, one or several. Raises InputError where it is
    unfinished, damaged in size, or holds something else.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        folder: str | Path | Sequence[str | Path],
        data_dir: Any = None,
        config: Any = None,
        version: Any = None,
        file_format: Any = None,
    ) -> None:
        if str(getattr(file_format, "value", file_format) or _FORMAT) != _FORMAT:
            raise InputError(f"file_format={file_format}: these shards are {_FORMAT}")
        listed = [folder] if isinstance(folder, str | Path) else list(folder)
        parts = [self._parts(Path(each)) for each in listed]
        self._by_split = {split: part for each in parts for split, part in each.items()}
        if len(self._by_split) < sum(map(len, parts)):
            raise InputError(f"{', '.join(map(str, listed))}: a split is there twice; name it once")
        for part in self._by_split.values():
            _require_files(part)
        super().__init__(data_dir=data_dir, config=config, version=version)
        self._original_state.update(folder=[str(each) for each in listed])
        self.info.set_file_format(_FORMAT, override=True)
        self.info.set_splits(self._splits())

    @abc.abstractmethod
    def _parts(self, folder: Path) -> dict[str, Part]:
        """The splits of one folder by name."""

    def _splits(self) -> tfds.core.splits.SplitDict:
        return tfds.core.splits.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[part.shards[name].records for name in sorted(part.shards)],
                    num_bytes=sum(shard.bytes for shard in part.shards.values()),
                    filename_template=tfds.core.ShardedFileTemplate(
                        data_dir=part.folder,
                        template=f"{part.prefix}-{{SHARD_X_OF_Y}}.arrayrecord",
                        dataset_name=self.name,
                        split=split,
                        filetype_suffix=_FORMAT,
                    ),
                )
                for split, part in self._by_split.items()
            ]
        )

    def download_and_prepare(self, **_: Any) -> None:
        """Nothing to do: the shards are there."""

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        """Nothing to do: the shards are there."""

    def _as_dataset(self, *_: Any, **__: Any) -> Any:
        raise InputError("tf.data cannot read these records: use tfds.data_source")


def _require_files(part: Part) -> None:
    """InputError unless every shard is there in its size (checksums are read by other commands)."""
    for name, shard in part.shards.items():
        path = part.folder / name
        if not path.is_file() or path.stat().st_size != shard.bytes:
            fault = shards.shard_fault(part.folder, name, shard)
            raise InputError(f"{part.folder}: {fault}: make it again, which keeps what is whole")
