"""Stage `split`: which subjects train and which are held out.

A split is never discarded: another one would move subjects between the parts under weights that have seen them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.pipeline.stage import Stage, StageResult
from ctplatform.storage.layout import SPLITS_FILE

if TYPE_CHECKING:
    from ctplatform.pipeline.recorder import Recorder
    from ctplatform.pipeline.state import WorkspaceState


def _run(state: WorkspaceState, _: Recorder) -> StageResult:
    from ctplatform.dataset.splits import ensure_split

    split = ensure_split(state.workspace, state.cohort, state.recipe)
    return StageResult(split, f"{len(split.train)} training and {len(split.test)} test subjects")


def _digest(state: WorkspaceState) -> str:
    return state.file_digest(SPLITS_FILE)


STAGE = Stage(
    name="split",
    run=_run,
    inputs=("ledger", "labels"),
    outputs={"split": _digest},
    settings=("split", "prepare.quality.use_flagged"),
)
