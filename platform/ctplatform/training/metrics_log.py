"""The metrics that a run logs: `metrics.jsonl`, the newest line as `progress.json`, and experiment trackers."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from ctplatform.storage.layout import METRICS_FILE, PRETRAIN, PROGRESS_FILE
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    from ctplatform.tracking.pretraining import PretrainingTracker

PROGRESS_EVERY_S = 1.0


class MetricsLog:
    """Logged lines of a run, oldest first.

    Args:
        workspace: holds the run.
        run: its name.
        active: whether this rank writes; other ranks keep the lines of the checkpoint that they resumed from.

    Attributes:
        lines: metrics by name, a dictionary a logged step.
        tracker: receives each new line; None for no tracking.
    """

    def __init__(self, workspace: Workspace, run: str, *, active: bool) -> None:
        self.workspace, self.run, self.active = workspace, run, active
        self.lines: list[dict[str, Any]] = []
        self.tracker: PretrainingTracker | None = None
        self._written = 0.0

    @property
    def last(self) -> dict[str, Any]:
        """The newest line; empty if there is none."""
        return self.lines[-1] if self.lines else {}

    def append(self, line: dict[str, Any]) -> None:
        """Add a line."""
        if not self.active:
            return
        self.lines.append(line)
        if self.tracker:
            self.tracker.log(line)
        if time.monotonic() - self._written > PROGRESS_EVERY_S:
            self._write_progress()

    def flush(self) -> None:
        """Write all lines. Object stores cannot append, so this is done with checkpoints and not with each line."""
        if not self.active or not self.lines:
            return
        self._write_progress()
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        self.workspace.write_bytes(text.encode(), PRETRAIN, self.run, METRICS_FILE)
        if self.tracker:
            self.tracker.flush()

    def close(self) -> None:
        """Mark the run as finished for the tracker."""
        if self.tracker:
            self.tracker.close()

    def _write_progress(self) -> None:
        self._written = time.monotonic()
        self.workspace.write_json(self.lines[-1], PRETRAIN, self.run, PROGRESS_FILE)
