"""Work in a process of its own beside the driver: what it needs of memory, and what Ray keeps of the tasks it starts,
ends with it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ctplatform.errors import PlatformError

if TYPE_CHECKING:
    import ray

#: Scans; more are looked at by Ray tasks, and planned and done beside the driver, in parts of as many.
MANY = 1000

#: `aside` or `here`.
Run = Callable[..., Generator[Any, None, None]]


def here(steps: Callable[..., Iterator[Any]], *arguments: Any) -> Generator[Any, None, None]:
    """What the generator function yields, run in this process: for little work, which a process would cost seconds."""
    yield from steps(*arguments)


def aside(steps: Callable[..., Iterator[Any]], *arguments: Any) -> Generator[ray.ObjectRef, None, None]:
    """References to what the generator function yields, as it does, run in a new process on this node.

    The process takes no CPU from Ray's count and is not started again if it dies: the next reference then raises
    what Ray says. Closing this iterator, or an exception while it waits, stops the process and the tasks it started.

    Args:
        steps: a generator function that can be pickled.
        arguments: its own; references to objects are given as the objects.
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
    """Made once: Ray keeps each for good."""
    import ray

    return ray.remote(num_cpus=0, max_calls=1, max_retries=0)(steps)


def value(ref: Any) -> Any:
    """What a reference stands for; anything else as it is.

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
