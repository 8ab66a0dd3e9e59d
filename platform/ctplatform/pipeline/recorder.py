"""TODO."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from ctplatform.errors import StageError
from ctplatform.pipeline.graph import GRAPH
from ctplatform.pipeline.prometheus import Meter
from ctplatform.pipeline.records import Record, write_record
from ctplatform.storage.workspace import Workspace

RECORD_EVERY_S = 10.0


class _Keeper:
    """Passes progress on, and writes it into the stage's record now and then."""

    def __init__(self, workspace: Workspace, record: Record, meter: Meter) -> None:
        self.workspace, self.record, self.meter = workspace, record, meter
        # Without a training run's name there is nothing yet that the record could belong to.
        self.kept = bool(record.run) or not GRAPH[record.stage].of_run
        self._written = 0.0

    def write(self) -> None:
        """Write the record as it is."""
        if self.kept:
            write_record(self.workspace, self.record)
            self._written = time.monotonic()

    def end(self, record: Record) -> None:
        """The last word on this stage; a workspace that cannot be written must not hide why a stage failed."""
        self.record = record
        try:
            self.write()
        except (OSError, StageError):
            if record.state != "failed":
                raise

    def told(self, stage: str, lines: Sequence[str]) -> None:
        """As a watcher's."""
        self.meter.watcher.told(stage, lines)

    def progress(self, stage: str, done: int, total: int, text: str = "", **measures: float) -> None:
        """As a watcher's."""
        self.record = replace(self.record, done=done, total=total)
        self.meter.progress(stage, done, total, text, **measures)
        if time.monotonic() - self._written > RECORD_EVERY_S:
            self.write()
