"""TODO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ctplatform.pipeline.stage import Verdict
from ctplatform.storage.workspace import Workspace


class Watcher(Protocol):
    """Whoever shows what the chain does."""

    def started(self, stage: str, why: str = "") -> None:
        """A stage begins, for this reason."""

    def skipped(self, stage: str, why: str) -> None:
        """A stage has nothing to do."""

    def progress(self, stage: str, done: int, total: int, text: str = "") -> None:
        """So much of it is done."""

    def told(self, stage: str, lines: Sequence[str]) -> None:
        """What it is about to do, and why."""

    def finished(self, stage: str, text: str, seconds: float) -> None:
        """A stage ended well; one line on what came out."""


@dataclass
class Outcome:
    """What a run of the chain left behind: the run's name, each stage's verdict, summary and seconds."""

    workspace: Workspace
    run: str = ""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    summaries: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
