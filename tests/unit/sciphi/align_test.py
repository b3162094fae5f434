# SPDX-License-Identifier: Apache-2.0
"""What the projector of spatial tokens learns to say before a training: words of zones."""

from __future__ import annotations

import numpy as np
import pytest

from sciphi.align import zone_weights, zone_words
from sciphi.records import SourceTruth
from sciphi.zones import ZONES_26


def source(onset: float, offset: float, azimuth: float, elevation: float) -> SourceTruth:
    return SourceTruth(
        "a bell", "event", "bell", None, onset, offset, azimuth, elevation, 2.0, -30.0, 10.0
    )


def test_a_source_says_its_zone_while_it_sounds_and_nobody_is_named_else() -> None:
    weights = zone_weights([source(1.0, 2.0, -135.0, 45.0)], 50)
    assert weights.shape == (50, 27)
    sounding = np.arange(10, 20)  # the tokens of 1.0 to 2.0 s
    names = [ZONES_26.names[n] for n in weights[sounding, :-1].argmax(axis=1)]
    assert set(names) == {"upper back-right"}
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    assert np.flatnonzero(weights[:, -1] == 0).tolist() == sounding.tolist()


def test_a_direction_between_two_zones_says_both_alike_and_two_sources_say_two() -> None:
    between = zone_weights([source(0.0, 5.0, 22.5, 0.0)], 1)[0]
    front, left = (ZONES_26.names.index(f"horizontal {name}") for name in ("front", "front-left"))
    assert between[front] == pytest.approx(between[left]) and between[front] > 0.4
    both = zone_weights([source(0.0, 5.0, 0.0, 0.0), source(0.0, 5.0, 180.0, 0.0)], 1)[0]
    back = ZONES_26.names.index("horizontal back")
    assert both.sum() == pytest.approx(2.0) and both[front] == pytest.approx(both[back])


def test_zones_are_named_as_in_a_description() -> None:
    class Letters:
        def encode(self, text: str) -> list[int]:
            return [ord(letter) for letter in text]

    words = zone_words(Letters())  # type: ignore[arg-type]
    texts = ["".join(map(chr, ids)) for ids in words]
    assert len(texts) == 27 and texts[0] == " horizontal front" and texts[-1] == " none"
