"""The chain's own measures for Prometheus, through Ray's metrics agent: scans a minute, patches a second, data wait,
how full the queues of keys are, progress.

Set in the driver from the progress that stages report; a node's agent exports them beside Ray's own, as
`ray_drasclr_*` (see cluster/monitoring/).
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctplatform.pipeline.progress import Observer

#: name -> description; every one carries the tag `stage`.
GAUGES = {
    "drasclr_progress": "share of a stage's work that is done, 0 to 1",
    "drasclr_done": "units of a stage that are done: scans, steps, groups or trials",
    "drasclr_total": "units of a stage in all",
    "drasclr_scans_per_minute": "scans finished in the last minutes",
    "drasclr_patches_per_second": "anchor patches trained on a second, all workers",
    "drasclr_data_wait": "share of the time that training waits for data, 0 to 1",
    "drasclr_queue_keys": "keys that an anchor is compared with: how far the queue of its location is filled",
    "drasclr_loss": "newest training loss",
    "drasclr_relative_rank": "log of the effective rank of a batch's embeddings over that of the largest, 0 to 1",
    "drasclr_uniformity": "how far embeddings of different scans lie apart; 0 is one point",
    "drasclr_collapsed": "1 while the representation collapses, else 0",
}
#: measure of a training line -> gauge
TRAINING = {
    "patches_per_s": "drasclr_patches_per_second",
    "data_wait": "drasclr_data_wait",
    "negatives": "drasclr_queue_keys",
    "loss": "drasclr_loss",
    "relative_rank": "drasclr_relative_rank",
    "uniformity": "drasclr_uniformity",
    "collapsed": "drasclr_collapsed",
}
BY_SCAN = ("atlas", "prepare")
WINDOW_S = 120.0


class Meter:
    """Hands progress on to an observer and sets the gauges; without Ray it only hands on."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self._gauges: dict[str, Any] = {}
        self._seen: deque[tuple[float, int]] = deque()

    def progress(self, stage: str, done: int, total: int, text: str = "", **measures: float) -> None:
        """So much of a stage is done; `measures` are those of a training step."""
        self.observer.progress(stage, done, total, text)
        self._set(stage, "drasclr_done", done)
        self._set(stage, "drasclr_total", total)
        self._set(stage, "drasclr_progress", done / total if total else 0.0)
        if stage in BY_SCAN:
            self._set(stage, "drasclr_scans_per_minute", self._rate(done))
        for name, gauge in TRAINING.items():
            if name in measures:
                self._set(stage, gauge, float(measures[name]))

    def _rate(self, done: int) -> float:
        """Units a minute over the last two minutes."""
        now = time.monotonic()
        self._seen.append((now, done))
        while now - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return 60 * (after - before) / (last - first) if last > first else 0.0

    def _set(self, stage: str, name: str, value: float) -> None:
        import ray

        if not ray.is_initialized():
            return
        if name not in self._gauges:
            from ray.util.metrics import Gauge

            self._gauges[name] = Gauge(name, description=GAUGES[name], tag_keys=("stage",))
        self._gauges[name].set(value, tags={"stage": stage})
