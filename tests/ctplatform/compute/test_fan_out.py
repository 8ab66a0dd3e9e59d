"""Results come in the order of the work, whatever order the tasks end in, and never more tasks than allowed."""

from __future__ import annotations

import os
import time

import pytest
import ray

from ctplatform.compute.fan_out import as_completed, fan_out
from ctplatform.errors import StageError

pytestmark = pytest.mark.usefixtures("ray_local")


@ray.remote(num_cpus=0)
def squared(number: int, wait_s: float = 0.0) -> int:
    time.sleep(wait_s)
    return number**2


@ray.remote(num_cpus=0, max_retries=0)
def failing(number: int) -> int:
    if number == 2:
        raise StageError("two is refused", "Leave it out", code="two")
    time.sleep(0.2)
    return number


def slower_first(number: int) -> ray.ObjectRef:
    return squared.remote(number, 0.4 - 0.1 * number)


@pytest.mark.parametrize("in_flight", [None, 1, 3, 100])
@pytest.mark.parametrize("progress", [False, True])
def test_results_are_in_the_order_of_the_items(in_flight, progress):
    seen: list[int] = []
    found = fan_out(
        slower_first, iter(range(5)), in_flight=in_flight, on_progress=seen.append if progress else None
    )
    assert found == [0, 1, 4, 9, 16]
    assert seen == ([1, 2, 3, 4, 5] if progress else [])


@pytest.mark.parametrize("in_flight", [None, 2])
def test_no_items_are_no_results(in_flight):
    assert fan_out(squared.remote, [], in_flight=in_flight) == []


def test_no_more_items_are_taken_than_tasks_may_be_in_flight():
    taken, taken_at_result = [], []

    def items():
        for number in range(12):
            taken.append(number)
            yield number

    fan_out(squared.remote, items(), in_flight=3, on_progress=lambda done: taken_at_result.append(len(taken)))
    assert [taken - done for done, taken in enumerate(taken_at_result)] == [3] * 10 + [2, 1]


def test_without_a_limit_all_are_submitted_before_the_first_is_awaited():
    taken_at_result, taken = [], []

    def submit(number: int) -> ray.ObjectRef:
        taken.append(number)
        return squared.remote(number)

    fan_out(submit, range(6), on_progress=lambda done: taken_at_result.append(len(taken)))
    assert taken_at_result == [6] * 6


@pytest.mark.parametrize("options", [{}, {"in_flight": 2}, {"on_progress": lambda done: None}])
def test_the_first_error_ends_it(options):
    with pytest.raises(StageError, match="two is refused"):
        fan_out(failing.remote, range(6), **options)


def test_tasks_of_two_kinds_in_one_fan_out():
    """As a search submits them: one task an item, or one that takes the results of others."""

    @ray.remote(num_cpus=0)
    def total(*parts: int) -> int:
        return sum(parts)

    def submit(number: int) -> ray.ObjectRef:
        if number % 2:
            return total.remote(*(squared.remote(n) for n in range(number + 1)))
        return squared.remote(number)

    assert fan_out(submit, range(4), in_flight=1) == [0, 1, 4, 14]


@pytest.mark.parametrize("in_flight", [1, 3, 100])
def test_results_as_they_end_name_their_items(in_flight):
    found = list(as_completed(slower_first, iter(range(5)), in_flight=in_flight))
    assert sorted(found) == [(0, 0), (1, 1), (2, 4), (3, 9), (4, 16)]
    if in_flight == 1:
        assert found == sorted(found)


def test_a_lost_task_is_a_result_and_the_others_continue():
    @ray.remote(num_cpus=0, max_retries=0)
    def dying(number: int) -> int:
        if number == 1:
            os._exit(1)
        return number

    found = dict(as_completed(dying.remote, [0, 1, 2], in_flight=1))
    assert (found[0], found[2]) == (0, 2)
    assert isinstance(found[1], ray.exceptions.WorkerCrashedError)
