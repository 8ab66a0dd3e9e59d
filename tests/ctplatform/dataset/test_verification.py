"""A file that was cut, emptied or overwritten is named with what to do; nothing else is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ctplatform.dataset import ledger
from ctplatform.dataset.verification import verify_data
from ctplatform.errors import StageError
from ctplatform.storage.layout import shard
from tests.ctplatform.training_world import training_workspace


@pytest.fixture
def workspace(tmp_path):
    """Shards s0 to s6; s1 has a checksum in the ledger, the others are as of version 0.1.0."""
    workspace = training_workspace(tmp_path)
    row = ledger.read_row(workspace, "s1", 1)
    digest = hashlib.sha256(workspace.read_bytes(*shard("s1"))).hexdigest()
    ledger.write_row(workspace, row | {"shard_sha256": digest})
    return workspace


def found(workspace):
    return {"/".join(damage.parts): damage for damage in verify_data(workspace)}


def altered(workspace, *parts, change):
    path = Path(workspace.path(*parts))
    path.write_bytes(change(path.read_bytes()))


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


def test_nothing_is_damaged_at_first(workspace):
    seen = []
    assert verify_data(workspace, on_progress=lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (7, 7)


def test_shards_are_compared_with_what_was_written(workspace):
    altered(workspace, *shard("s0"), change=lambda data: data[:-100])
    altered(workspace, *shard("s1"), change=flipped)
    altered(workspace, *shard("s2"), change=lambda data: b"\0" * len(data))
    altered(workspace, *shard("s3"), change=lambda _: b"")
    workspace.delete(*shard("s4"))
    damaged = found(workspace)
    assert sorted(damaged) == [f"patches/s{number}.parquet" for number in range(5)]
    assert "bytes of" in damaged["patches/s0.parquet"].problem
    assert damaged["patches/s1.parquet"].problem == "its bytes are not those that were written"
    assert damaged["patches/s2.parquet"].problem == "it cannot be decoded"
    assert damaged["patches/s4.parquet"].problem == "missing"
    assert all("verify --discard" in damage.remedy for damage in damaged.values())


@pytest.mark.parametrize("change", [lambda data: data[: len(data) // 2], lambda _: b""], ids=["cut", "empty"])
@pytest.mark.parametrize("parts", [("atlas", "atlas.json"), ("splits.json",), ("scans", "s2.1.parquet")])
def test_small_files_are_named_by_their_readers_too(workspace, parts, change):
    altered(workspace, *parts, change=change)
    damaged = found(workspace)
    assert list(damaged) == ["/".join(parts)]
    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.dataset.splits import read_split

    read = {"atlas": read_atlas, "splits.json": read_split, "scans": ledger.read_ledger}[parts[0]]
    with pytest.raises(StageError, match="damaged") as caught:
        read(workspace)
    assert parts[-1] in str(caught.value)
    assert "elete" in caught.value.remedy or "Restore" in caught.value.remedy


def test_keys_of_newer_versions_are_ignored(workspace):
    from ctplatform.dataset.splits import read_split

    split = workspace.read_json("splits.json")
    workspace.write_json({"later": 1, **split}, "splits.json")
    assert list(read_split(workspace).train) == split["train"]
    workspace.write_json({"test": []}, "splits.json")
    with pytest.raises(StageError, match=r"splits\.json is damaged: it lacks train"):
        read_split(workspace)
