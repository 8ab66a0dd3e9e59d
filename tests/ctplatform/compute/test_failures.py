"""Shortages are told by their remedy, however deep Ray has wrapped them."""

from __future__ import annotations

import errno

import pytest
from ray import exceptions as ray_errors

from ctplatform.compute.failures import explained
from ctplatform.errors import StageError
from ctplatform.storage import workspace as workspace_module
from ctplatform.storage.capacity import disk_full
from ctplatform.storage.workspace import Workspace


def test_a_full_disk_is_recognised_in_pythons_words_and_in_arrows():
    assert disk_full(OSError(errno.ENOSPC, "No space left on device"))
    assert disk_full(OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"))
    assert disk_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert not disk_full(OSError(errno.EIO, "Input/output error"))
    assert not disk_full(ValueError("[errno 28]"))


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


def test_a_write_that_does_not_fit_leaves_nothing_behind(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path)
    workspace.write_bytes(b"old", "x.bin")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ctplatform.storage.workspace.os.fsync", full)
    with pytest.raises(StageError, match="Free space there") as caught:
        workspace.write_bytes(b"new", "x.bin")
    assert caught.value.code == "disk-full"
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]
    assert workspace.read_bytes("x.bin") == b"old"


def test_pytorch_does_not_hide_that_a_disk_is_full(tmp_path):
    import torch

    class Full:
        def __init__(self, stream):
            self.stream = stream

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.stream, name)

    workspace = Workspace(tmp_path)
    real = workspace_module._Noticing
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace_module, "_Noticing", lambda stream: real(Full(stream)))
        with pytest.raises(StageError, match="No space left on device"):
            workspace.write_stream(lambda stream: torch.save({"x": torch.zeros(10)}, stream), "x.pt")
    assert not list(tmp_path.iterdir())
