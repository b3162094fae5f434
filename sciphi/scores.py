# SPDX-License-Identifier: Apache-2.0
"""Scores of many answers: the headline (the mean over source counts), and how they depend on the scene.

A metric of scenes is a mean over scenes, one of sources a mean over sources, within each number of true
sources; the headline is the plain mean over those numbers, as in the paper's tables.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sciphi.metrics import (
    ALL,
    BY_KEY,
    VIEWS,
    Answer,
    SceneScore,
    View,
    labels_of,
    score_scene,
    signal_to_noise,
    source_alikeness,
)
from sciphi.records import SceneTruth
from sciphi.similarity import Similarity
from spatial_core.errors import InputError
from spatial_core.eval.bootstrap import NOTHING, Interval, draw

POS: View = ("POS", "matched")
# Of a scene: name of the breakdown -> (what it is, borders between its groups, format of a border).
SNR, REVERB, ALIKE = "SNR", "reverberation", "similarity"
_BREAKDOWNS = {
    SNR: (0.0, 10.0, 20.0, math.inf),
    REVERB: (0.3, 0.6, 1.0),
    ALIKE: (0.25, 0.5, 0.75),
}
_UNITS = {SNR: " dB", REVERB: " s", ALIKE: ""}
NO_BACKGROUND = "no background"


@dataclass(frozen=True)
class Group:
    """Some of the scenes: how many, and the mean of each metric (POS, matched); nan for none."""

    scenes: int
    means: dict[str, float]


@dataclass(frozen=True)
class Scores:
    """What a system's answers are worth.

    headline: mean over source counts with 95% bootstrap intervals over scenes, by view and metric.
    counts: number of true sources -> view -> metric -> mean, and `scenes` how many have it. breakdowns: by
    SNR, reverberation and how alike the sources are. sources, said, missed, extra: over all scenes.
    problems: answers of which some part could not be read. unread: matched sources by field. angles: degrees
    between what was said and the unrounded direction, for pictures.
    """

    headline: dict[View, dict[str, Interval]]
    counts: dict[int, dict[View, dict[str, float]]]
    scenes: dict[int, int]
    breakdowns: dict[str, dict[str, Group]]
    sources: int
    said: int
    missed: int
    extra: int
    problems: int
    unread: dict[str, int]
    angles: NDArray[np.float64] = field(repr=False, compare=False)

    @property
    def answers(self) -> int:
        """How many scenes were answered."""
        return sum(self.scenes.values())


def score(
    answers: Sequence[Answer], truths: Sequence[SceneTruth], similarity: Similarity, seed: int = 0
) -> Scores:
    """Scores of one system's answers. Raises InputError unless there is one for each truth."""
    if len(answers) != len(truths) or not truths:
        raise InputError(
            f"{len(answers)} answers for {len(truths)} scenes: need one each, and a scene"
        )
    similarity.prepare(labels_of(answers, truths))
    scored = [score_scene(a, t, similarity) for a, t in zip(answers, truths, strict=True)]
    by_count: dict[int, list[SceneScore]] = {}
    for one in scored:
        by_count.setdefault(one.sources, []).append(one)
    by_count = dict(sorted(by_count.items()))
    keys = [metric.key for metric in ALL]
    groups = [_Drawn(some, draw(np.arange(len(some)), seed).counts) for some in by_count.values()]
    return Scores(
        headline={view: {key: _headline(groups, view, key) for key in keys} for view in VIEWS},
        counts={n: {view: _means(some, view) for view in VIEWS} for n, some in by_count.items()},
        scenes={n: len(some) for n, some in by_count.items()},
        breakdowns=_breakdowns(scored, truths, similarity),
        sources=sum(one.sources for one in scored),
        said=sum(one.said for one in scored),
        missed=sum(one.missed for one in scored),
        extra=sum(one.extra for one in scored),
        problems=sum(bool(one.problems) for one in scored),
        unread=_sums([one.unread for one in scored]),
        angles=np.asarray([value for one in scored for value in one.views[POS]["angle"]]),
    )


def _values(one: SceneScore, view: View, key: str) -> list[float]:
    if not BY_KEY[key].scene:
        return one.views[view][key]
    return [] if math.isnan(one.scene[key]) else [one.scene[key]]


def _means(some: Sequence[SceneScore], view: View) -> dict[str, float]:
    means = {}
    for metric in ALL:
        values = [value for one in some for value in _values(one, view, metric.key)]
        means[metric.key] = float(np.mean(values)) if values else math.nan
    return means


@dataclass(frozen=True)
class _Drawn:
    """The scenes of one number of sources, and how often each is in each resample [resamples, n]."""

    scenes: Sequence[SceneScore]
    counts: NDArray[np.float64]


def _headline(groups: Sequence[_Drawn], view: View, key: str) -> Interval:
    """Mean over groups of the mean within each, scenes resampled within their group."""
    means, replicates, count = [], [], 0
    for group in groups:
        values = [_values(one, view, key) for one in group.scenes]
        sums = np.asarray([sum(some) for some in values])
        sizes = np.asarray([len(some) for some in values], np.float64)
        if not sizes.sum():
            continue
        means.append(float(sums.sum() / sizes.sum()))
        count += int(sizes.sum())
        with np.errstate(invalid="ignore"):  # a resample may hold no value at all
            replicates.append((group.counts @ sums) / (group.counts @ sizes))
    if not means:
        return NOTHING
    low, high = np.nanquantile(np.mean(replicates, axis=0), [0.025, 0.975])
    return Interval(float(np.mean(means)), float(low), float(high), count)


def _breakdowns(
    scored: Sequence[SceneScore], truths: Sequence[SceneTruth], similarity: Similarity
) -> dict[str, dict[str, Group]]:
    of_scene = {
        SNR: [signal_to_noise(truth) for truth in truths],
        REVERB: [truth.rt60 for truth in truths],
        ALIKE: [source_alikeness(truth, similarity) for truth in truths],
    }
    out: dict[str, dict[str, Group]] = {}
    for name, borders in _BREAKDOWNS.items():
        group = np.digitize(of_scene[name], borders)
        out[name] = {}
        for n, title in enumerate(_titles(borders, _UNITS[name])):
            some = [
                one
                for one, where, value in zip(scored, group, of_scene[name])
                if where == n and not math.isnan(value)
            ]
            if some:
                out[name][title] = Group(len(some), _means(some, POS))
    return out


def _titles(borders: Sequence[float], unit: str) -> list[str]:
    """Names of the groups that borders make: below, between, from."""
    finite = [border for border in borders if math.isfinite(border)]
    titles = [f"below {finite[0]:g}{unit}"]
    titles += [f"{low:g} to {high:g}{unit}" for low, high in itertools.pairwise(finite)]
    titles.append(f"from {finite[-1]:g}{unit}")
    return titles + [NO_BACKGROUND] * (len(finite) < len(borders))


def _sums(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {key: sum(one[key] for one in counts) for key in counts[0]} if counts else {}
