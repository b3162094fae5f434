# SPDX-License-Identifier: Apache-2.0
"""The classes and functions that gin files may name."""

from __future__ import annotations

import importlib

from spatial_core.config import gin_setup

# module -> names. A gin file refers to them by name alone; every name is therefore unique.
CONFIGURABLES: dict[str, tuple[str, ...]] = {
    "spatial_core.train.config": ("TrainConfig",),
    "spatial_core.train.optim": ("OptimizerConfig",),
    "spatial_core.train.partition": ("MeshConfig",),
    "spatial_core.geometry.arrays": ("load_array",),
    "spatial_core.sim.rooms": ("RoomConfig",),
    "spatial_core.sim.scene": ("SceneConfig",),
    "spatial_core.data.pipeline": ("SceneStream",),
    "spatial_core.data.sources": ("SourceSpec",),
    "phasecoder.task": ("PhaseCoderTask",),
    "phasecoder.paper": ("PaperConfig",),
    "phasecoder.plus": ("PlusConfig",),
    "phasecoder.relative": ("RelativeConfig",),
}


def register_all() -> None:
    """Imports the modules above and makes their names known to gin."""
    for module, names in CONFIGURABLES.items():
        loaded = importlib.import_module(module)
        gin_setup.register(*(getattr(loaded, name) for name in names))
