"""Shortages end in an error with a remedy, however deep Ray has wrapped them."""

from __future__ import annotations

import errno

import pytest
from ray import exceptions as ray_errors

from ctplatform.compute.failures import explained
from ctplatform.errors import StageError


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (ray_errors.OutOfDiskError("x"), "node-disk"),
        (ray_errors.ObjectStoreFullError("x"), "object-store"),
        (ray_errors.OutOfMemoryError("x"), "memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk-full"),
        (StageError("a", "b", code="mine"), "mine"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_behind_an_error_of_rays(cause, code):
    error = RuntimeError("all went wrong")
    error.__cause__ = ray_errors.RayTaskError("f", "traceback", cause)
    found = explained(error)
    assert isinstance(found, StageError)
    assert found.code == code


def test_other_errors_stay_what_they_are():
    error = ValueError("x")
    assert explained(error) is error
    circle = RuntimeError("y")
    circle.__cause__, error.__cause__ = error, circle
    assert explained(error) is error


def test_an_error_of_ours_in_a_task_comes_out_as_itself(ray_local):
    import ray

    @ray.remote(max_retries=0)
    def fail() -> None:
        raise StageError("the shelf is empty", "Fill it", code="shelf")

    with pytest.raises(StageError) as caught:
        ray.get(fail.remote())
    found = explained(caught.value)
    assert str(found) == "the shelf is empty. Fill it."
