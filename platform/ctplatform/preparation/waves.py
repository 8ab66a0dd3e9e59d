"""The work list of prepare in waves: one Ray task a scan, some thousand scans to a Ray Data execution.

Whoever runs an execution keeps something of each of its tasks until it ends as a process, about a kibibyte a scan.
So each wave of a large cohort runs in a process of its own (`aside`), and the driver stays as it is.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ctplatform.compute.isolation import MANY, Run, value
from ctplatform.compute.placement import ray_options
from ctplatform.compute.session import hush
from ctplatform.config.preparation import PrepareConfig
from ctplatform.config.recipe import Recipe
from ctplatform.errors import StageError
from ctplatform.preparation.scan import Process, new_row, prepare_scan, settle
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import ray


#: A scan whose worker dies this often (killed for its memory, crashed in a decoder) is given up, and the others go on.
RETRIES = 3
#: Scans of a wave for each CPU of the cluster: its last scans leave CPUs idle, for a hundredth of its time then.
PER_CPU = 100
#: Seconds after which Ray Data looks again for tasks that have ended. Its own tenth of a second leaves a core idle
#: after each scan, for about a tenth of what a scan takes.
LOOK_EVERY_S = 0.02
_LOOKING = ("streaming_executor_state", "", "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S")
#: Seconds after which it asks again for the CPUs it may use, until the first scan ends. By itself it asks every second,
#: and has been told of none before: for that second it runs one task, however many CPUs there are.
COUNT_EVERY_S = 0.1
_COUNTING = ("resource_manager", "ResourceManager", "GLOBAL_LIMITS_UPDATE_INTERVAL_S")

_STOPPED = "stopped"
_CRASHED = {
    "state": "failed",
    "reason": "the worker process died each time it worked on this scan: out of memory, or a crash of a decoder",
    "remedy": "Give a scan more memory (prepare.memory_gb), or export it again; the next run tries it again",
    "code": "crashed",
}

logger = logging.getLogger(__name__)


def run_waves(
    parts: Sequence[list[dict[str, Any]] | ray.ObjectRef],
    worker: Preparer,
    recipe: Recipe,
    *,
    run: Run,
    total: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Prepare all scans of the parts, wave by wave. A wave whose process dies is gone on with.

    Args:
        parts: the items of a plan in pieces of `plan.MANY`, or references to such pieces.
        worker: does one scan.
        recipe: where scans run, and on how much.
        run: `aside`, or `here` for few scans.
        total: scans of all parts.
        on_progress: called with (scans done, total).

    Raises:
        StageError: what a task met is no fault of its scan, or a wave's process died again and again.
    """
    done, told, left = 0, 0, list(parts)

    def tell(seen: int) -> None:
        nonlocal told
        if done + seen > told:  # a wave that is gone on with counts from its beginning
            told = done + seen
            if on_progress:
                on_progress(told, total)

    while left:
        many = _parts_of_a_wave()
        wave, left = left[:many], left[many:]
        done += _run_wave(wave, worker, recipe, run, tell)


def _parts_of_a_wave() -> int:
    import ray

    return max(1, round(PER_CPU * ray.cluster_resources().get("CPU", 0) / MANY))


def _run_wave(
    parts: Sequence[list[dict[str, Any]] | ray.ObjectRef],
    worker: Preparer,
    recipe: Recipe,
    run: Run,
    tell: Callable[[int], None],
) -> int:
    """The number of its scans."""
    from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

    for _ in range(1 + RETRIES):
        seen = 0
        try:
            with closing(run(_wave, worker, recipe, *parts)) as stream:
                for ref in stream:
                    value(ref)
                    seen += 1
                    tell(seen)
            return seen
        except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as error:
            logger.warning("a wave died after %d scans (%s); gone on with", seen, type(error).__name__)
    raise StageError(
        f"the process that hands out the scans died {1 + RETRIES} times",
        "See whether the machine of the driver is short of memory, then run it again: finished scans are kept",
        code="crashed",
    )


def _wave(worker: Preparer, recipe: Recipe, *parts: list[dict[str, Any]]) -> Iterator[str]:
    """One Ray task a scan; the state of each as it ends. Scans whose task was lost with a node or a process, retries
    included, are tried once more; then they end as failed."""
    hush()
    left = [item for part in parts for item in part]
    for _ in range(2):
        dataset = _one_task_a_scan(left, worker, recipe)
        dataset.context.max_errored_blocks = -1  # a block is a scan here, and a lost one no reason to stop
        seen = set()
        with _changed(*_LOOKING, LOOK_EVERY_S), ExitStack() as start:
            start.enter_context(_changed(*_COUNTING, COUNT_EVERY_S))
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
        settle(worker.workspace, new_row(item, worker.wanted) | _CRASHED)
        yield _CRASHED["state"]


@contextmanager
def _changed(module: str, owner: str, name: str, value: float) -> Iterator[None]:
    """A number that Ray Data has no setting for, changed for a while; where a version of it keeps the number elsewhere,
    it goes on at its own pace."""
    try:
        holder = import_module(f"ray.data._internal.execution.{module}")
        holder = getattr(holder, owner) if owner else holder
        before = getattr(holder, name)
    except (ImportError, AttributeError):
        yield
        return
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


def _one_task_a_scan(items: list[dict[str, Any]], worker: Preparer, recipe: Recipe) -> ray.data.Dataset:
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


class Preparer:
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
