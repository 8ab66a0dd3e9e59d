"""The chain in seconds: a recipe's overrides, an observer that keeps what it was given, a plan's decisions."""

from __future__ import annotations

from ctplatform.pipeline.dry_run import plan
from tests.conftest import SMALL

QUICK = (
    *SMALL,
    "pretrain.num_workers=0",
    "embed.encoders=[drasclr]",
    "sweep.initialisations=[drasclr,density]",
    "sweep.tasks=[emphysema_extent]",
    "sweep.seeds=1",
    "sweep.fractions=[1.0]",
)


class Notes:
    """Names of the stages that ran and of those that were skipped."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.kept: list[str] = []

    def started(self, stage: str, why: str = "") -> None:
        self.ran.append(stage)

    def skipped(self, stage: str, why: str) -> None:
        self.kept.append(stage)

    def announced(self, stage: str, lines: list[str]) -> None:
        assert lines

    def progress(self, stage: str, done: int, total: int, text: str = "") -> None:
        assert 0 <= done <= total

    def finished(self, stage: str, text: str, seconds: float) -> None:
        assert text


def actions(workspace, cohort, recipe, **options) -> dict[str, tuple[str, str]]:
    steps = plan(workspace, cohort, recipe, **options)
    return {s.decision.stage: (s.decision.action, s.decision.why) for s in steps}
