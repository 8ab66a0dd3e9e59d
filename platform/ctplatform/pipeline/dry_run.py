"""What the chain would do, and how much work that is, without doing anything: `--dry-run`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ctplatform.config.recipe import Recipe
from ctplatform.pipeline.costs import Costs, Work
from ctplatform.pipeline.estimate import costs_of, size_of, table, work_of
from ctplatform.pipeline.graph import GRAPH, STAGES, assess, downstream
from ctplatform.pipeline.stage import Verdict
from ctplatform.pipeline.state import World
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Step:
    """One stage of a plan: whether it would run and why, and its work."""

    verdict: Verdict
    work: Work


def plan(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipe: Recipe,
    *,
    first: str = STAGES[0],
    last: str = STAGES[-1],
    older_code: str = "redo",
    scans: int | None = None,
    costs: Costs | None = None,
) -> list[Step]:
    """Assess the stages in order, as `run_chain` would, and say what each still has to do.

    A stage behind one that runs is assessed on what is there now; whether it really runs depends on what comes out.

    Args:
        workspace: read only.
        cohort: the scan table; may be empty.
        recipe: how.
        first: earlier stages are taken as done.
        last: where to stop.
        older_code: as of `run_chain`.
        scans: size of a cohort that does not exist yet.
        costs: where the workspace has none of its own.
    """
    world = World(workspace, cohort, recipe)
    size = size_of(workspace, recipe, scans=scans or len(cohort))
    measured = costs_of(workspace, costs)
    steps: list[Step] = []
    moved: dict[str, str] = {}
    for stage in STAGES[STAGES.index(first) : STAGES.index(last) + 1]:
        verdict = assess(world, stage, older_code=older_code)
        record = world.record(GRAPH[stage])
        if stage in moved and verdict.action in ("skip", "wait"):
            verdict = replace(verdict, action="after", why=f"depends on what {moved[stage]} makes")
        work = work_of(stage, recipe, size, measured)
        if verdict.action == "skip":
            work = Work(stage, 0, "")
        elif verdict.action == "resume" and stage in ("embed", "sweep") and record and record.total:
            work = _share(work, 1 - record.done / record.total)
        if verdict.action != "skip":
            moved = {name: moved.get(name, stage) for name in (*moved, *downstream(stage))}
        steps.append(Step(verdict, work))
    return steps


def lines(steps: list[Step]) -> list[str]:
    """A plan for people."""
    said = [f"{s.verdict.stage:<9} {s.verdict.action:<7} {s.verdict.why}" for s in steps]
    return [*said, "", *table([step.work for step in steps if step.work.amount])]


def _share(work: Work, share: float) -> Work:
    return replace(
        work,
        amount=round(work.amount * share),
        core_hours=work.core_hours * share,
        gpu_hours=work.gpu_hours if work.gpu_hours is None else work.gpu_hours * share,
        read_bytes=work.read_bytes * share,
    )
