"""Errors of Ray in the platform's words: shortages of disk, memory and object store, each with a remedy.

Ray wraps an error of a node in errors of its own, often several deep. The user should read the innermost one that has
a remedy.
"""

from __future__ import annotations

from collections.abc import Iterator

from ctplatform.errors import PlatformError, StageError
from ctplatform.storage.capacity import FULL_REMEDY, GOES_ON, disk_full


def explained(error: BaseException) -> BaseException:
    """The `PlatformError` below an error of Ray; else a `StageError` that names a shortage; else the error itself."""
    from ray import exceptions as ray_errors

    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, PlatformError) and not isinstance(cause, ray_errors.RayError):
            return cause
    for cause in chain:
        found = _shortage(cause)
        if found:
            return found
    return error


def _shortage(error: BaseException) -> StageError | None:
    from ray import exceptions as ray_errors

    if isinstance(error, ray_errors.OutOfDiskError):
        return StageError(
            "a node's disk is nearly full, and Ray writes nothing more to it",
            "Free space where Ray's temporary folder is (/tmp/ray), or start Ray with --temp-dir on another disk; "
            + GOES_ON,
            code="node-disk",
        )
    if isinstance(error, ray_errors.ObjectStoreFullError):
        return StageError(
            "Ray's object store is full",
            f"Start the nodes with more --object-store-memory, or run fewer tasks at once; {GOES_ON}",
            code="object-store",
        )
    if isinstance(error, ray_errors.OutOfMemoryError):
        return StageError(
            "a node ran out of memory, and Ray ended the task that took most of it",
            f"Run fewer tasks a node (num_cpus or memory_gb of the stage), or take larger nodes; {GOES_ON}",
            code="memory",
        )
    if disk_full(error):
        return StageError("a disk is full", f"{FULL_REMEDY}; {GOES_ON}", code="disk-full")
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, outermost first; Ray's errors have theirs in `cause`."""
    seen: set[int] = set()
    left = [error]
    while left:
        here = left.pop(0)
        if id(here) in seen:
            continue
        seen.add(id(here))
        yield here
        # Ray Train's error has those of its workers by rank.
        failures = getattr(here, "worker_failures", None)
        inner = list(failures.values()) if isinstance(failures, dict) else []
        for below in (getattr(here, "cause", None), here.__cause__, *inner, here.__context__):
            if isinstance(below, BaseException):
                left.append(below)
