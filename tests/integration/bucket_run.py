# SPDX-License-Identifier: Apache-2.0
"""Trains the toy in a fake bucket, in a process of its own: python -m tests.integration.bucket_run FOLDER"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path


def main(root: Path) -> None:
    from tests.integration import fake_bucket

    fake_bucket.start(root)
    from spatial_core.errors import InputError
    from spatial_core.io import places
    from spatial_core.train.checkpoint import Checkpoints, tree_digest
    from spatial_core.train.config import TrainConfig
    from spatial_core.train.loop import train
    from spatial_core.train.optim import OptimizerConfig
    from tests.unit.train.toy import ToyStream, ToyTask

    config = TrainConfig(
        task=ToyTask(),
        data=ToyStream(),
        steps=6,
        optimizer=OptimizerConfig(peak_lr=1e-2, warmup_steps=1, decay_steps=6),
        log_every=1,
        checkpoint_every=2,
    )
    address = "gs://a-bucket/runs/toy"
    digests = {"here": tree_digest(train(config, root / "here").state)}
    digests["bucket"] = tree_digest(train(config, address).state)
    saved = Checkpoints(places.place(address)).steps()
    for path in (root / "a-bucket" / "runs" / "toy" / "checkpoints" / "00000006").rglob("*"):
        if path.is_file() and "state" in path.parts and path.stat().st_size > 100:
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    digests["repaired"] = tree_digest(train(config, address).state)
    refused = {}
    other = dataclasses.replace(config, seed=1)
    for name, asked, where in (
        ("other experiment", other, address),
        ("no bucket", config, "gs://no-bucket/runs/toy"),
    ):
        try:
            train(asked, where)
        except InputError as error:
            refused[name] = str(error)
    print(json.dumps({"digests": digests, "steps": saved, "refused": refused}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
