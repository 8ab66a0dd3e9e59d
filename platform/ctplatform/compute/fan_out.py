"""Many Ray tasks of one kind: submitted, awaited, their results in the order of the work or as they end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import ray

Item = TypeVar("Item")


def fan_out(
    submit: Callable[[Item], ray.ObjectRef[Any]],
    items: Iterable[Item],
    *,
    in_flight: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Any]:
    """The results of one task an item, in the order of the items.

    Args:
        submit: starts the task of an item and returns the reference to its result.
        items: consumed in this thread, no faster than tasks are submitted.
        in_flight: tasks that may be pending or running, 1 or more; None: all of them are submitted before the first is
            awaited.
        on_progress: called in this thread with the number of results so far, after each.

    Raises:
        ray.exceptions.RayError: of the first task that failed. The others are not cancelled.
    """
    import ray

    if (
        in_flight is None and on_progress is None
    ):  # one call, where a call a task would look at all references
        return ray.get([submit(item) for item in items])
    pending: dict[ray.ObjectRef[Any], int] = {}
    results: dict[int, Any] = {}

    def collect(*, until: int) -> None:
        while len(pending) > until:
            (ready,), _ = ray.wait(list(pending))
            results[pending.pop(ready)] = ray.get(ready)
            if on_progress:
                on_progress(len(results))

    for number, item in enumerate(items):
        pending[submit(item)] = number
        if in_flight is not None:
            collect(until=in_flight - 1)
    collect(until=0)
    return [results[number] for number in range(len(results))]


def as_completed(
    submit: Callable[[Item], ray.ObjectRef[Any]], items: Iterable[Item], *, in_flight: int
) -> Iterator[tuple[int, Any]]:
    """The number of an item and the result of its task, as the tasks end; nothing is kept of what was yielded.

    A task whose process or node was lost, its retries included, yields that error, and the others continue.

    Args:
        submit: starts the task of an item and returns the reference to its result.
        items: consumed no faster than tasks are submitted.
        in_flight: tasks that may be pending or running, 1 or more.

    Raises:
        ray.exceptions.RayTaskError: a task raised.
    """
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

    pending: dict[ray.ObjectRef[Any], int] = {}

    def collect(*, until: int) -> Iterator[tuple[int, Any]]:
        while len(pending) > until:
            (ready,), _ = ray.wait(list(pending))
            number = pending.pop(ready)
            try:
                yield number, ray.get(ready)
            except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as error:
                yield number, error

    for number, item in enumerate(items):
        pending[submit(item)] = number
        yield from collect(until=in_flight - 1)
    yield from collect(until=0)
