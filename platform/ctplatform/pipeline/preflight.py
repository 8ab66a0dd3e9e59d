"""Preflight: everything that can be known of a run before it starts, all problems at once.

The same checks precede a run, a dry run, a submission and the command of a single stage. They start no Ray and write
nothing; what only a running cluster shows is checked when it is connected (`checks.machine.require_cluster`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctplatform.errors import PlatformError
from ctplatform.pipeline.checks.cohort import cohort_findings
from ctplatform.pipeline.checks.finding import Finding, errors, of_error
from ctplatform.pipeline.checks.machine import (
    gpu_findings,
    local_nodes,
    request_findings,
    requests,
    with_gpus,
)
from ctplatform.pipeline.checks.recipe import recipe_findings
from ctplatform.pipeline.checks.workspace import (
    atlas_findings,
    disk_findings,
    input_findings,
    place_findings,
    run_findings,
)
from ctplatform.pipeline.dry_run import Step, plan
from ctplatform.pipeline.graph import STAGES, between

if TYPE_CHECKING:
    import pandas as pd

    from ctplatform.config.recipe import Recipe
    from ctplatform.pipeline.costs import Costs
    from ctplatform.storage.workspace import Workspace


@dataclass(frozen=True)
class Preflight:
    """What is known of a run before it starts.

    Attributes:
        steps: the plan, stage by stage; empty where the workspace cannot be read.
        findings: all problems, errors first.
        stages: those that will run; all that were named, without a plan.
    """

    steps: list[Step]
    findings: list[Finding]
    stages: list[str]

    def plain(self) -> dict[str, Any]:
        """The preflight for JSON."""
        return {
            "ok": not errors(self.findings),
            "findings": [finding.plain() for finding in self.findings],
            "stages": [
                {
                    "stage": step.decision.stage,
                    "action": step.decision.action,
                    "why": step.decision.why,
                    "work": step.work.amount,
                    "unit": step.work.unit,
                    "core_hours": step.work.core_hours,
                    "gpu_hours": step.work.gpu_hours,
                    "written_bytes": step.work.written_bytes,
                }
                for step in self.steps
            ],
        }


def preflight(
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
    synthetic: bool = False,
    local: bool = True,
    planned: bool = True,
) -> Preflight:
    """Check a run and plan it.

    Args:
        workspace: read only.
        cohort: the scan table; empty where none is given.
        recipe: of the run.
        first: earlier stages are taken as done.
        last: where to stop.
        redo: stages whose finished work is made again.
        older_code: as of `run_chain`.
        scans: size of a cohort that does not exist yet.
        costs: where the workspace has none of its own.
        synthetic: the cohort is the demo's, made before the first stage.
        planned: compare with what is there, for which the files of all scans are looked at.
        local: the run takes place on this machine, so that its paths and its size count.
    """
    found = place_findings(workspace)
    nodes = local_nodes(recipe.ray)
    fitted = with_gpus(recipe, nodes)[0] if local else recipe
    steps: list[Step] = []
    if planned and not found:
        try:
            steps = plan(
                workspace,
                cohort,
                fitted,
                first=first,
                last=last,
                redo=redo,
                older_code=older_code,
                scans=scans,
                costs=costs,
            )
        except PlatformError as error:
            found.append(of_error("--workspace", error))
    stages = list(between(first, last))
    if steps:
        stages = [step.decision.stage for step in steps if step.decision.action != "skip"]
    found += recipe_findings(recipe, stages)
    if not (synthetic and cohort.empty):
        found += cohort_findings(cohort, recipe, stages, local=local)
    if local:
        found += atlas_findings(recipe, stages)
    if steps:
        found += (
            input_findings(steps) + disk_findings(workspace, steps) + run_findings(workspace, recipe, stages)
        )
    if local:
        found += gpu_findings(recipe, stages, nodes)
        found += request_findings(requests(fitted, stages), nodes)
    return Preflight(steps, sorted(found, key=lambda finding: finding.level != "error"), stages)
