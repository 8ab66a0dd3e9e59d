"""Cohort to shards with Ray Data: one task reads, masks, registers, samples and writes one scan.

The task itself commits the scan (shard, then ledger row), so a killed worker, a retry or a second run leaves each
scan whole or absent, and neither a volume nor a patch passes through the object store.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ctplatform.compute.isolation import MANY, Run, aside, here, value
from ctplatform.compute.placement import ray_options
from ctplatform.config.recipe import Recipe
from ctplatform.dataset import ledger
from ctplatform.dataset.compaction import compact, sweep
from ctplatform.preparation.plan import Plan, plan_in_parts, settings_hash
from ctplatform.preparation.scan import Process, process_scan
from ctplatform.preparation.waves import RETRIES, Preparer, run_waves
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PrepareSummary:
    """What came out: scans by state, how many were done in this run, and why some are not usable."""

    counts: dict[str, int]
    done: int
    skipped: int
    reasons: dict[str, str] = field(default_factory=dict)
    causes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def prepare(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipe: Recipe,
    *,
    on_plan: Callable[[Plan], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    process: Process | None = None,
) -> PrepareSummary:
    """Prepare every scan of the table that is not finished yet.

    Args:
        workspace: holds the atlas; receives `scans/` and `patches/`.
        cohort: columns scan_id, subject_id, path and, for DICOM, series_uid.
        recipe: `prepare` says how.
        on_plan: told what will be done and why, before it is.
        on_progress: called with (scans done, scans to do) in this run.
        process: what makes patches and measures of a scan; None: `scan.process_scan`. For simulations.

    Raises:
        StageError: no atlas yet, the workspace cannot be written, or not one scan of the cohort could be used.
    """
    from ctplatform.dataset.atlas import read_atlas

    start = time.monotonic()
    atlas_hash = read_atlas(workspace).hash
    run: Run = aside if len(cohort) > MANY else here
    first, *parts = run(plan_in_parts, workspace, cohort, recipe, atlas_hash)
    plan = value(first)
    if on_plan:
        on_plan(plan)
    if parts:
        settings = settings_hash(recipe, atlas_hash)
        worker = Preparer(workspace, recipe.prepare, settings, process or process_scan)
        run_waves(parts, worker, recipe, run=run, total=plan.todo, on_progress=on_progress)
        _tidy(workspace, recipe)
    (outcome,) = run(_outcome, workspace, cohort["scan_id"], recipe.prepare.quality.use_flagged)
    counts, reasons = value(outcome)
    return PrepareSummary(
        counts=counts,
        done=plan.todo,
        skipped=plan.finished,
        reasons=reasons,
        causes=plan.causes,
        seconds=time.monotonic() - start,
    )


def _outcome(
    workspace: Workspace, scan_ids: pd.Series, use_flagged: bool
) -> Iterator[tuple[dict[str, int], dict[str, str]]]:
    """Once: scans by state, and why those that were not accepted were not. Raises StageError if none can be used."""
    rows = ledger.read_ledger(workspace, columns=["scan_id", "state", "reason"])
    rows = rows[rows["scan_id"].isin(scan_ids)]
    ledger.usable(rows, use_flagged=use_flagged)
    found = Counter(rows["state"])
    reasons = {r.scan_id: f"{r.state}: {r.reason}" for r in rows.itertuples() if r.state != "accepted"}
    yield {state: found[state] for state in ledger.STATES}, reasons


def _tidy(workspace: Workspace, recipe: Recipe) -> None:
    """Compaction in a task of its own, on a node that is there already: the driver never holds the ledger's footers."""
    import ray

    options = ray_options(recipe.placement.prepare)
    task = ray.remote(num_cpus=0.5, max_retries=RETRIES, **options)(_compact_and_sweep)
    ray.get(task.remote(workspace))


def _compact_and_sweep(workspace: Workspace) -> None:
    compact(workspace)
    sweep(workspace)
