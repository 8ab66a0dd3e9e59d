"""Ranges are the file's bytes, mapped or fetched; and only disks of the machine's own are mapped."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from ctplatform.dataset import parquet_pages, shards
from ctplatform.dataset.byte_ranges import ByteRanges, on_local_disk
from ctplatform.errors import StageError
from ctplatform.storage.layout import PATCHES
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.objectstore import ObjectStore


@pytest.fixture(scope="module")
def shard(small_atlas, tmp_path_factory):
    """A workspace with one shard `a`, its bytes and its extents."""
    workspace, side = Workspace(tmp_path_factory.mktemp("ranges")), small_atlas.patch_size
    hu = np.random.default_rng(5).integers(-1024, 241, (small_atlas.num_locations, side, side, side))
    data, footer = shards.encode(
        scan_id="a",
        subject_id="a",
        hu_NDHW=hu.astype(np.int16),
        inside_N=np.ones(len(hu), np.float32),
        atlas=small_atlas,
        metadata={},
    )
    workspace.write_bytes(data, PATCHES, "a.parquet")
    found = shards.read_footer(footer)
    return (
        workspace,
        data,
        [parquet_pages.Extent.of(found, group, "patch") for group in range(found.num_row_groups)],
    )


@pytest.mark.parametrize("mapped", [True, False])
def test_what_is_taken_is_what_the_file_holds(shard, mapped):
    workspace, data, extents = shard
    opened = ByteRanges(workspace, mapped=mapped)
    for _ in range(2):  # again after it was closed, as every epoch does
        takes = [opened.request("a", extent) for extent in extents]
        for take, extent in zip(takes, extents, strict=True):
            assert bytes(memoryview(take())) == data[extent.offset : extent.offset + extent.size]
        opened.close()


def test_an_object_store_is_asked_once_for_each_range_and_once_for_each_size(shard):
    workspace, data, extents = shard
    store = ObjectStore()
    try:
        store.load(Path(workspace.path()), "w")
        opened = ByteRanges(Workspace(store.uri("w")))
        for _ in range(2):
            for take, extent in [
                (opened.request("a", extent), extent) for extent in extents[:1] * 2 + extents
            ]:
                assert bytes(memoryview(take())) == data[extent.offset : extent.offset + extent.size]
        asked = [request for request in store.requests if request.endswith("a.parquet")]
        assert asked.count("GET w/patches/a.parquet") == 2 * (2 + len(extents))
        # At first several threads may open it at once.
        assert 1 <= asked.count("HEAD w/patches/a.parquet") <= 2 + len(extents)
        before = asked.count("HEAD w/patches/a.parquet")
        opened.request("a", extents[0])()
        assert store.requests.count("HEAD w/patches/a.parquet") == before
        with pytest.raises(StageError, match="scan b has no shard"):
            opened.request("b", extents[0])()
        opened.close()
    finally:
        store.close()


def test_what_is_mapped_cannot_be_written(shard):
    workspace, data, extents = shard
    with pytest.raises(TypeError, match="read-only"):
        memoryview(ByteRanges(workspace, mapped=True).request("a", extents[0])())[0] = 0
    assert workspace.read_bytes(PATCHES, "a.parquet") == data


@pytest.mark.parametrize("mapped", [True, False])
def test_a_scan_without_a_shard_is_named(shard, mapped):
    workspace, _, extents = shard
    with pytest.raises(StageError, match="scan b has no shard"):
        ByteRanges(workspace, mapped=mapped).request("b", extents[0])()


def test_a_file_that_ends_too_early_is_refused(shard, tmp_path):
    _, data, extents = shard
    short = Workspace(tmp_path)
    short.write_bytes(data[: extents[-1].offset + 10], PATCHES, "a.parquet")
    with pytest.raises(parquet_pages.PageError, match="ends at byte"):
        ByteRanges(short, mapped=True).request("a", extents[-1])


def test_what_the_system_will_not_map_is_fetched(shard, tmp_path):
    """A file larger than memory and address space allow, of which only the beginning takes any disk."""
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "1":
        pytest.skip("this system maps anything")
    _, data, extents = shard
    large = Workspace(tmp_path)
    large.write_bytes(data, PATCHES, "a.parquet")
    try:
        os.truncate(large.path(PATCHES, "a.parquet"), 15 * 2**40)
    except OSError:
        pytest.skip("no such sparse file here")
    opened = ByteRanges(large, mapped=True)
    for extent in extents:
        taken = memoryview(opened.request("a", extent)())
        assert bytes(taken) == data[extent.offset : extent.offset + extent.size]
    assert opened._pool is not None
    opened.close()


def test_closing_ends_the_threads_that_fetch(shard):
    workspace, _, extents = shard
    before, opened = threading.active_count(), ByteRanges(workspace, mapped=False)
    for extent in extents * 10:
        opened.request("a", extent)
    opened.close()
    assert threading.active_count() == before


def test_only_disks_of_this_machine_are_local(tmp_path, monkeypatch):
    (tmp_path / "on nfs für CT" / "deep").mkdir(parents=True)
    mounts = tmp_path / "proc" / "self" / "mounts"
    mounts.parent.mkdir(parents=True)
    spaced = str(tmp_path / "on nfs für CT").replace(" ", "\\040")
    mounts.write_text(
        "/dev/sda1 / ext4 rw,relatime 0 0\n"
        f"store:/ct {spaced} nfs4 rw 0 0\n"
        f"/dev/sdb1 {spaced}/deep xfs rw 0 0\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
    assert on_local_disk(str(tmp_path))
    assert not on_local_disk(str(tmp_path / "on nfs für CT"))
    assert not on_local_disk(str(tmp_path / "on nfs für CT" / "patches" / "not yet there"))
    assert on_local_disk(str(tmp_path / "on nfs für CT" / "deep"))
    (tmp_path / "link").symlink_to(tmp_path / "on nfs für CT")
    assert not on_local_disk(str(tmp_path / "link"))
    mounts.unlink()
    assert not on_local_disk(str(tmp_path))
