"""The chain on the command line: recipe and paths in, progress on the console, a summary at the end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ctplatform.cli.console import Console, show_reasons, show_result
from ctplatform.compute.failures import explained
from ctplatform.compute.session import ray_session
from ctplatform.config.recipe import PhantomConfig, Recipe
from ctplatform.errors import PlatformError, StageError
from ctplatform.pipeline.chain import run_chain
from ctplatform.pipeline.checks.cohort import MAX_PATHS
from ctplatform.pipeline.checks.finding import Finding, errors, of_error, require
from ctplatform.pipeline.checks.machine import JOIN_S, connected_nodes, require_cluster, with_gpus
from ctplatform.pipeline.checks.workspace import place_findings
from ctplatform.pipeline.graph import STAGES, between
from ctplatform.pipeline.postmortem import scrubber
from ctplatform.pipeline.preflight import Preflight, preflight
from ctplatform.pipeline.progress import Outcome
from ctplatform.pipeline.public_fetch import Terms, fetch_lines
from ctplatform.storage.layout import POSTMORTEM
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ChainOptions:
    """Which part of the chain runs, and how it treats what is there.

    Args:
        first: earlier stages are taken as done.
        last: where to stop.
        dry_run: only say what would run.
        as_json: of a dry run, as JSON.
        redo: stages that are made again.
        older_code: "redo" or "keep" what another version of this software made.
        gpu_rate: anchors a second and GPU, for the estimate of a dry run.
        take_over: take stale leases of other processes.
        terms: nodes and prices, for that of a cohort in public buckets.
    """

    first: str = STAGES[0]
    last: str = STAGES[-1]
    dry_run: bool = False
    as_json: bool = False
    redo: Collection[str] = ()
    older_code: str = "redo"
    gpu_rate: float | None = None
    take_over: bool = False
    terms: Terms = field(default_factory=Terms)


def run_demo(workspace_uri: str, recipe: Recipe, options: ChainOptions | None = None) -> Outcome | None:
    """Make the synthetic cohort, then run the chain on it.

    Raises:
        PreflightError: it could not end well.
    """
    from ctplatform.phantom.cohort import made_cohort, phantom_cohort

    workspace, console, options = Workspace(workspace_uri), Console(), options or ChainOptions()
    config = recipe.phantom or PhantomConfig()
    made = None if place_findings(workspace) else made_cohort(workspace, config)
    table = _no_cohort() if made is None else made
    checked = _check(workspace, table, recipe, options, scans=config.subjects, synthetic=True)
    if checked is None:
        return None
    with ray_session(recipe.ray):
        try:
            recipe = _fitted(recipe, checked, console)
            console.started("phantom")
            start = time.monotonic()
            try:
                cohort: pd.DataFrame = phantom_cohort(
                    workspace,
                    config,
                    placement=recipe.placement.prepare,
                    on_progress=lambda done, total: console.progress("phantom", done, total),
                )
            except Exception as error:
                raise explained(error) from error
            console.finished("phantom", f"{len(cohort)} synthetic subjects", time.monotonic() - start)
            outcome = _run(workspace, cohort, recipe, console, options)
        finally:
            console.close()
    show_reasons(outcome)
    if options.last == STAGES[-1]:
        show_result(outcome)
    return outcome


def run_cohort(
    workspace_uri: str,
    cohort_path: str | None,
    recipe: Recipe,
    options: ChainOptions | None = None,
    *,
    labels: tuple[str, str] | None = None,
) -> Outcome | None:
    """Run the chain, or a part of it, on a scan table; `labels` is a second table and the key that joins them.

    Raises:
        PreflightError: the run could not end well.
    """
    from ctplatform.cohort.table import read_cohort

    # Read before Ray starts, so that an error in a table is reported at once.
    try:
        cohort = read_cohort(cohort_path) if cohort_path else _no_cohort()
        if labels:
            cohort = _joined(cohort, *labels)
    except PlatformError as error:
        require([of_error("--cohort", error), *place_findings(Workspace(workspace_uri))])
        raise
    workspace, console, options = Workspace(workspace_uri), Console(), options or ChainOptions()
    checked = _check(workspace, cohort, recipe, options, scans=len(cohort))
    if "sweep" in between(options.first, options.last) and len(cohort):
        from ctplatform.evaluation.requirements import check_requirements

        check_requirements(recipe, cohort)
    if checked is None:
        return None
    with ray_session(recipe.ray):
        try:
            outcome = _run(workspace, cohort, _fitted(recipe, checked, console), console, options)
        finally:
            console.close()
    show_reasons(outcome)
    if options.last in ("sweep", "report"):
        show_result(outcome)
    return outcome


def findings_without_recipe(
    error: PlatformError, workspace_uri: str, cohort_path: str | None
) -> list[Finding]:
    """The error of a recipe, with what can be found of the other inputs without it."""
    from ctplatform.cohort.table import read_cohort

    found = [of_error("--recipe", error)]
    try:
        found += place_findings(Workspace(workspace_uri))
    except PlatformError as other:
        found.append(of_error("--workspace", other))
    try:
        if cohort_path:
            read_cohort(cohort_path)
    except PlatformError as other:
        found.append(of_error("--cohort", other))
    return found


def _check(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipe: Recipe,
    options: ChainOptions,
    *,
    scans: int,
    synthetic: bool = False,
) -> Preflight | None:
    """Preflight of a run: warnings are printed, errors stop it. A dry run prints its plan, and returns None.

    Raises:
        PreflightError: there are errors.
    """
    from ctplatform.pipeline.costs import Costs

    checked = preflight(
        workspace,
        cohort,
        recipe,
        first=options.first,
        last=options.last,
        redo=options.redo,
        older_code=options.older_code,
        scans=scans,
        costs=Costs(gpu_anchors_per_s=options.gpu_rate, gpu_basis="--gpu-rate" if options.gpu_rate else ""),
        synthetic=synthetic,
        local=not (recipe.ray.address or os.environ.get("RAY_ADDRESS")),
        planned=options.dry_run or len(cohort) <= MAX_PATHS,
    )
    if options.dry_run and options.as_json:
        works = [step.work for step in checked.steps if step.work.amount]
        public = fetch_lines(cohort, works, options.terms)
        print(json.dumps({**checked.plain(), "public_data": public}, indent=2))
        if errors(checked.findings):
            sys.exit(2)
        return None
    for finding in checked.findings:
        if finding.level == "warning":
            print(finding.line(), file=sys.stderr)
    if options.dry_run and checked.steps:
        _show_plan(cohort, checked, options)
    require(checked.findings)
    return None if options.dry_run else checked


def _joined(cohort: pd.DataFrame, path: str, key: str) -> pd.DataFrame:
    from ctplatform.cohort.label_table import join_label_table

    joined = join_label_table(cohort, path, key=key)
    print("\n".join(joined.lines))
    return joined.table


def _fitted(recipe: Recipe, checked: Preflight, console: Console) -> Recipe:
    """The recipe with the connected cluster's GPUs, once the cluster has room for it.

    Raises:
        PreflightError: the cluster is too small.
    """
    fitted, lines = with_gpus(recipe, connected_nodes())
    if {"pretrain", "embed"} & set(checked.stages) and lines:
        console.announced("ray", lines)
    patience = JOIN_S if recipe.ray.address or os.environ.get("RAY_ADDRESS") else 0.0
    require_cluster(
        fitted, checked.stages, patience_s=patience, say=lambda line: console.announced("ray", [line])
    )
    return fitted


def _run(
    workspace: Workspace, cohort: pd.DataFrame, recipe: Recipe, console: Console, options: ChainOptions
) -> Outcome:
    try:
        return run_chain(
            workspace,
            cohort,
            recipe,
            console,
            first=options.first,
            last=options.last,
            redo=options.redo,
            older_code=options.older_code,
            take_over=options.take_over,
        )
    except PlatformError:
        raise
    except Exception as error:
        # Its text and its traceback may hold paths, and paths may hold names.
        raise StageError(
            f"an unexpected {type(error).__name__}: {scrubber(cohort)(str(error))[:500]}",
            f"The traceback is in {workspace.display(POSTMORTEM)}; finished work is kept, and the same command goes on",
            code="unexpected",
        ) from None


def _show_plan(cohort: pd.DataFrame, checked: Preflight, options: ChainOptions) -> None:
    from ctplatform.pipeline.dry_run import lines

    print("\n".join(lines(checked.steps)))
    works = [step.work for step in checked.steps if step.work.amount]
    if extra := fetch_lines(cohort, works, options.terms):
        print("\n" + "\n".join(extra))


def _no_cohort() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns=["scan_id", "subject_id", "path"])
