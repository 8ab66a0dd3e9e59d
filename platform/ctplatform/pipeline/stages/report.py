"""Stage `report`: the HTML page of one run, from what the other stages have left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.pipeline.stage import Stage, StageResult
from ctplatform.storage.layout import report

if TYPE_CHECKING:
    from ctplatform.pipeline.recorder import Recorder
    from ctplatform.pipeline.state import WorkspaceState


def _run(state: WorkspaceState, _: Recorder) -> StageResult:
    from ctplatform.report import build_report
    from ctplatform.report.model_card import write_model_card

    run = state.required_run()
    paths = build_report(state.workspace, state.recipe, run=run, scan_table=state.cohort)
    write_model_card(state.workspace, run)
    return StageResult(paths, paths.html)


def _digest(state: WorkspaceState) -> str:
    return state.file_digest(*report(state.run)) if state.run else ""


STAGE = Stage(
    name="report",
    help="Write the HTML report.",
    run=_run,
    inputs=("ledger", "split", "weights", "embeddings", "results"),
    outputs={"report": _digest},
    settings=("report",),
    of_run=True,
)
