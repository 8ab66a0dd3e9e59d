"""A full disk is recognised behind any library, and leaves the old content whole."""

from __future__ import annotations

import errno

import pytest

from ctplatform.errors import StageError
from ctplatform.storage import workspace as workspace_module
from ctplatform.storage.capacity import FULL_REMEDY, disk_full
from ctplatform.storage.workspace import Workspace


def test_a_full_disk_is_recognised_in_pythons_words_and_in_arrows():
    assert disk_full(OSError(errno.ENOSPC, "No space left on device"))
    assert disk_full(OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"))
    assert disk_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert not disk_full(OSError(errno.EIO, "Input/output error"))
    assert not disk_full(ValueError("[errno 28]"))


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
    real = workspace_module._ErrorKeepingStream
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace_module, "_ErrorKeepingStream", lambda stream: real(Full(stream)))
        with pytest.raises(StageError, match="No space left on device"):
            workspace.write_stream(lambda stream: torch.save({"x": torch.zeros(10)}, stream), "x.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_lack_of_space_and_quota(number):
    assert disk_full(OSError(number, "full"))
    assert disk_full(OSError(f"Error writing bytes: [errno {number}] no space"))


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EACCES, "denied"), OSError("[errno 280] other"), ValueError("[errno 28]"), OSError()],
)
def test_other_errors_are_none(error):
    assert not disk_full(error)


def test_a_write_to_a_full_disk_says_what_to_do():
    def write() -> None:
        with open("/dev/full", "wb", buffering=0) as stream:
            stream.write(b"x")

    with pytest.raises(StageError, match=FULL_REMEDY) as caught:
        Workspace("/dev").with_retries(write, "full")
    assert caught.value.code == "disk-full"
