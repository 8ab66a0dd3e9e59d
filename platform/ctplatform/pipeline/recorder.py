"""The record of a stage while it runs: progress goes to the observer and, now and then, into the workspace."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from ctplatform.errors import StageError
from ctplatform.pipeline.prometheus import Meter
from ctplatform.pipeline.records import Record, write_record
from ctplatform.storage.workspace import Workspace

RECORD_EVERY_S = 10.0


class Recorder:
    """Receives one stage's progress, hands it on, and keeps the stage's record up to date.

    Args:
        workspace: receives the record.
        record: as the stage starts.
        meter: receives progress.
        stored: False where the stage's training run has no name yet, so that its record has no place.
    """

    def __init__(self, workspace: Workspace, record: Record, meter: Meter, *, stored: bool = True) -> None:
        self.workspace, self.record, self.meter, self.stored = workspace, record, meter, stored
        self._written = 0.0

    def write(self) -> None:
        """Write the record as it is."""
        if self.stored:
            write_record(self.workspace, self.record)
            self._written = time.monotonic()

    def end(self, record: Record) -> None:
        """Write the record of a stage that has ended.

        An error of the workspace is suppressed where the stage did not finish: it must not hide why.
        """
        self.record = record
        try:
            self.write()
        except (OSError, StageError):
            if record.state == "finished":
                raise

    def announced(self, lines: Sequence[str]) -> None:
        """Show what the stage is about to do."""
        self.meter.observer.announced(self.record.stage, lines)

    def progress(self, done: int, total: int, text: str = "", **measures: float) -> None:
        """So much is done; `measures` are those of a training step, for the gauges."""
        self.record = replace(self.record, done=done, total=total)
        self.meter.progress(self.record.stage, done, total, text, **measures)
        if time.monotonic() - self._written > RECORD_EVERY_S:
            self.write()
