"""The plan of `--dry-run`: which stages would run, why, and how much work that is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ctplatform.config.recipe import Recipe
from ctplatform.pipeline.assessment import assess, last_record
from ctplatform.pipeline.costs import Costs, Work
from ctplatform.pipeline.estimate import costs_of, size_of, table
from ctplatform.pipeline.graph import GRAPH, STAGES, between, downstream
from ctplatform.pipeline.progress import Decision
from ctplatform.pipeline.state import WorkspaceState
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Step:
    """One stage of a plan: whether it would run and why, and its work."""

    decision: Decision
    work: Work


def plan(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipe: Recipe,
    *,
    first: str = STAGES[0],
    last: str = STAGES[-1],
    redo: Collection[str] = (),
    older_code: str = "redo",
    scans: int | None = None,
    costs: Costs | None = None,
) -> list[Step]:
    """Assess the stages in order, as `run_chain` would, with the work that each still has.

    A stage behind one that runs is assessed on what is there now; whether it really runs depends on what comes out.

    Args:
        workspace: read only.
        cohort: the scan table; may be empty.
        recipe: of the run.
        first: earlier stages are taken as done.
        last: where to stop.
        redo: stages whose finished work is made again.
        older_code: as of `run_chain`.
        scans: size of a cohort that does not exist yet.
        costs: where the workspace has none of its own.
    """
    state = WorkspaceState(workspace, cohort, recipe)
    size = size_of(workspace, recipe, scans=scans or len(cohort))
    measured = costs_of(workspace, costs)
    steps: list[Step] = []
    cause: dict[str, str] = {}
    for name in between(first, last):
        stage = GRAPH[name]
        decision, record = assess(state, name, older_code=older_code), last_record(state, stage)
        if name in redo and decision.action != "wait":
            decision = Decision(name, "run", "it is to be made again", redo=True)
        if name in cause and decision.action in ("skip", "wait"):
            decision = replace(decision, action="after", why=f"depends on what {cause[name]} makes")
        work = stage.work(recipe, size, measured)
        if decision.action == "skip":
            work = Work(name, 0, "")
        elif decision.action == "resume" and stage.resumes_by_record and record and record.total:
            work = _share(work, 1 - record.done / record.total)
        if decision.action != "skip":
            cause = {other: cause.get(other, name) for other in (*cause, *downstream(name))}
        steps.append(Step(decision, work))
    return steps


def lines(steps: list[Step]) -> list[str]:
    """A plan as lines of text."""
    decisions = [f"{s.decision.stage:<9} {s.decision.action:<7} {s.decision.why}" for s in steps]
    return [*decisions, "", *table([step.work for step in steps if step.work.amount])]


def _share(work: Work, share: float) -> Work:
    return replace(
        work,
        amount=round(work.amount * share),
        core_hours=work.core_hours * share,
        gpu_hours=work.gpu_hours if work.gpu_hours is None else work.gpu_hours * share,
        read_bytes=work.read_bytes * share,
    )
