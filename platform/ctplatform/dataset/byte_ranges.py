"""Ranges of the shards' bytes, asked for some time before they are wanted.

On a local disk a shard is mapped into memory, once, so that what is taken is the kernel's own copy of the file; to ask
is to tell the kernel, which reads while others compute. Everywhere else (object stores, network file systems, where
a lost connection would kill a process that reads mapped memory) threads fetch what is asked for, several at a time, as
one request after the other would leave a store's bandwidth unused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import torch

from ctplatform.dataset import shards
from ctplatform.dataset.parquet_pages import Extent, PageError
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace

FETCHERS = 16
LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "overlay", "tmpfs"})
MOUNTS = Path("/proc/self/mountinfo")

Take = Callable[[], "memoryview | bytes | pa.Buffer"]


class Ranges:
    """Ranges of the shards of one workspace.

    Args:
        workspace: where the shards are.
        mapped: whether to map files; None: where the workspace is on a local disk (`on_local_disk`).
    """

    def __init__(self, workspace: Workspace, *, mapped: bool | None = None) -> None:
        self._workspace = workspace
        here = workspace.is_local and on_local_disk(workspace.path())
        self._mapping = here if mapped is None else mapped
        self._maps: dict[str, memoryview] = {}
        self._streams: dict[str, pa.NativeFile] = {}
        self._pool: ThreadPoolExecutor | None = None

    def ask(self, scan_id: str, extent: Extent) -> Take:
        """What returns the range's bytes, waiting for them where it must; called once, by any thread.

        Raises:
            StageError: there is no shard of that scan. Where it is fetched, the returned function raises this.
        """
        if self._mapping:
            try:
                return self._ask_kernel(scan_id, extent)
            except MemoryError:
                self._mapping = False
        if self._pool is None:
            self._pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        return self._pool.submit(self._fetch, scan_id, extent).result

    def close(self) -> None:
        """Stop fetching; what was not fetched yet will not be. Whoever asks again starts it again."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _ask_kernel(self, scan_id: str, extent: Extent) -> Take:
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
                # What follows belongs to another block, wanted at another time: else the kernel reads it too.
                if hasattr(os, "posix_fadvise"):  # Linux
                    os.posix_fadvise(file, extent.offset, extent.size, os.POSIX_FADV_RANDOM)
                return os.pread(file, extent.size, extent.offset)
            finally:
                os.close(file)
        if scan_id not in self._streams:  # opening one costs a request of its own: for the size
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
    """A file's bytes, as long as somebody has them.

    Raises:
        MemoryError: the system maps no more: vm.max_map_count, or a limit of the address space.
    """
    try:
        return torch.from_file(path, shared=False, size=size, dtype=torch.uint8).numpy().data.toreadonly()
    except RuntimeError as error:
        raise MemoryError(f"{path} cannot be mapped") from error


def _in_memory(file: int, offset: int) -> bool:
    """Whether the kernel has the file's page at an offset; False where the file system cannot say."""
    try:
        return os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:
        return False


def on_local_disk(path: str) -> bool:
    """Whether a path is on a file system of this machine's own (`LOCAL`); False where this cannot be told."""
    try:
        lines = os.fsdecode(MOUNTS.read_bytes()).splitlines()
    except OSError:
        return False
    real, kind, longest = os.path.realpath(path), "", -1
    for line in lines:
        first, _, second = line.partition(" - ")
        mount = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), first.split()[4])
        if len(mount) >= longest and os.path.commonpath([mount, real]) == mount:
            kind, longest = second.split()[0], len(mount)
    return kind in LOCAL
