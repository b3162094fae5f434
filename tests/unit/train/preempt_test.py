# SPDX-License-Identifier: Apache-2.0
"""Signals only set a flag while a run is on, once."""

from __future__ import annotations

import gc
import os
import signal

import pytest

from spatial_core.train.preempt import StopSignal


@pytest.fixture(autouse=True)
def ordinary_interrupts():
    """Ctrl-C raises, as in a terminal: a shell's background jobs inherit that it is ignored.

    No garbage collection: JAX works in a callback of it, and Python drops what is raised in there.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()
    yield
    gc.enable()
    signal.signal(signal.SIGINT, before)


def test_the_first_signal_is_noted_and_the_second_acts():
    with StopSignal() as stop:
        assert not stop.requested(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested(1) and stop.name == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
