# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/sharding anew: what of which experiment lies where on the four chips of a v5p-8.

    python tests/golden/make_sharding.py

Read the difference before you keep it: an array that is whole where it was split costs its full size on
each chip, and its gradient and two moments as well.
"""

from __future__ import annotations

from pathlib import Path

from launch import configurables
from launch.modes import ROOTS
from spatial_core.config import gin_setup
from spatial_core.train.sharding_table import sharding_table

FOLDER = Path(__file__).parent / "sharding"
DEVICES = 4
# Name of the table -> gin files and overrides.
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "phasecoder_m": (("experiments/phasecoder_paper_m.gin",), ()),
    "phasecoder_m_fsdp": (
        ("experiments/phasecoder_paper_m.gin", "hardware/fsdp.gin"),
        ("TrainConfig.mesh = @MeshConfig()", "FSDP = 4"),
    ),
    "sciphi_seldnet": (("experiments/sciphi_seldnet.gin",), ()),
    "sciphi_phi4": (("experiments/sciphi_phi4.gin",), ()),
    "gemma3n_e4b": (("experiments/bridge_gemma3n_e4b.gin",), ("PARTS = 2",)),
}


def table(name: str) -> str:
    """The table of a training, as its gin files are now."""
    files, bindings = TABLES[name]
    configurables.register_all()
    gin_setup.parse(files, bindings, roots=ROOTS)
    return sharding_table(gin_setup.build("TrainConfig"), DEVICES)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in TABLES:
        (FOLDER / f"{name}.txt").write_text(table(name), encoding="utf-8")


if __name__ == "__main__":
    main()
