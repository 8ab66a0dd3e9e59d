"""Work of the driver in a process of its own: its memory, and what Ray keeps of the tasks it starts, end with it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ctplatform.errors import PlatformError

if TYPE_CHECKING:
    import ray

#: Scans of one part of a large cohort's work list. A cohort is large if it has more: then Ray tasks read its files'
#: states, and isolated processes plan and hand out the work.
PART_SIZE = 1000

#: `isolated` or `in_this_process`.
Runner = Callable[..., Generator[Any, None, None]]


def in_this_process(steps: Callable[..., Iterator[Any]], *arguments: Any) -> Generator[Any, None, None]:
    """What the generator function yields, run in this process: for little work, which a process would cost seconds."""
    yield from steps(*arguments)


def isolated(
    steps: Callable[..., Iterator[Any]], *arguments: Any
) -> Generator[ray.ObjectRef[Any], None, None]:
    """References to what the generator function yields, as it does, run in a new process on this node.

    The process takes no CPU of Ray's count and is not started again if it dies: `resolve` of the next reference then
    raises Ray's error. Closing this iterator, or an exception while it waits, stops the process and the tasks it
    started.

    Args:
        steps: a generator function that can be pickled.
        arguments: its own; references to objects are passed as the objects.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    stream = _task(steps).options(scheduling_strategy=node).remote(*arguments)
    try:
        for ref in stream:  # noqa: UP028  (its own `close` raises)
            yield ref
    except BaseException:
        ray.cancel(stream)
        raise


@lru_cache
def _task(steps: Callable[..., Iterator[Any]]) -> Any:
    """Made once a function: Ray never drops a remote function."""
    import ray

    return ray.remote(num_cpus=0, max_calls=1, max_retries=0)(steps)


def resolve(ref: Any) -> Any:
    """The object of a reference; anything else as it is.

    Raises:
        PlatformError: which the task raised, as it was.
        ray.exceptions.RayError: anything else.
    """
    import ray

    if not isinstance(ref, ray.ObjectRef):
        return ref
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PlatformError):
            raise error.cause from None
        raise
