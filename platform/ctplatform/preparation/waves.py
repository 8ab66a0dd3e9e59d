"""The work list of prepare in waves: one Ray task a scan, some thousand scans to a Ray Data execution.

The process that runs an execution keeps about a kibibyte of each of its tasks until it ends. So each wave of a large
cohort runs in a process of its own (`isolation.isolated`), and the driver's memory does not grow.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from ctplatform.compute.cpu_slots import slots_of_this_node
from ctplatform.compute.isolation import PART_SIZE, Runner, resolve
from ctplatform.compute.placement import ray_options
from ctplatform.compute.ray_internals import CPU_COUNTING, TASK_POLLING
from ctplatform.compute.session import silence
from ctplatform.config.preparation import PrepareConfig
from ctplatform.config.recipe import Recipe
from ctplatform.errors import StageError
from ctplatform.preparation.scan import Process, commit, finished_row, new_row, prepare_scan
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import ray

#: A scan whose worker dies this often (out of memory, or a crash of a decoder) ends as failed, and the others go on.
RETRIES = 3
#: Scans of a wave for each CPU of the cluster: while its last scans leave CPUs idle, a hundredth of its time passes.
SCANS_PER_CPU = 100
#: Seconds for `TASK_POLLING`.
POLLING_S = 0.02
#: Seconds for `CPU_COUNTING`, until the first scan ends.
COUNTING_S = 0.1

_STOPPED = "stopped"
_CRASHED = {
    "state": "failed",
    "reason": "the worker process died each time it worked on this scan: out of memory, or a crash of a decoder",
    "remedy": "Give a scan more memory (prepare.memory_gb), or export it again; the next run tries it again",
    "code": "crashed",
}

logger = logging.getLogger(__name__)


def prepare_in_waves(
    parts: Sequence[list[dict[str, Any]] | ray.ObjectRef[Any]],
    worker: Preparer,
    recipe: Recipe,
    *,
    runner: Runner,
    total: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Prepare all scans of the parts, wave by wave. A wave whose process dies is repeated for its unfinished scans.

    Args:
        parts: the items of a plan in pieces of `isolation.PART_SIZE`, or references to such pieces.
        worker: does one scan.
        recipe: where scans run, and on how much.
        runner: `isolated`, or `in_this_process` for few scans.
        total: scans of all parts.
        on_progress: called with (scans done, total).

    Raises:
        StageError: an error that is not the scan's own (no space, no permission), or a wave's process died
            1 + `RETRIES` times.
    """
    done, reported, left = 0, 0, list(parts)

    def report(seen: int) -> None:
        nonlocal reported
        if done + seen > reported:  # a wave that is repeated counts from its beginning
            reported = done + seen
            if on_progress:
                on_progress(reported, total)

    while left:
        count = _parts_of_a_wave()
        wave, left = left[:count], left[count:]
        done += _finish_wave(wave, worker, recipe, runner, report)


def _parts_of_a_wave() -> int:
    import ray

    cpus = float(ray.cluster_resources().get("CPU", 0))
    return max(1, round(SCANS_PER_CPU * cpus / PART_SIZE))


def _finish_wave(
    parts: Sequence[list[dict[str, Any]] | ray.ObjectRef[Any]],
    worker: Preparer,
    recipe: Recipe,
    runner: Runner,
    report: Callable[[int], None],
) -> int:
    """The number of its scans."""
    from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

    for _ in range(1 + RETRIES):
        seen = 0
        try:
            with closing(runner(_wave, worker, recipe, *parts)) as stream:
                for ref in stream:
                    resolve(ref)
                    seen += 1
                    report(seen)
            return seen
        except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as error:
            logger.warning(
                "a wave's process died after %d scans (%s); it is repeated", seen, type(error).__name__
            )
    raise StageError(
        f"the process that hands out the scans died {1 + RETRIES} times",
        "See whether the machine of the driver is short of memory, then run it again: finished scans are kept",
        code="crashed",
    )


