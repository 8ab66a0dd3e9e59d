"""Cohort to shards with Ray Data: one task reads, masks, registers, samples and writes one scan.

The task itself commits the scan (shard, then ledger row), so a killed worker, a retry or a second run leaves each
scan whole or absent, and neither a volume nor a patch passes through the object store.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ctplatform import ledger
from ctplatform.compaction import compact, sweep
from ctplatform.config import PrepareConfig, Recipe
from ctplatform.errors import StageError
from ctplatform.placement import ray_options
from ctplatform.plan import Plan, make_plan, settings_hash
from ctplatform.scan import Process, new_row, prepare_scan, process_scan, settle
from ctplatform.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import ray


#: A scan whose worker dies this often (killed for its memory, crashed in a decoder) is given up, and the others go on.
RETRIES = 3
#: Seconds after which Ray Data looks again for tasks that have ended. Its own tenth of a second leaves a core idle
#: after each scan, for about a tenth of what a scan takes.
LOOK_EVERY_S = 0.03


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
    from ctplatform.atlas import read_atlas

    start = time.monotonic()
    atlas_hash = read_atlas(workspace).hash
    plan = make_plan(workspace, cohort, recipe, atlas_hash)
    if on_plan:
        on_plan(plan)
    if plan.items:
        worker = _Preparer(
            workspace, recipe.prepare, settings_hash(recipe, atlas_hash), process or process_scan
        )
        _run(plan.items, worker, recipe, on_progress)
        _tidy(workspace, recipe)
    rows = ledger.read_ledger(workspace, columns=["scan_id", "state", "reason"])
    rows = rows[rows["scan_id"].isin(cohort["scan_id"])]
    summary = PrepareSummary(
        counts={state: Counter(rows["state"])[state] for state in ledger.STATES},
        done=len(plan.items),
        skipped=plan.finished,
        reasons={r.scan_id: f"{r.state}: {r.reason}" for r in rows.itertuples() if r.state != "accepted"},
        causes=plan.causes,
        seconds=time.monotonic() - start,
    )
    ledger.usable(rows, use_flagged=recipe.prepare.quality.use_flagged)
    return summary


def _run(
    items: list[dict[str, Any]],
    worker: _Preparer,
    recipe: Recipe,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """One Ray task a scan. Scans whose task was lost with a node or a process, retries included, are tried once more;
    then they end as failed.

    Raises:
        StageError: what a task met is no fault of its scan.
    """
    left, done = items, 0
    for _ in range(2):
        dataset = _one_task_a_scan(left, worker, recipe)
        dataset.context.max_errored_blocks = -1  # a block is a scan here, and a lost one no reason to stop
        seen = set()
        with _attentive():
            for row in dataset.iter_rows():
                if row["state"] == _STOPPED:
                    raise StageError(row["problem"], row["remedy"], code=row["code"])
                seen.add(row["scan_id"])
                done += 1
                if on_progress:
                    on_progress(done, len(items))
        left = [item for item in left if item["scan_id"] not in seen]
        if not left:
            return
    for item in left:
        row = new_row(item, worker.wanted)
        settle(worker.workspace, row | _CRASHED)


@contextmanager
def _attentive() -> Iterator[None]:
    """Ray Data looks every `LOOK_EVERY_S`. It has no setting for that: where a version of it keeps the number under
    another name, it goes on at its own pace."""
    name = "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S"
    try:
        state = import_module("ray.data._internal.execution.streaming_executor_state")
        before = getattr(state, name)
    except (ImportError, AttributeError):
        yield
        return
    setattr(state, name, LOOK_EVERY_S)
    try:
        yield
    finally:
        setattr(state, name, before)


def _one_task_a_scan(items: list[dict[str, Any]], worker: _Preparer, recipe: Recipe) -> ray.data.Dataset:
    import ray
    from ray.util.annotations import RayDeprecationWarning

    with warnings.catch_warnings():
        # There is no other way yet to say this, and by itself Ray Data never gives up: one bad scan would hold up all.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return ray.data.from_items(items, override_num_blocks=len(items)).map(
            worker,
            num_cpus=recipe.prepare.num_cpus,
            memory=recipe.prepare.memory_gb * 2**30 or None,
            max_retries=RETRIES,
            **ray_options(recipe.placement.prepare),
        )


def _tidy(workspace: Workspace, recipe: Recipe) -> None:
    """Compaction in a task of its own, on a node that is there already: the driver never holds the ledger's footers."""
    import ray

    options = ray_options(recipe.placement.prepare)
    task = ray.remote(num_cpus=0.5, max_retries=RETRIES, **options)(_compact_and_sweep)
    ray.get(task.remote(workspace))


def _compact_and_sweep(workspace: Workspace) -> None:
    compact(workspace)
    sweep(workspace)


_STOPPED = "stopped"
_CRASHED = {
    "state": "failed",
    "reason": "the worker process died each time it worked on this scan: out of memory, or a crash of a decoder",
    "remedy": "Give a scan more memory (prepare.memory_gb), or export it again; the next run tries it again",
    "code": "crashed",
}


class _Preparer:
    """Row -> committed scan. Picklable; the atlas is read once a worker process."""

    def __init__(self, workspace: Workspace, config: PrepareConfig, wanted: str, process: Process) -> None:
        self.workspace, self.config, self.wanted, self.process = workspace, config, wanted, process

    def __call__(self, item: dict[str, Any]) -> dict[str, str]:
        told = {"scan_id": item["scan_id"], "problem": "", "remedy": "", "code": ""}
        try:
            row = prepare_scan(
                self.workspace, item, self.config, config_hash=self.wanted, process=self.process
            )
        except StageError as error:  # told as a value: exceptions of a task are counted, not shown
            return told | {
                "state": _STOPPED, "problem": error.problem, "remedy": error.remedy, "code": error.code
            }  # fmt: skip
        return told | {"state": row["state"]}
