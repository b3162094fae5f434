# SPDX-License-Identifier: Apache-2.0
"""The 15 metrics of Sci-Phi for one scene: an answer against the description that the truth deserves.

Numbers are compared with the truth on the steps of the text form, so that a perfect answer has no error;
"angle" alone, which is not one of the 15, is against the unrounded direction. Every metric of a source is
had in four ways: matched by POS or POM (`sciphi.matching`), and over matched sources only ("matched") or with
every source that is missed, or that is not there, counting as the worst ("penalised"; loudness and C50 have
no worst value and stay as they are). A value that could not be read is wrong where right and wrong are
counted, is left out of "matched" errors, and is the worst in "penalised" ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from sciphi.matching import Matching, match_pom, match_pos
from sciphi.pairs import Pairs, compare, has_words, sector
from sciphi.records import SceneTruth
from sciphi.schema import (
    UNKNOWN,
    Background,
    SceneDescription,
    Source,
    describe_source,
    describe_truth,
)
from sciphi.similarity import Similarity

Answer = tuple[SceneDescription, tuple[str, ...]]  # what `parse_text` returns
View = tuple[Literal["POS", "POM"], Literal["matched", "penalised"]]
VIEWS: tuple[View, ...] = (
    ("POS", "matched"),
    ("POS", "penalised"),
    ("POM", "matched"),
    ("POM", "penalised"),
)


@dataclass(frozen=True)
class Metric:
    """A metric: its key, title and unit for tables, which values are better, and the worst one.

    scene: one value for a scene instead of one for a source. worst: what a source counts that is missed or
    not there, None if there is no such value. scale: times which it is shown. extra: not of the 15.
    """

    key: str
    title: str
    unit: str
    better: Literal["high", "low"]
    worst: float | None = None
    scene: bool = False
    digits: int = 2
    scale: float = 1.0
    extra: bool = False


METRICS: tuple[Metric, ...] = (
    Metric("volume", "room volume", " log2", "low", scene=True, digits=3),
    Metric("rt60", "RT60", " s", "low", scene=True, digits=3),
    Metric("noise", "background label", "", "high", scene=True, digits=3),
    Metric("count", "count", "%", "high", scene=True, digits=1, scale=100),
    Metric("tuple", "TupleScore", "", "high", 0.0, digits=3),
    Metric("label", "label", "", "high", 0.0, digits=3),
    Metric("wer", "WER", "", "low", 1.0, digits=3),
    Metric("xyz", "XYZ", "%", "high", 0.0, digits=1, scale=100),
    Metric("xy", "XY", "%", "high", 0.0, digits=1, scale=100),
    Metric("z", "Z", "%", "high", 0.0, digits=1, scale=100),
    Metric("zone", "zone error", "°", "low", 180.0, digits=1),
    Metric("distance", "distance", "", "low", 1.0, digits=3),
    Metric("iou", "time IoU", "", "high", 0.0, digits=3),
    Metric("loudness", "loudness", " dB", "low"),
    Metric("c50", "C50", " dB", "low"),
)
EXTRAS: tuple[Metric, ...] = (
    Metric("angle", "angle, unrounded", "°", "low", 180.0, digits=1, extra=True),
    Metric("noise_level", "background", " dB", "low", scene=True, extra=True),
)
ALL = (*METRICS, *EXTRAS)
BY_KEY = {metric.key: metric for metric in ALL}
SOURCE_METRICS = tuple(metric for metric in ALL if not metric.scene)
SCENE_METRICS = tuple(metric for metric in ALL if metric.scene)


@dataclass(frozen=True)
class SceneScore:
    """What one answer is worth.

    sources: in the truth; said: in the answer; problems: what of it could not be read. scene: value by
    metric, nan where it does not apply or was not read. views: values of the sources by view and metric.
    unread: sources matched by POS whose value could not be read, by field.
    """

    sources: int
    said: int
    problems: tuple[str, ...]
    scene: dict[str, float]
    views: dict[View, dict[str, list[float]]]
    unread: dict[str, int]

    @property
    def missed(self) -> int:
        """Sources of the truth that nothing in the answer can stand for."""
        return max(0, self.sources - self.said)

    @property
    def extra(self) -> int:
        """Sources of the answer that nothing in the truth can stand for."""
        return max(0, self.said - self.sources)


def reference(truth: SceneTruth) -> SceneDescription:
    """The description that an answer is compared with; sources in the order of the truth."""
    return replace(describe_truth(truth), sources=tuple(map(describe_source, truth.sources)))


def score_scene(answer: Answer, truth: SceneTruth, similarity: Similarity) -> SceneScore:
    """Every metric of one answer."""
    description, problems = answer
    wanted = reference(truth)
    directions = [(source.azimuth, source.elevation) for source in truth.sources]
    pairs = compare(description.sources, wanted.sources, similarity, directions)
    pos = match_pos(pairs)
    views: dict[View, dict[str, list[float]]] = {view: {} for view in VIEWS}
    for metric in SOURCE_METRICS:
        pom = match_pom(pairs, metric.key, metric.better)
        for name, matching in (("POS", pos), ("POM", pom)):
            matched, penalised = _values(pairs, matching, metric)
            views[name, "matched"][metric.key] = matched  # type: ignore[index]
            views[name, "penalised"][metric.key] = penalised  # type: ignore[index]
    return SceneScore(
        sources=len(wanted.sources),
        said=len(description.sources),
        problems=problems,
        scene=_scene_values(description, wanted, similarity),
        views=views,
        unread=_unread(pairs, pos),
    )


def labels_of(answers: Iterable[Answer], truths: Iterable[SceneTruth]) -> set[str]:
    """All labels that will be compared."""
    scenes = [description for description, _ in answers] + [reference(truth) for truth in truths]
    labels = {source.name for scene in scenes for source in scene.sources}
    return labels | {scene.background.label for scene in scenes if scene.background is not None}


def source_alikeness(truth: SceneTruth, similarity: Similarity) -> float:
    """How alike the labels of the two most alike sources of a scene are; nan for fewer than two."""
    names = [describe_source(source).name for source in truth.sources]
    pairs = [similarity(a, b) for n, a in enumerate(names) for b in names[:n]]
    return max(pairs, default=math.nan)


def signal_to_noise(truth: SceneTruth) -> float:
    """Level of all sources together over the background's in dB; infinite without background."""
    if truth.background_loudness is None:
        return math.inf
    power = sum(10 ** (source.loudness / 10) for source in truth.sources)
    return 10 * math.log10(power) - truth.background_loudness if power else -math.inf


