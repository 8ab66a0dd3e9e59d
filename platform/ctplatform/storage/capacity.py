"""TODO."""

from __future__ import annotations

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_REMEDY = "Free space there, or give more of it"
GOES_ON = "the same command goes on where this one stopped"


def disk_full(error: BaseException) -> bool:
    """Whether a file could not be written for want of space or quota."""
    if not isinstance(error, OSError):
        return False
    # Arrow's file systems give the number in the message only.
    return error.errno in FULL or any(f"[errno {number}]" in str(error) for number in FULL)
