"""Speed and data wait are those of the steps since the last line, and of nothing else."""

from __future__ import annotations

import time

import pytest

from ctplatform.training import throughput
from ctplatform.training.throughput import Throughput


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def pass_(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    assert throughput.time is time
    return Clock(monkeypatch)


def test_start_up_and_checkpoints_do_not_count(clock):
    measured = Throughput()
    clock.pass_(30.0)  # of which 29 are the first batch, which nothing could have prepared
    measured.step(64, waited_s=29.0)
    assert measured.lap() == pytest.approx((64.0, 0.0))
    for step in range(1, 5):
        clock.pass_(2.0)
        measured.step(64, waited_s=29.0 + 0.5 * step)
        with measured.excluded():
            clock.pass_(100.0)
    assert measured.lap() == pytest.approx((32.0, 0.25))
    assert measured.seconds == pytest.approx(30 + 4 * 102)


def test_a_lap_forgets_the_laps_before(clock):
    measured = Throughput()
    for wait, rate, share in ((0.0, 64.0, 0.0), (0.9, 64.0, 0.9), (0.9, 64.0, 0.0)):
        clock.pass_(1.0)
        measured.step(64, waited_s=wait)
        assert measured.lap() == pytest.approx((rate, share))