def _wave(worker: Preparer, recipe: Recipe, *parts: list[dict[str, Any]]) -> Iterator[str]:
    """One Ray task a scan; the state of each as it ends. Scans whose task was lost with a node or a process, retries
    included, are tried once more; then they end as failed."""
    silence()
    left = [item for part in parts for item in part]
    for _ in range(2):
        dataset = one_task_a_scan(left, worker, recipe, prefetch=worker.prefetch)
        dataset.context.max_errored_blocks = (
            -1
        )  # a block is one scan: a lost one is no reason to stop the others
        seen = set()
        with TASK_POLLING.changed(POLLING_S), ExitStack() as start:
            start.enter_context(CPU_COUNTING.changed(COUNTING_S))
            for row in dataset.iter_rows():
                start.close()
                if row["state"] == _STOPPED:
                    raise StageError(row["problem"], row["remedy"], code=row["code"])
                seen.add(row["scan_id"])
                yield row["state"]
        left = [item for item in left if item["scan_id"] not in seen]
        if not left:
            return
    for item in left:
        row = new_row(item, worker.settings)
        # A worker can die between committing a scan and handing back its state.
        finished = finished_row(worker.workspace, item, row)
        if finished is None:
            commit(worker.workspace, row | _CRASHED)
        yield (finished or _CRASHED)["state"]


def one_task_a_scan(
    items: list[dict[str, Any]],
    worker: Callable[[dict[str, Any]], Any],
    recipe: Recipe,
    *,
    retries: int = RETRIES,
    prefetch: int = 0,
) -> ray.data.Dataset:
    """A dataset that applies a worker to each item, in a Ray task with the resources of a scan.

    Args:
        items: one a scan.
        worker: a picklable callable object.
        recipe: where scans run, and on how much.
        retries: of a task whose process died.
        prefetch: tasks that fetch their scan, or wait with it, for each that computes.
    """
    import ray
    from ray.util.annotations import RayDeprecationWarning

    tasks = 1 + prefetch
    with warnings.catch_warnings():
        # `max_retries` is none of the named parameters that replace Ray's remote arguments, which are deprecated;
        # without it Ray Data retries for ever, and one bad scan would hold up all.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return ray.data.from_items(items, override_num_blocks=len(items)).map(
            worker,
            num_cpus=recipe.prepare.num_cpus / tasks,
            memory=recipe.prepare.memory_gb * 2**30 / tasks or None,
            max_retries=retries,
            **ray_options(recipe.placement.prepare),
        )


class Preparer:
    """Row -> committed scan. Picklable; the atlas is read once a worker process.

    Args:
        workspace: holds the atlas; receives shards and rows.
        config: how scans are prepared.
        settings: `plan.settings_hash` of the run.
        process: what makes patches and measures of a scan: `scan.process_scan`.
        prefetch: series that are fetched ahead for each scan that computes.
    """

    def __init__(
        self,
        workspace: Workspace,
        config: PrepareConfig,
        settings: str,
        process: Process,
        *,
        prefetch: int = 0,
    ) -> None:
        self.workspace, self.config, self.settings, self.process = workspace, config, settings, process
        self.prefetch = prefetch

    def __call__(self, item: dict[str, Any]) -> dict[str, str]:
        if self.prefetch:
            item = item | {"slots": slots_of_this_node(self.config.num_cpus)}
        outcome = {"scan_id": item["scan_id"], "problem": "", "remedy": "", "code": ""}
        try:
            row = prepare_scan(
                self.workspace, item, self.config, config_hash=self.settings, process=self.process
            )
        except StageError as error:  # as a value: Ray Data counts a task's exceptions and does not show them
            return outcome | {
                "state": _STOPPED, "problem": error.problem, "remedy": error.remedy, "code": error.code
            }  # fmt: skip
        return outcome | {"state": row["state"]}
