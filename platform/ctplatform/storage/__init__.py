"""Where a workspace lies and what it is made of: files on disks and object stores, names, retries, lack of space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.storage.capacity import disk_full
    from ctplatform.storage.workspace import Workspace

__all__ = ["Workspace", "disk_full"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Workspace": "workspace",
        "disk_full": "capacity",
    },
)
