# SPDX-License-Identifier: Apache-2.0
"""Means, rates and the time left, on a clock under control."""

from __future__ import annotations

import math

import pytest

from spatial_core.train import meter as meter_module
from spatial_core.train.meter import Meter


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    fake = Clock()
    monkeypatch.setattr(meter_module, "time", fake)
    return fake


def test_means_rates_and_time_left(clock):
    meter = Meter(batch_size=10, total=20)
    clock.now += 60  # the compilation counts for nothing
    meter.add(1, {"loss": 4.0}, True)
    for step in range(2, 6):
        with meter.waiting_for_data():
            clock.now += 0.5
        clock.now += 1.5
        meter.add(step, {"loss": 2.0 if step < 5 else math.nan}, step < 5)
    means, left = meter.record(5)
    assert means["loss"] == pytest.approx((4 + 2 + 2 + 2) / 4)
    assert means["examples_per_second"] == pytest.approx(4 * 10 / 8)
    assert means["data_wait"] == pytest.approx(0.25)
    assert left == pytest.approx(15 * 2.0)


def test_validation_does_not_count_as_training_time(clock):
    meter = Meter(batch_size=10, total=20)
    meter.add(1, {}, True)
    clock.now += 30
    meter.pause(30)
    clock.now += 2
    meter.add(2, {}, True)
    means, left = meter.record(2)
    assert means["examples_per_second"] == pytest.approx(5) and left == pytest.approx(36)


def test_the_first_step_alone_tells_no_rate(clock):
    meter = Meter(batch_size=10, total=20)
    clock.now += 60
    meter.add(1, {"loss": 1.0}, True)
    means, left = meter.record(1)
    assert means == {"loss": 1.0} and math.isnan(left)
