# SPDX-License-Identifier: Apache-2.0
"""A scene to try the describer with: simulated, held out from its training, with its truth."""

from __future__ import annotations

from sciphi.records import Scene
from sciphi.rooms import FoaRoomConfig
from sciphi.scenes import FoaSceneConfig, FoaScenes
from spatial_core.sim.rooms import RoomConfig

# The rooms and scenes of gin/experiments/sciphi_scenes.gin, a room for each scene.
ROOMS = RoomConfig(
    min_dimensions=(4.0, 4.0, 3.0),
    max_dimensions=(25.0, 25.0, 6.0),
    min_rt60=0.15,
    max_rt60=0.8,
    rt60_scale=1e9,
)
SCENES = FoaSceneConfig(
    seconds=5.0, max_sources=3, room=FoaRoomConfig(rooms=ROOMS), scenes_per_room=1
)


def make_example(seed: int = 0) -> Scene:
    """A scene of 5 s with up to three sources, ACN/SN3D at 24 kHz: a pure function of the seed."""
    return FoaScenes(SCENES, seed, "test")(0)
