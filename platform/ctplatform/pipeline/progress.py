"""What the chain decides and reports while it runs, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ctplatform.storage.workspace import Workspace


@dataclass(frozen=True)
class Decision:
    """Whether a stage runs.

    Args:
        stage: its name.
        action: `skip`, `run` (from the beginning, or what a change calls for), `resume` (it was cut off) or `wait`
            (its inputs are not there yet); in a dry run also `after` (it depends on a stage that runs).
        why: the reason, for people.
        redo: whether finished work is discarded first, because another version of the code made it.
    """

    stage: str
    action: str
    why: str
    redo: bool = False


class Observer(Protocol):
    """Receives what the chain does, to show it."""

    def started(self, stage: str, why: str = "") -> None:
        """A stage begins, for this reason."""

    def skipped(self, stage: str, why: str) -> None:
        """A stage has nothing to do, for this reason."""

    def progress(self, stage: str, done: int, total: int, text: str = "") -> None:
        """So many of the stage's scans, steps, groups or trials are done."""

    def announced(self, stage: str, lines: Sequence[str]) -> None:
        """What the stage is about to do, or where it can be followed; one or more lines."""

    def finished(self, stage: str, text: str, seconds: float) -> None:
        """A stage ended well; one line on what came out."""


@dataclass
class Outcome:
    """Result of a run of the chain: the training run's name, each stage's decision, summary and seconds."""

    workspace: Workspace
    run: str = ""
    decisions: dict[str, Decision] = field(default_factory=dict)
    summaries: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
