# SPDX-License-Identifier: Apache-2.0
"""Means, rates and the time left, on a clock under control."""

from __future__ import annotations

import math

import pytest

from spatial_core.train import activity as activity_module
from spatial_core.train.activity import Activity
from spatial_core.train.meter import Meter


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    fake = Clock()
    monkeypatch.setattr(activity_module, "time", fake)
    return fake


def test_means_rates_and_time_left(clock):
    activity = Activity()
    meter = Meter(10, 20, activity)
    clock.now += 60  # the compilation counts for nothing
    meter.add(1, {"loss": 4.0}, True)
    for step in range(2, 6):
        with activity.doing("data", "a batch"):
            clock.now += 0.5
        clock.now += 1.5
        meter.add(step, {"loss": 2.0 if step < 5 else math.nan}, step < 5)
    means, left = meter.record(5)
    assert means["loss"] == pytest.approx((4 + 2 + 2 + 2) / 4)
    assert means["examples_per_second"] == pytest.approx(4 * 10 / 8)
    assert means["data_wait"] == pytest.approx(0.25)
    assert left == pytest.approx(15 * 2.0)


def test_validation_does_not_count_as_training_time(clock):
    activity = Activity()
    meter = Meter(10, 20, activity)
    meter.add(1, {}, True)
    with activity.doing("evaluation", "validation"):
        clock.now += 20
        with activity.doing("checkpoint", "the best"):
            clock.now += 10
    clock.now += 2
    meter.add(2, {}, True)
    means, left = meter.record(2)
    assert means["examples_per_second"] == pytest.approx(5) and left == pytest.approx(36)


def test_the_first_step_alone_tells_no_rate(clock):
    meter = Meter(10, 20, Activity())
    clock.now += 60
    meter.add(1, {"loss": 1.0}, True)
    means, left = meter.record(1)
    assert means == {"loss": 1.0} and math.isnan(left)


def test_the_shares_of_all_kinds_are_the_wall_time(clock):
    activity = Activity()
    clock.now += 1
    with activity.doing("compile", "step 1"):
        clock.now += 4
    for _ in range(3):
        with activity.doing("data", "a batch"):
            clock.now += 1
        with activity.doing("compute", "a step"):
            clock.now += 3
    with activity.doing("evaluation", "validation"):
        clock.now += 1
        with activity.doing("checkpoint", "the best"):
            clock.now += 2
        clock.now += 0
    assert activity.seconds() == {
        "compute": 9, "data": 3, "checkpoint": 2, "evaluation": 1, "compile": 4, "other": 1
    }  # fmt: skip
    assert sum(activity.shares().values()) == pytest.approx(1)
    assert activity.describe() == (
        "compute 45%, data wait 15%, checkpoint 10%, evaluation 5%, compile 20%, other 5%"
    )
