"""A full disk is recognised by its number, or by the message that Arrow makes of it."""

from __future__ import annotations

import errno

import pytest

from ctplatform.errors import StageError
from ctplatform.storage.capacity import FULL_REMEDY, disk_full
from ctplatform.storage.workspace import Workspace


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
