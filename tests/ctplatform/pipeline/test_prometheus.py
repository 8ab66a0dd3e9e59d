"""Rates are those of the last two minutes; without Ray the progress is only handed on."""

from __future__ import annotations

import pytest

from ctplatform.pipeline import prometheus
from ctplatform.pipeline.prometheus import GAUGES, TRAINING, WINDOW_S, Meter
from tests.ctplatform.pipeline.quick_chain import Notes


class Gauges(Meter):
    """Keeps the values in place of Ray's gauges."""

    def __init__(self) -> None:
        super().__init__(Notes())
        self.values: dict[str, float] = {}

    def _set(self, stage: str, name: str, value: float) -> None:
        assert name in GAUGES
        self.values[name] = value


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(prometheus.time, "monotonic", lambda: now[0])
    return now


def test_scans_a_minute_are_those_of_the_window(clock):
    meter = Gauges()
    for seconds, done in ((0, 0), (30, 10), (60, 20)):
        clock[0] = float(seconds)
        meter.progress("prepare", done, 100)
    assert meter.values["drasclr_scans_per_minute"] == pytest.approx(20)
    assert meter.values["drasclr_progress"] == pytest.approx(0.2)
    clock[0] = 60 + WINDOW_S
    meter.progress("prepare", 21, 100)
    assert meter.values["drasclr_scans_per_minute"] == pytest.approx(0.5), "older scans do not count"


def test_measures_of_a_training_step_have_their_gauges(clock):
    meter = Gauges()
    meter.progress("pretrain", 0, 0, patches_per_s=17.5, data_wait=0.1, other=3.0)
    assert meter.values[TRAINING["patches_per_s"]] == 17.5
    assert meter.values[TRAINING["data_wait"]] == 0.1
    assert TRAINING["loss"] not in meter.values
    assert "drasclr_scans_per_minute" not in meter.values
    assert meter.values["drasclr_progress"] == 0.0, "nothing of nothing is no share"


def test_gauges_are_set_in_ray(ray_local):
    meter = Meter(Notes())
    meter.progress("embed", 1, 2)
    assert set(meter._gauges) == {"drasclr_done", "drasclr_total", "drasclr_progress"}
