"""Work in a process of its own: it is another one, it ends, and its errors arrive as they were."""

from __future__ import annotations

import os
import time

import psutil
import pytest
import ray

from ctplatform.compute.isolation import in_this_process, isolated, resolve
from ctplatform.errors import StageError
from tests.cluster.processes import until


def steps(fail):
    yield os.getpid()
    if fail:
        raise StageError("a", "b", code="c")
    yield os.getpid()


def test_isolated_work_has_a_process_of_its_own_that_ends(ray_local):
    first, second = (set(map(resolve, isolated(steps, False))) for _ in range(2))
    assert len(first) == len(second) == 1
    assert len(first | second | {os.getpid()}) == 3
    until(lambda: not any(map(psutil.pid_exists, first)), seconds=30)
    stream = isolated(steps, True)
    resolve(next(stream))
    with pytest.raises(StageError, match="a"):
        resolve(next(stream))


def doubled(numbers):
    for number in numbers:
        yield 2 * number


def endless(path):
    while True:
        yield path.touch()
        time.sleep(0.05)


@pytest.mark.parametrize("runner", [in_this_process, isolated])
def test_both_runners_yield_the_same(ray_local, runner):
    assert [resolve(item) for item in runner(doubled, [1, 2, 3])] == [2, 4, 6]


def test_arguments_that_are_references_are_passed_as_objects(ray_local):
    assert [resolve(item) for item in isolated(doubled, ray.put([5, 6]))] == [10, 12]


def test_in_this_process_it_is_this_process():
    assert list(in_this_process(steps, False)) == [os.getpid()] * 2
    stream = in_this_process(steps, True)
    assert next(stream) == os.getpid()
    with pytest.raises(StageError, match="a"):
        next(stream)


def test_closing_the_iterator_stops_the_process(ray_local, tmp_path):
    stream = isolated(endless, tmp_path / "alive")
    resolve(next(stream))
    stream.close()

    def stopped() -> bool:
        (tmp_path / "alive").unlink(missing_ok=True)
        time.sleep(0.5)
        return not (tmp_path / "alive").exists()

    until(stopped, seconds=30)


def test_errors_that_are_not_ours_stay_rays(ray_local):
    def failing():
        raise ZeroDivisionError
        yield

    with pytest.raises(ray.exceptions.RayTaskError):
        resolve(next(isolated(failing)))
    assert resolve(7) == 7
