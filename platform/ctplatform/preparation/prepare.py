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

from ctplatform.compute.isolation import PART_SIZE, Runner, in_this_process, isolated, resolve
from ctplatform.compute.placement import ray_options
from ctplatform.config.recipe import Recipe
from ctplatform.dataset import ledger
from ctplatform.dataset.compaction import compact, remove_leftovers
from ctplatform.preparation.plan import Plan, plan_in_parts, settings_hash
from ctplatform.preparation.scan import Process, process_scan
from ctplatform.preparation.waves import RETRIES, Preparer, prepare_in_waves
from ctplatform.storage.public import public_place
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PrepareSummary:
    """The outcome of `prepare`.

    Attributes:
        counts: scans of the table by state.
        done: scans prepared in this run.
        skipped: scans that were finished before.
        reasons: scan_id -> "state: reason" of those that were not accepted, the worst first.
        causes: scans prepared in this run by cause.
        seconds: wall-clock time.
    """

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
        recipe: its section `prepare`.
        on_plan: called with the plan before any of it is done.
        on_progress: called with (scans done, scans to do) in this run.
        process: what makes patches and measures of a scan; None: `scan.process_scan`. Simulations have their own.

    Raises:
        StageError: no atlas yet, the workspace cannot be written, or not one scan of the cohort could be used.
    """
    from ctplatform.dataset.atlas import read_atlas

    start = time.monotonic()
    atlas_hash = read_atlas(workspace).hash
    runner: Runner = isolated if len(cohort) > PART_SIZE else in_this_process
    first, *parts = runner(plan_in_parts, workspace, cohort, recipe, atlas_hash)
    plan = resolve(first)
    if on_plan:
        on_plan(plan)
    if parts:
        settings = settings_hash(recipe, atlas_hash)
        fetched = any(public_place(str(path)) for path in cohort["path"])
        prefetch = recipe.prepare.prefetch if fetched else 0
        worker = Preparer(workspace, recipe.prepare, settings, process or process_scan, prefetch=prefetch)
        prepare_in_waves(parts, worker, recipe, runner=runner, total=plan.todo, on_progress=on_progress)
        _tidy(workspace, recipe)
    (outcome,) = runner(_outcome, workspace, cohort["scan_id"], recipe.prepare.quality.use_flagged)
    counts, reasons = resolve(outcome)
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
    """Yields once: scans by state, and the reasons of those that were not accepted. Raises StageError if no scan can be
    used."""
    rows = ledger.read_ledger(workspace, columns=["scan_id", "state", "reason", "dice"])
    rows = rows[rows["scan_id"].isin(scan_ids)]
    ledger.usable(rows, use_flagged=use_flagged)
    found = Counter(rows["state"])
    worst = ledger.worst_first(rows[rows["state"] != "accepted"])
    reasons = {r.scan_id: f"{r.state}: {r.reason}" for r in worst.itertuples()}
    yield {state: found[state] for state in ledger.STATES}, reasons


def _tidy(workspace: Workspace, recipe: Recipe) -> None:
    """Compaction in a task of its own: the shards' footers, which the ledger holds, never fill the driver's memory."""
    import ray

    options = ray_options(recipe.placement.prepare)
    task = ray.remote(num_cpus=0.5, max_retries=RETRIES, **options)(_tidy_ledger)
    ray.get(task.remote(workspace))


def _tidy_ledger(workspace: Workspace) -> None:
    compact(workspace)
    remove_leftovers(workspace)
