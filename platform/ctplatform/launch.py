"""Running the chain for a person: recipe and paths in, progress on the console, a summary at the end."""

from __future__ import annotations

import time

from ctplatform.config import PhantomConfig, Recipe
from ctplatform.console import Console, show_reasons, show_result
from ctplatform.pipeline import STAGES, Outcome, run_chain
from ctplatform.session import ray_session
from ctplatform.workspace import Workspace


def run_demo(workspace_uri: str, recipe: Recipe) -> Outcome:
    """Make the synthetic cohort, then run the whole chain on it."""
    from ctplatform.demo import phantom_cohort

    workspace, console = Workspace(workspace_uri), Console()
    config = recipe.phantom or PhantomConfig()
    with ray_session(recipe.ray):
        try:
            console.started("phantom")
            start = time.monotonic()
            cohort = phantom_cohort(
                workspace, config, on_progress=lambda done, total: console.progress("phantom", done, total)
            )
            console.finished("phantom", f"{len(cohort)} synthetic subjects", time.monotonic() - start)
            outcome = run_chain(workspace, cohort, recipe, console)
        finally:
            console.close()
    show_reasons(outcome)
    show_result(outcome)
    return outcome


def run_cohort(
    workspace_uri: str,
    cohort_path: str | None,
    recipe: Recipe,
    *,
    first: str | None = None,
    last: str | None = None,
) -> Outcome:
    """Run the chain, or the stages from `first` to `last`, on a scan table."""
    import pandas as pd

    from ctplatform.cohort import read_cohort

    # Read before Ray starts: a wrong table should be told at once.
    cohort = (
        read_cohort(cohort_path) if cohort_path else pd.DataFrame(columns=["scan_id", "subject_id", "path"])
    )
    workspace, console = Workspace(workspace_uri), Console()
    with ray_session(recipe.ray):
        try:
            outcome = run_chain(
                workspace, cohort, recipe, console, first=first or STAGES[0], last=last or STAGES[-1]
            )
        finally:
            console.close()
    show_reasons(outcome)
    if last in (None, "sweep", "report"):
        show_result(outcome)
    return outcome
