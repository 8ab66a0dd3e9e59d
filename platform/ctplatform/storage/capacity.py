"""Disks that are full: how such an error is recognised, and what to do about it."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_REMEDY = "Free space there, or give more of it"
GOES_ON = "the same command resumes where this one stopped"


def disk_full(error: BaseException) -> bool:
    """Whether a file could not be written because the disk or a quota is full."""
    if not isinstance(error, OSError):
        return False
    # Arrow's file systems give the number in the message only.
    return error.errno in _FULL or any(f"[errno {number}]" in str(error) for number in _FULL)
