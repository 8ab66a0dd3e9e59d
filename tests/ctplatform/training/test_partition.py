"""Every block has one owner, loads are even, and numbers of workers that cannot train are refused."""

from __future__ import annotations

import numpy as np
import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.errors import ConfigError, StageError
from ctplatform.training import partition
from tests.ctplatform.training_world import SCANS, SETTINGS, recipe_with, small_atlas


@pytest.mark.parametrize("world", [1, 2, 3])
def test_blocks_are_owned_once_and_evenly(world):
    atlas = small_atlas()
    owned = [partition.blocks_of(atlas, rank, world) for rank in range(world)]
    assert sorted(block for blocks in owned for block in blocks) == list(range(atlas.num_blocks))
    sizes = [len(partition.locations_of(atlas, rank, world)) for rank in range(world)]
    assert max(sizes) - min(sizes) <= max(np.bincount(atlas.blocks_N))


def test_settings_that_cannot_be_distributed_are_refused():
    for overrides, text in (
        (("pretrain.memory=location_parallel", "pretrain.shuffle_keys=true"), "shuffle_keys has no meaning"),
        (("pretrain.min_workers=3",), "between 1 and num_workers=2"),
        (("pretrain.min_workers=1", "pretrain.shuffle_keys=true"), "same number of scans"),
    ):
        with pytest.raises(ConfigError, match=text):
            load_recipe("demo", [*SETTINGS, *overrides])
    atlas = small_atlas()
    with pytest.raises(StageError, match="3 blocks of locations for 4 workers"):
        partition.check_workers(recipe_with("pretrain.memory=location_parallel").pretrain, atlas, SCANS, 4)
    with pytest.raises(StageError, match="multiple of 4"):
        partition.check_workers(recipe_with("pretrain.shuffle_keys=true").pretrain, atlas, SCANS, 2)
    with pytest.raises(StageError, match="cannot feed 8 workers"):
        partition.check_workers(recipe_with().pretrain, atlas, SCANS, 8)
    with pytest.raises(StageError, match="less than 3 workers"):
        partition.check_workers(recipe_with("pretrain.scans_per_batch=2").pretrain, atlas, SCANS, 3)
