"""Written == read, by us and by plain readers; a block's row group holds its halo."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ctplatform.dataset import shards
from ctplatform.errors import StageError
from ctplatform.storage.layout import PATCHES
from ctplatform.storage.workspace import Workspace


@pytest.fixture
def shard(small_atlas, tmp_path):
    rng = np.random.default_rng(0)
    side = small_atlas.patch_size
    hu = rng.integers(-1024, 240, (small_atlas.num_locations, side, side, side)).astype(np.int16)
    inside = rng.random(small_atlas.num_locations).astype(np.float32)
    data, footer = shards.encode(
        scan_id="a",
        subject_id="s",
        hu_NDHW=hu,
        inside_N=inside,
        atlas=small_atlas,
        metadata={"content_hash": "c"},
    )
    workspace = Workspace(tmp_path)
    workspace.write_bytes(data, PATCHES, "a.parquet")
    return workspace, hu, inside, footer


def test_all_patches_come_back_in_order(shard, small_atlas):
    workspace, hu, _, _ = shard
    locations, read = shards.read_patches(workspace, "a")
    assert locations.tolist() == list(range(small_atlas.num_locations))
    np.testing.assert_array_equal(read, hu)


def test_some_patches(shard):
    workspace, hu, _, _ = shard
    locations, read = shards.read_patches(workspace, "a", [5, 1])
    assert locations.tolist() == [1, 5]
    np.testing.assert_array_equal(read, hu[[1, 5]])


def test_any_subset_of_locations_in_any_order(shard, small_atlas):
    workspace, hu, _, _ = shard
    rng = np.random.default_rng(1)
    for count in (1, 3, small_atlas.num_locations // 2, small_atlas.num_locations):
        chosen = rng.permutation(small_atlas.num_locations)[:count]
        locations, read = shards.read_patches(workspace, "a", chosen)
        assert locations.tolist() == sorted(chosen.tolist())
        np.testing.assert_array_equal(read, hu[np.sort(chosen)])


def test_every_neighbour_of_a_blocks_locations_is_in_its_row_group(shard, small_atlas):
    workspace, hu, inside, footer = shard
    assert small_atlas.num_blocks > 1
    for index in range(small_atlas.num_blocks):
        block = shards.read_block(workspace, "a", index, footer=shards.read_footer(footer))
        home = block.locations_N[block.home_N]
        assert sorted(home) == sorted(small_atlas.members(index))
        assert set(small_atlas.neighbours_NK[home].ravel()) <= set(block.locations_N.tolist())
        np.testing.assert_array_equal(block.hu_NDHW, hu[block.locations_N])
        np.testing.assert_array_equal(block.inside_N, inside[block.locations_N])


def test_the_ledgers_footer_is_the_files_own(shard):
    workspace, _, _, footer = shard
    own = pq.read_metadata(workspace.path(PATCHES, "a.parquet"))
    kept = shards.read_footer(footer)
    assert kept.num_row_groups == own.num_row_groups
    assert [kept.row_group(i).to_dict() for i in range(kept.num_row_groups)] == [
        own.row_group(i).to_dict() for i in range(own.num_row_groups)
    ]


def test_pandas_reads_it_without_us(shard):
    workspace, hu, _, _ = shard
    path = workspace.path(PATCHES, "a.parquet")
    meta = pq.read_schema(path).metadata
    shape = tuple(int(n) for n in meta[b"drasclr.patch_shape"].decode().split(","))
    frame = pd.read_parquet(path)
    frame = frame[frame["home"]].set_index("location")
    patch = np.frombuffer(frame.loc[7, "patch"], "<i2").reshape(shape)
    np.testing.assert_array_equal(patch, hu[7])
    assert meta[b"drasclr.content_hash"] == b"c"


def test_patches_that_do_not_fit_the_atlas_are_refused(small_atlas):
    side = small_atlas.patch_size
    with pytest.raises(ValueError, match="the atlas requires"):
        shards.encode(
            scan_id="a",
            subject_id="s",
            hu_NDHW=np.zeros((3, side, side, side), np.int16),
            inside_N=np.ones(3),
            atlas=small_atlas,
            metadata={},
        )


@pytest.mark.parametrize("left", [b"not a shard", b""])
def test_a_damaged_shard_says_which_and_what_to_do(shard, left):
    workspace = shard[0]
    workspace.write_bytes(left, PATCHES, "a.parquet")
    with pytest.raises(StageError, match=r"scan a .* damaged") as caught:
        shards.read_patches(workspace, "a")
    assert "prepare" in caught.value.remedy


def test_a_missing_shard_says_what_to_do(tmp_path):
    with pytest.raises(StageError, match="drasclr prepare"):
        shards.read_patches(Workspace(tmp_path), "nobody")


def test_small_shards_hold_the_same_patches(small_atlas, tmp_path):
    """Neighbouring values of CT differ by little: smooth patches with noise, which random ones are not."""
    side, rng = small_atlas.patch_size, np.random.default_rng(0)
    shape = (small_atlas.num_locations, side, side, side)
    hu = (np.linspace(-900, -700, side) + rng.normal(0, 10, shape)).astype(np.int16)
    sizes = {}
    for name, level in shards.LEVELS.items():
        data, _ = shards.encode(
            scan_id=name,
            subject_id="s",
            hu_NDHW=hu,
            inside_N=np.ones(len(hu), np.float32),
            atlas=small_atlas,
            metadata={},
            level=level,
        )
        sizes[name] = len(data)
        workspace = Workspace(tmp_path)
        workspace.write_bytes(data, PATCHES, f"{name}.parquet")
        assert np.array_equal(shards.read_patches(workspace, name)[1], hu)
    assert sizes["small"] < 0.75 * sizes["fast"]
