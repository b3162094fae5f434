# SPDX-License-Identifier: Apache-2.0
"""Multi-ACCDDOA and its loss: auxiliary duplicating permutation-invariant training.

Each class has three tracks of (x, y, z, distance): the vector's length says whether something sounds.
Shimada et al. 2022 (arXiv 2110.07124), with the distance of Krause et al. 2024 (arXiv 2403.11827).
"""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from spatial_core.typing import Array, Float, Int

TRACKS = 3
# For n sources of a class at a time, which of them each of the three tracks may answer: every
# assignment that leaves none out. 1, 6 and 6 of them; one that answers zeros where nothing sounds.
ARRANGEMENTS = tuple(
    (count, order)
    for count in (1, 2, 3)
    for order in itertools.product(range(count), repeat=TRACKS)
    if len(set(order)) == count
)


def adpit_loss(
    answer: Float[Array, "*b 3 4 c"],
    target: Float[Array, "*b 3 4 c"],
    count: Int[Array, "*b c"],
    distance_weight: float = 1.0,
) -> Float[Array, "*b c"]:
    """Squared error of each frame and class under its best arrangement, mean over tracks and axes.

    target: the class's sources in the first `count` (0 to 3) places of the tracks, zeros in the rest.
    distance_weight: of squared metres beside squared components of unit vectors; 1 in the baseline.
    """
    weight = jnp.asarray([1.0, 1.0, 1.0, distance_weight])[:, None]
    # [*b, answering track, source, c]
    error = jnp.square(answer[..., :, None, :, :] - target[..., None, :, :, :])
    error = (error * weight).mean(-2)
    silent = error[..., 0, :].mean(-2)  # all places hold zeros; any is as good
    losses = [
        jnp.where(
            jnp.maximum(count, 1) == sources,
            sum(error[..., track, place, :] for track, place in enumerate(order)) / TRACKS,
            jnp.inf,
        )
        for sources, order in ARRANGEMENTS
    ]
    best = jnp.min(jnp.stack(losses), axis=0)
    return jnp.where(count == 0, silent, best)


def unify(
    answer: NDArray[np.floating], threshold: float = 0.5, same: float = 15.0
) -> list[tuple[int, int, NDArray[np.float64], float]]:
    """What sounds, of answers [n, 3, 4, c]: (frame, class, unit vector [3], distance in metres).

    threshold: length from which a track is active. same: degrees below which active tracks of a class
    are one source and are averaged, as the baseline does: pairs are compared as (0, 1), (1, 2), (2, 0);
    with two or more pairs alike all three are one.
    """
    found = []
    vectors = np.moveaxis(np.asarray(answer, np.float64), -1, 1)  # [n, c, 3, 4]
    active = np.linalg.norm(vectors[..., :3], axis=-1) > threshold
    for frame, name in np.argwhere(active.any(-1)):
        tracks = vectors[frame, name]
        for group in _groups(tracks[:, :3], active[frame, name], same):
            mean = tracks[group].mean(0)
            length = np.linalg.norm(mean[:3])
            if length > 0:
                metres = max(float(np.maximum(tracks[group, 3], 0).mean()), 0.0)
                found.append((int(frame), int(name), mean[:3] / length, metres))
    return found


def _groups(vectors: NDArray, active: NDArray, same: float) -> list[list[int]]:
    """Active tracks, those alike together."""
    alike = [
        (i, j)
        for i, j in ((0, 1), (1, 2), (2, 0))
        if active[i] and active[j] and _angle(vectors[i], vectors[j]) < same
    ]
    if len(alike) >= 2:
        return [[0, 1, 2]]
    joined = [list(alike[0])] if alike else []
    taken = set(itertools.chain(*joined))
    return joined + [[i] for i in range(TRACKS) if active[i] and i not in taken]


def _angle(a: NDArray, b: NDArray) -> float:
    """Degrees between two vectors of some length."""
    cosine = a @ b / np.sqrt((a @ a) * (b @ b))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