def _scene_values(
    said: SceneDescription, truth: SceneDescription, similarity: Similarity
) -> dict[str, float]:
    volume = rt60 = math.nan
    if said.room_volume is not None and truth.room_volume is not None:
        volume = abs(math.log2(said.room_volume / truth.room_volume))
    if said.rt60 is not None and truth.rt60 is not None:
        rt60 = abs(said.rt60 - truth.rt60)
    return {
        "volume": volume,
        "rt60": rt60,
        "noise": _noise(said.background, truth.background, similarity),
        "count": float(len(said.sources) == len(truth.sources)),
        "noise_level": _noise_level(said.background, truth.background),
    }


def _noise(said: Background | None, truth: Background | None, similarity: Similarity) -> float:
    """Similarity of the backgrounds: 1 if there is none in both, 0 if in one only or not read."""
    if said is None or truth is None:
        return float(said is truth)
    if said.label == UNKNOWN:
        return 0.0
    return similarity(said.label, truth.label)


def _noise_level(said: Background | None, truth: Background | None) -> float:
    if said is None or truth is None or said.loudness is None or truth.loudness is None:
        return math.nan
    return abs(said.loudness - truth.loudness)


def _values(pairs: Pairs, matching: Matching, metric: Metric) -> tuple[list[float], list[float]]:
    """Values of matched sources; the same with what is missed, not there or unread as the worst."""
    found = [float(pairs.values[metric.key][pair]) for pair in matching]
    matched = [value for value in found if not math.isnan(value)]
    if metric.worst is None:
        return matched, matched
    penalised = list(matched)
    for (p, t), value in zip(matching, found):
        if math.isnan(value) and _applies(metric.key, pairs.truth[t], pairs.said[p]):
            penalised.append(metric.worst)
    said, truth = {p for p, _ in matching}, {t for _, t in matching}
    rest = [source for n, source in enumerate(pairs.said) if n not in said]
    rest += [source for n, source in enumerate(pairs.truth) if n not in truth]
    worst = sum(_applies(metric.key, source) for source in rest)
    if metric.key != "wer":
        # POM leaves out pairs without a value: one too few on both sides is one wrong, not two.
        worst -= min(worst, len(pairs.said) - len(said), len(pairs.truth) - len(truth))
    return matched, penalised + [metric.worst] * worst


def _applies(key: str, *sources: Source) -> bool:
    """Whether a metric says anything of a source, or of a pair (truth first)."""
    if key == "wer":
        return any(map(has_words, sources))
    return key != "xy" or sector(sources[0].zone) is not None


def _unread(pairs: Pairs, matching: Matching) -> dict[str, int]:
    fields = ("zone", "onset", "distance", "loudness", "c50")
    return {name: sum(getattr(pairs.said[p], name) is None for p, _ in matching) for name in fields}
