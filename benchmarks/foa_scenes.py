# SPDX-License-Identifier: Apache-2.0
"""What Ambisonic scenes cost: processor seconds of a room, of a scene, and of writing it.

    OMP_NUM_THREADS=1 python benchmarks/foa_scenes.py --seconds=10 --max_sources=4

Time is the process's own, so that other work on the machine does not count. Scenes are of the settings
of gin/sciphi/scenes.gin, with the sounds that ship.
"""

from __future__ import annotations

import time

from absl import app, flags

from sciphi.rooms import make_room
from sciphi.scene_record import encode
from sciphi.scenes import FoaSceneConfig, FoaScenes

_SECONDS = flags.DEFINE_float("seconds", 5.0, "Length of a scene.")
_MAX_SOURCES = flags.DEFINE_integer("max_sources", 3, "Most sources of a scene.")
_ROOMS = flags.DEFINE_integer("rooms", 12, "Rooms.")
_SCENES = flags.DEFINE_integer("scenes", 8, "Scenes that share a room.")


def main(argv: list[str]) -> None:
    """Print the means."""
    del argv
    config = FoaSceneConfig(
        seconds=_SECONDS.value, max_sources=_MAX_SOURCES.value, scenes_per_room=_SCENES.value
    )
    scenes = FoaScenes(config)
    encode(scenes(0))  # compiles, and decodes the corpus
    count = _ROOMS.value * _SCENES.value
    start = time.process_time()
    for number in range(1, _ROOMS.value + 1):
        make_room(config.room, 0, "train", number)
    rooms = time.process_time() - start
    start = time.process_time()
    made = [scenes(_SCENES.value + index) for index in range(count)]
    simulated = time.process_time() - start
    start = time.process_time()
    size = sum(len(encode(scene)) for scene in made)
    written = time.process_time() - start
    print(f"a room with its {config.room.positions} responses  {rooms / _ROOMS.value:.3f} s")
    print(f"a scene, with its share of a room  {simulated / count:.3f} s")
    print(f"writing it  {written / count:.3f} s, {size / count / 1e3:.0f} kB")
    print(f"scenes a second on one core  {count / (simulated + written):.1f}")


if __name__ == "__main__":
    app.run(main)
