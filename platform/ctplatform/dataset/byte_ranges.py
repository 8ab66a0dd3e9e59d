"""Ranges of the shards' bytes, requested some time before they are used.

On a local disk a shard is mapped into memory, once, so that a range is a view of the kernel's page cache; a request
advises the kernel, which reads while others compute. Everywhere else (object stores, network file systems, where a lost
connection would kill a process that reads mapped memory) threads fetch the requested ranges, several at a time, as one
request after the other would leave a store's bandwidth unused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pyarrow as pa
import torch

from ctplatform.dataset import shards
from ctplatform.dataset.parquet_pages import Extent, PageError
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace

FETCHERS = 16
LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "overlay", "tmpfs"})

#: Returns the bytes of a requested range, and waits for them where it must.
Pending = Callable[[], "memoryview | bytes | pa.Buffer"]


class ByteRanges:
    """Ranges of the shards of one workspace.

    Args:
        workspace: holds the shards.
        mapped: whether to map files; None: if the workspace is on a local disk (`on_local_disk`).
    """

    def __init__(self, workspace: Workspace, *, mapped: bool | None = None) -> None:
        self._workspace = workspace
        here = workspace.is_local and on_local_disk(workspace.path())
        self._mapping = here if mapped is None else mapped
        self._maps: dict[str, memoryview] = {}
        self._streams: dict[str, pa.NativeFile] = {}
        self._pool: ThreadPoolExecutor | None = None

    def request(self, scan_id: str, extent: Extent) -> Pending:
        """Request a range. The returned function is called once, by any thread.

        Raises:
            StageError: there is no shard of that scan. Where it is fetched, the returned function raises this.
        """
        if self._mapping:
            try:
                return self._request_mapped(scan_id, extent)
            except MemoryError:
                self._mapping = False
        if self._pool is None:
            self._pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        return self._pool.submit(self._fetch, scan_id, extent).result

    def close(self) -> None:
        """Stop fetching; requests that wait are cancelled. A later request starts the threads again."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _request_mapped(self, scan_id: str, extent: Extent) -> Pending:
        path, file = self._open(scan_id)
        try:
            if scan_id not in self._maps:
                self._maps[scan_id] = _mapped(path, os.fstat(file).st_size)
            if not _in_memory(file, extent.offset + extent.size // 2):
                os.posix_fadvise(file, extent.offset, extent.size, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(file)
        found = self._maps[scan_id][extent.offset : extent.offset + extent.size]
        if len(found) < extent.size:
            raise PageError(f"the file ends at byte {len(self._maps[scan_id])}, within a row group")
        return lambda: found

    def _fetch(self, scan_id: str, extent: Extent) -> bytes | pa.Buffer:
        if self._workspace.is_local:
            _, file = self._open(scan_id)
            try:
                # The bytes that follow belong to another block, read at another time: no read-ahead by the kernel.
                if hasattr(os, "posix_fadvise"):  # Linux
                    os.posix_fadvise(file, extent.offset, extent.size, os.POSIX_FADV_RANDOM)
                return os.pread(file, extent.size, extent.offset)
            finally:
                os.close(file)
        if scan_id not in self._streams:  # opening a file costs a request for its size
            self._streams[scan_id] = shards.stream(self._workspace, scan_id)
        return self._streams[scan_id].read_at(extent.size, extent.offset)

    def _open(self, scan_id: str) -> tuple[str, int]:
        """Path and descriptor of a shard in a local workspace."""
        path = self._workspace.path(*layout.shard(scan_id))
        try:
            return path, os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise shards.missing(self._workspace, scan_id) from None


def _mapped(path: str, size: int) -> memoryview:
    """A file's bytes, mapped as long as a reference to them exists.

    Raises:
        MemoryError: the system maps no more: vm.max_map_count, or a limit of the address space.
    """
    try:
        return torch.from_file(path, shared=False, size=size, dtype=torch.uint8).numpy().data.toreadonly()
    except RuntimeError as error:
        raise MemoryError(f"{path} cannot be mapped") from error


def _in_memory(file: int, offset: int) -> bool:
    """Whether the page cache holds the file's page at an offset; False where the file system does not report it."""
    try:
        return os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:
        return False


def on_local_disk(path: str) -> bool:
    """Whether a path is on a file system of a disk of this machine (`LOCAL`); False where the mounts are unknown."""
    try:
        mounts = psutil.disk_partitions(all=True)
    except (OSError, RuntimeError):  # no /proc; a system that psutil does not support
        return False
    real, kind, longest = os.path.realpath(path), "", -1
    for mount in mounts:
        point = mount.mountpoint
        if len(point) >= longest and os.path.commonpath([point, real]) == point:
            kind, longest = mount.fstype, len(point)
    return kind in LOCAL
