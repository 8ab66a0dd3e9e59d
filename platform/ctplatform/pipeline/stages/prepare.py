"""Stage `prepare`: every scan registered to the atlas, its patches in a shard and its verdict in the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.config.hardware import PREPARATION
from ctplatform.pipeline.stage import Stage, StageResult
from ctplatform.storage.layout import PARQUET, PATCHES, SCANS

if TYPE_CHECKING:
    from ctplatform.config.recipe import Recipe
    from ctplatform.pipeline.costs import Costs, Size, Work
    from ctplatform.pipeline.recorder import Recorder
    from ctplatform.pipeline.state import WorkspaceState


def _run(state: WorkspaceState, recorder: Recorder) -> StageResult:
    from ctplatform.dataset.ledger import read_ledger
    from ctplatform.preparation.plan import TRANSIENT
    from ctplatform.preparation.prepare import prepare

    summary = prepare(
        state.workspace,
        state.cohort,
        state.recipe,
        on_plan=lambda plan: recorder.announced(plan.lines()),
        on_progress=recorder.progress,
    )
    counts = ", ".join(f"{count} {verdict}" for verdict, count in summary.counts.items() if count)
    kept = f"; {summary.skipped} done before" if summary.skipped else ""
    retried = read_ledger(state.workspace, columns=["code"])["code"].isin(TRANSIENT).any()
    return StageResult(summary, f"{counts}{kept}", complete=not retried)


def _ledger_digest(state: WorkspaceState) -> str:
    from ctplatform.config.digest import config_hash

    if state.ledger is None:
        return ""
    return config_hash(state.ledger.fillna("").to_csv(index=False))


def _patches_digest(state: WorkspaceState) -> str:
    from ctplatform.config.digest import config_hash

    names = state.workspace.files(PATCHES, suffix=PARQUET)
    return config_hash("|".join(names)) if names else ""


def _cost(recipe: Recipe, size: Size, costs: Costs) -> Work:
    from ctplatform.pipeline.costs import Work

    scans = max(0, size.scans - size.prepared)
    return Work(
        "prepare",
        scans,
        "scans",
        scans * costs.prepare_s / 3600,
        written_bytes=scans * size.scan_bytes(costs),
        basis=costs.prepare_basis + size.remark,
    )


def _discard(state: WorkspaceState) -> None:
    state.workspace.delete(SCANS)


STAGE = Stage(
    name="prepare",
    help="Register every scan to the atlas and write its patches.",
    run=_run,
    inputs=("scans", "atlas"),
    outputs={"ledger": _ledger_digest, "patches": _patches_digest},
    settings=("prepare",),
    hardware=tuple(f"prepare.{key}" for key in sorted(PREPARATION)),
    cost=_cost,
    discard=_discard,
)
