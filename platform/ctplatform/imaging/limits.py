"""How much one scan may take: voxels, unpacked bytes; checked by headers, before memory is taken.

The limits hold for everything that is read in the context, without being handed through every reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ctplatform.errors import ScanError

#: Bytes behind the voxels of a packed file that are let pass, since some writers pad.
SLACK_BYTES = 1 << 20
TOO_LARGE, TOO_SLOW = "too-large", "too-slow"


@dataclass(frozen=True)
class Limits:
    """What one scan may take.

    Attributes:
        max_voxels: of its volume; 1024 x 1024 x 1024 take 2 GiB as HU, and several times as much while they are read.
        max_bytes_unpacked: of a packed file's content.
    """

    max_voxels: int = 1 << 30
    max_bytes_unpacked: int = 8 << 30


_limits: ContextVar[Limits] = ContextVar("limits", default=Limits())  # noqa: B039  (frozen)


@contextmanager
def reading_limits(limits: Limits) -> Iterator[None]:
    """Other limits for the duration of the block."""
    token = _limits.set(limits)
    try:
        yield
    finally:
        _limits.reset(token)


def check_voxels(shape: tuple[int, ...]) -> None:
    """Whether a volume of this size may be read.

    Raises:
        ScanError: too-large.
    """
    most = _limits.get().max_voxels
    if prod(shape) > most:
        raise ScanError(
            f"the header claims {' x '.join(map(str, shape))} voxels, more than prepare.max_voxels={most:,}",
            "Check what the file is; for a scan of this size set the key higher",
            code=TOO_LARGE,
        )


def unpacked_limit(needed: int) -> int:
    """Bytes that a packed file may unpack to, where its header needs so many.

    Raises:
        ScanError: too-large, where it needs more than `max_bytes_unpacked`.
    """
    most = _limits.get().max_bytes_unpacked
    if needed > most:
        raise ScanError(
            f"the header claims {needed:,} bytes of voxels, more than prepare.max_bytes_unpacked={most:,}",
            "Check what the file is; for a scan of this size set the key higher",
            code=TOO_LARGE,
        )
    return min(needed + SLACK_BYTES, most)


def unpacks_to_more() -> ScanError:
    """The error of a packed file with more content than its header says."""
    return ScanError(
        "the packed data is larger than the header says",
        "Check what the file is; export the scan again",
        code=TOO_LARGE,
    )


def check_regular(path: Path) -> None:
    """Whether a path leads to a regular file: reading a pipe or a device may never end.

    Raises:
        ScanError: not-a-file.
    """
    if not path.is_file():
        raise ScanError(
            "the path leads to no regular file (a pipe, a socket or a device)",
            "Give the file or folder of the scan",
            code="not-a-file",
        )
