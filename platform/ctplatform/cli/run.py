"""The chain on the command line: recipe and paths in, progress on the console, a summary at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ctplatform.cli.console import Console, show_reasons, show_result
from ctplatform.compute.failures import explained
from ctplatform.compute.session import ray_session
from ctplatform.config.recipe import PhantomConfig, Recipe
from ctplatform.pipeline.chain import run_chain
from ctplatform.pipeline.graph import STAGES, between
from ctplatform.pipeline.progress import Outcome
from ctplatform.pipeline.public_fetch import Terms, fetch_lines
from ctplatform.storage.layout import phantom_table
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
        terms: nodes and prices, for that of a cohort in public buckets.
    """

    first: str = STAGES[0]
    last: str = STAGES[-1]
    dry_run: bool = False
    as_json: bool = False
    redo: Collection[str] = ()
    older_code: str = "redo"
    gpu_rate: float | None = None
    terms: Terms = field(default_factory=Terms)


def run_demo(workspace_uri: str, recipe: Recipe, options: ChainOptions | None = None) -> Outcome | None:
    """Make the synthetic cohort, then run the chain on it."""
    from ctplatform.phantom.cohort import phantom_cohort

    workspace, console, options = Workspace(workspace_uri), Console(), options or ChainOptions()
    config = recipe.phantom or PhantomConfig()
    if options.dry_run:
        made = workspace.exists(*phantom_table())
        table = _made_phantom(workspace) if made else _no_cohort()
        _show_plan(workspace, table, recipe, options, scans=config.subjects)
        return None
    with ray_session(recipe.ray):
        try:
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
    """Run the chain, or a part of it, on a scan table; `labels` is a second table and the key that joins them."""
    from ctplatform.cohort.table import read_cohort

    # Read before Ray starts, so that an error in the table is reported at once.
    cohort, options = read_cohort(cohort_path) if cohort_path else _no_cohort(), options or ChainOptions()
    if labels:
        cohort = _joined(cohort, *labels)
    if "sweep" in between(options.first, options.last) and len(cohort):
        from ctplatform.evaluation.requirements import check_requirements

        check_requirements(recipe, cohort)
    workspace, console = Workspace(workspace_uri), Console()
    if options.dry_run:
        _show_plan(workspace, cohort, recipe, options, scans=len(cohort))
        return None
    with ray_session(recipe.ray):
        try:
            outcome = _run(workspace, cohort, recipe, console, options)
        finally:
            console.close()
    show_reasons(outcome)
    if options.last in ("sweep", "report"):
        show_result(outcome)
    return outcome


def _run(
    workspace: Workspace, cohort: pd.DataFrame, recipe: Recipe, console: Console, options: ChainOptions
) -> Outcome:
    return run_chain(
        workspace,
        cohort,
        recipe,
        console,
        first=options.first,
        last=options.last,
        redo=options.redo,
        older_code=options.older_code,
    )


def _joined(cohort: pd.DataFrame, path: str, key: str) -> pd.DataFrame:
    from ctplatform.cohort.label_table import join_label_table

    joined = join_label_table(cohort, path, key=key)
    print("\n".join(joined.lines))
    return joined.table


def _show_plan(
    workspace: Workspace, cohort: pd.DataFrame, recipe: Recipe, options: ChainOptions, *, scans: int
) -> None:
    from ctplatform.pipeline.costs import Costs
    from ctplatform.pipeline.dry_run import lines, plain, plan

    costs = Costs(gpu_anchors_per_s=options.gpu_rate, gpu_basis="--gpu-rate" if options.gpu_rate else "")
    steps = plan(
        workspace,
        cohort,
        recipe,
        first=options.first,
        last=options.last,
        older_code=options.older_code,
        scans=scans,
        costs=costs,
    )
    extra = fetch_lines(cohort, [step.work for step in steps if step.work.amount], options.terms)
    if options.as_json:
        print(json.dumps({"stages": plain(steps), "public_data": extra}, indent=2))
        return
    print("\n".join(lines(steps)))
    if extra:
        print("\n" + "\n".join(extra))


def _made_phantom(workspace: Workspace) -> pd.DataFrame:
    import io

    import pandas as pd

    return pd.read_csv(io.BytesIO(workspace.read_bytes(*phantom_table())))


def _no_cohort() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns=["scan_id", "subject_id", "path"])
