# SPDX-License-Identifier: Apache-2.0
"""Metrics against hand-worked values, exact matching against all permutations, and the paper's own sums."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from sciphi import published
from sciphi.matching import assign, match_pom, match_pos
from sciphi.metrics import BY_KEY, METRICS, SOURCE_METRICS, score_scene, signal_to_noise
from sciphi.pairs import compare, compare_pair
from sciphi.records import SceneTruth, SourceTruth
from sciphi.schema import SceneDescription, Source, describe_truth
from sciphi.scores import POS, score
from sciphi.similarity import SharedWords, load_similarity
from sciphi.text_format import parse_text, to_text
from sciphi.zones import ZONES_15
from spatial_core.errors import InputError

WORDS = SharedWords()
PENALISED = ("POS", "penalised")


def truth_source(label="dog barking", azimuth=0.0, words=None, **values) -> SourceTruth:
    kind = "event" if words is None else "speech"
    given = dict(onset=0.0, offset=4.0, elevation=0.0, distance=2.0, loudness=-30.0, c50=10.0)
    return SourceTruth(label, kind, label, words, azimuth=azimuth, **{**given, **values})


def scene(*sources: SourceTruth, background="rain", level=-50.0, volume=400.0, rt60=0.5):
    return SceneTruth(volume, rt60, background, level if background else None, sources)


def random_scene(seed: int, count: int) -> SceneTruth:
    rng = np.random.default_rng(seed)
    labels = ["dog barking", "bell", "English male speech", "dog howling", "glass breaking"]
    sources = []
    for _ in range(count):
        label = str(rng.choice(labels))
        sources.append(
            truth_source(
                label,
                float(rng.uniform(-179, 180)),
                "one two three" if "speech" in label else None,
                elevation=float(rng.uniform(-90, 90)),
                distance=float(rng.uniform(0.5, 9)),
                onset=float(rng.uniform(0, 4)),
                offset=float(rng.uniform(5, 10)),
                loudness=float(rng.uniform(-60, -20)),
            )
        )
    return scene(*sources, background="rain" if seed % 3 else None)


def test_there_are_fifteen() -> None:
    assert len(METRICS) == 15
    assert set(published.table()["Sci-Phi, simulated"]) == {metric.key for metric in METRICS}


def test_a_perfect_answer_has_no_error_however_it_is_matched() -> None:
    truths = [random_scene(seed, 1 + seed % 4) for seed in range(12)]
    answers = [parse_text(to_text(describe_truth(truth))) for truth in truths]
    scores = score(answers, truths, WORDS)
    for view, row in scores.headline.items():
        for metric in METRICS:
            best = 1.0 if metric.better == "high" else 0.0
            assert row[metric.key].value == pytest.approx(best, abs=1e-12), (view, metric.key)
    assert (scores.missed, scores.extra, scores.problems) == (0, 0, 0)
    # Zones of 45 degrees: nothing is more than 32 degrees from its centre.
    assert 5 < scores.headline[POS]["angle"].value < 30


def test_zones_of_15_degrees_are_scored_on_the_grid_of_26() -> None:
    truths = [random_scene(seed, 2) for seed in range(20)]
    fine = [parse_text(to_text(describe_truth(truth, ZONES_15))) for truth in truths]
    coarse = [parse_text(to_text(describe_truth(truth))) for truth in truths]
    a, b = score(fine, truths, WORDS), score(coarse, truths, WORDS)
    # A fine zone that straddles a border of the coarse grid belongs to one side only.
    assert a.headline[POS]["xyz"].value > 0.6
    assert a.headline[POS]["angle"].value < 0.6 * b.headline[POS]["angle"].value


def test_a_pair_worked_by_hand() -> None:
    said = Source("dog howling", 1.0, 5.0, "upper front-left", 3.0, -33, 12)
    true = Source("dog barking", 0.0, 4.0, "horizontal front", 2.0, -30, 10)
    values = compare_pair(said, true, WORDS)
    # One of two words each: Dice 1/2. 45 degrees up and to the left: cos = cos 45 cos 45 = 1/2.
    assert values["label"] == 0.5
    assert values["zone"] == pytest.approx(60)
    assert (values["xyz"], values["xy"], values["z"]) == (0, 0, 0)
    assert values["distance"] == pytest.approx(0.5)
    assert values["iou"] == pytest.approx(3 / 5)
    assert (values["loudness"], values["c50"]) == (3, 2)
    assert math.isnan(values["wer"])
    where = ((1 - 60 / 180) + (1 - 0.5)) / 2
    assert values["tuple"] == pytest.approx((0.5 * where * 0.6) ** (1 / 3))


def test_words_halve_what_a_label_is_worth() -> None:
    said = Source("English female speech with transcript 'good day'", 0, 4, "above", 2, -30, 10)
    true = Source(
        "English female speech with transcript 'Good morning!'", 0, 4, "above", 2, -30, 10
    )
    values = compare_pair(said, true, WORDS)
    assert values["wer"] == 0.5 and values["label"] == 1
    assert values["tuple"] == pytest.approx(((1 + 1 - 0.5) / 2) ** (1 / 3))
    # Above there are no sectors.
    assert math.isnan(values["xy"]) and values["z"] == 1


def test_levels_and_sectors_are_scored_apart() -> None:
    true = Source("bell", 0, 4, "upper left", 2, -30, 10)
    for zone, expected in {
        "upper left": (1, 1, 1),
        "upper right": (0, 0, 1),
        "lower left": (0, 1, 0),
        "above": (0, 0, 0),
    }.items():
        values = compare_pair(Source("bell", 0, 4, zone, 2, -30, 10), true, WORDS)
        assert (values["xyz"], values["xy"], values["z"]) == expected, zone


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (2, 3), (3, 3), (4, 4)])
def test_assignment_is_the_best_of_all(shape) -> None:
    rng = np.random.default_rng(shape)
    for _ in range(20):
        values = rng.uniform(size=shape)
        rows, columns = shape
        small, large = min(shape), max(shape)
        best = max(
            sum(values[(n, m) if rows <= columns else (m, n)] for n, m in enumerate(chosen))
            for chosen in itertools.permutations(range(large), small)
        )
        assert sum(values[pair] for pair in assign(values)) == pytest.approx(best)


def test_pos_is_one_assignment_and_pom_the_best_for_each_metric() -> None:
    better_somewhere = set()
    for seed in range(40):
        truth, other = random_scene(seed, 1 + seed % 4), random_scene(seed + 100, 1 + seed // 4 % 4)
        answer = (describe_truth(other), ())
        one = score_scene(answer, truth, WORDS)
        for metric in SOURCE_METRICS:
            pos, pom = (one.views[name, "matched"][metric.key] for name in ("POS", "POM"))
            if not pos or len(pos) != len(pom):
                continue
            sign = 1 if metric.better == "high" else -1
            assert sign * sum(pom) >= sign * sum(pos) - 1e-9
            if sign * sum(pom) > sign * sum(pos) + 1e-9:
                better_somewhere.add(metric.key)
    assert {"zone", "label", "distance", "loudness"} <= better_somewhere


def test_pos_maximises_the_tuple_score_and_decides_ties_by_the_parts() -> None:
    # No time in common with either, so both TupleScores are 0: the direction decides.
    said = [Source("bell", 8, 9, "horizontal left", 2, -30, 10)]
    true = [
        Source("bell", 0, 1, "horizontal right", 2, -30, 10),
        Source("bell", 0, 1, "horizontal left", 2, -30, 10),
    ]
    pairs = compare(said, true, WORDS)
    assert pairs.values["tuple"].max() == 0
    assert match_pos(pairs) == ((0, 1),)
    assert match_pom(pairs, "zone", "low") == ((0, 1),)
    assert match_pom(pairs, "wer", "low") == ()


def test_misses_and_inventions_are_the_worst_when_penalised() -> None:
    dog = truth_source("dog barking", 0.0)
    talker = truth_source("English male speech", 90.0, "one two")
    one_of_two = SceneDescription(400, 0.5, None, describe_truth(scene(dog)).sources)
    scores = score([(one_of_two, ())], [scene(dog, talker)], WORDS)
    matched, penalised = scores.headline[POS], scores.headline[PENALISED]
    assert (matched["xyz"].value, penalised["xyz"].value) == (1, 0.5)
    assert (matched["zone"].value, penalised["zone"].value) == (0, 90)  # 0 and 180
    assert (matched["tuple"].value, penalised["tuple"].value) == (pytest.approx(1), 0.5)
    assert (matched["wer"].count, penalised["wer"].value) == (0, 1)
    assert penalised["loudness"].value == matched["loudness"].value == 0
    assert (scores.missed, scores.extra) == (1, 0)
    assert matched["count"].value == 0
    assert matched["noise"].value == 0  # rain, and none was said
    # The same with one too many.
    both = SceneDescription(400, 0.5, None, describe_truth(scene(dog, talker)).sources)
    scores = score([(both, ())], [scene(dog, background=None)], WORDS)
    assert scores.headline[PENALISED]["xyz"].value == 0.5
    assert scores.headline[PENALISED]["wer"].value == 1
    assert (scores.missed, scores.extra) == (0, 1)
    assert scores.headline[POS]["noise"].value == 1  # none in both


def test_what_could_not_be_read_is_wrong_but_has_no_error() -> None:
    truth = scene(truth_source(azimuth=90.0))
    said = dataclasses.replace(
        describe_truth(truth).sources[0], zone=None, distance=None, loudness=None
    )
    scores = score([(SceneDescription(None, None, None, (said,)), ("x",))], [truth], WORDS)
    row = scores.headline[POS]
    assert row["xyz"].value == 0 and row["tuple"].value == 0
    for key in ("zone", "distance", "loudness", "volume", "rt60"):
        assert row[key].count == 0
    assert scores.headline[PENALISED]["zone"].value == 180
    assert scores.unread == {"zone": 1, "onset": 0, "distance": 1, "loudness": 1, "c50": 0}
    assert scores.problems == 1


def test_room_and_background_worked_by_hand() -> None:
    truth = scene(truth_source(), volume=400.0, rt60=0.5)
    said = parse_text(
        "room_volume=1600m^3; RT60=0.2s; n_src=0. noise_label: heavy rain;noise_loudness=-47dB. "
        "Sound label: (time, direction, distance, loudness, C50): ."
    )
    values = score_scene(said, truth, WORDS).scene
    assert values["volume"] == 2.0
    assert values["rt60"] == pytest.approx(0.3)
    assert values["noise"] == pytest.approx(2 / 3)
    assert values["noise_level"] == 3
    assert values["count"] == 0


def test_the_headline_is_the_mean_over_counts() -> None:
    # Of 1 source ten scenes, of 2 one: the mean over scenes would hide the second.
    truths = [scene(truth_source())] * 10 + [scene(truth_source(), truth_source("bell", 90.0))]
    answers = [(describe_truth(truth), ()) for truth in truths]
    answers[-1] = (SceneDescription(None, None, None), ())
    scores = score(answers, truths, WORDS)
    for view, row in scores.headline.items():
        for metric in METRICS:
            means = [scores.counts[n][view][metric.key] for n in (1, 2)]
            known = [mean for mean in means if not math.isnan(mean)]
            if known:
                assert row[metric.key].value == pytest.approx(np.mean(known))
    assert scores.headline[POS]["count"].value == 0.5
    # And so it is in the paper's table, rounded there to 0.1%.
    mean = np.mean(list(published.COUNT_BY_SOURCES.values()))
    assert mean == pytest.approx(published.table()["Sci-Phi, simulated"]["count"], abs=0.001)


def test_breakdowns_hold_every_scene_once() -> None:
    truths = [random_scene(seed, 1 + seed % 4) for seed in range(24)]
    scores = score([(describe_truth(truth), ()) for truth in truths], truths, WORDS)
    for name in ("SNR", "reverberation"):
        assert sum(group.scenes for group in scores.breakdowns[name].values()) == 24
    assert sum(group.scenes for group in scores.breakdowns["similarity"].values()) == 18
    assert scores.breakdowns["SNR"]["no background"].scenes == 8
    two = scene(truth_source(loudness=-30.0), truth_source(loudness=-30.0), level=-40.0)
    assert signal_to_noise(two) == pytest.approx(13.01, abs=0.01)  # 10 dB, and 3 for two


def test_intervals_hold_the_value_and_do_not_depend_on_the_call() -> None:
    truths = [random_scene(seed, 1 + seed % 4) for seed in range(30)]
    answers = [(describe_truth(random_scene(seed + 50, 1 + seed % 3)), ()) for seed in range(30)]
    first, second = score(answers, truths, WORDS), score(answers, truths, WORDS)
    assert first == second
    for interval in first.headline[POS].values():
        assert interval.low <= interval.value <= interval.high


def test_shared_words() -> None:
    assert WORDS("A dog, barking!", "a dog barking") == 1
    assert WORDS("the dog", "a dog") == 1
    assert WORDS("dog barking", "glass breaking") == 0
    with pytest.raises(InputError, match="choose auto, embedding or words"):
        load_similarity("clap")  # type: ignore[arg-type]


def test_answers_and_scenes_must_be_as_many() -> None:
    with pytest.raises(InputError, match="0 answers for 1 scenes"):
        score([], [scene(truth_source())], WORDS)
    assert BY_KEY["wer"].worst == 1.0
