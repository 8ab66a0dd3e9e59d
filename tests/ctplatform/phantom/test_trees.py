"""Vessel trees."""

from __future__ import annotations

import numpy as np
import pytest

from ctplatform.phantom.trees import grow


def test_tree_reaches_its_whole_territory() -> None:
    rng = np.random.default_rng(0)
    cloud = rng.uniform(-50, 50, (1024, 3))
    tree = grow(np.array([60.0, 0, 0]), cloud, levels=9, radius=5.0, rng=rng)
    assert len(tree.radius_N) == 2**10 - 2
    ends = tree.end_N3[tree.level_N == 8]
    gaps = np.linalg.norm(cloud[:, None] - ends[None], axis=2).min(axis=1)
    assert np.percentile(gaps, 90) < 20
    assert tree.radius_N[tree.level_N == 0].min() > tree.radius_N[tree.level_N == 8].max()
    with pytest.raises(ValueError, match="2048"):
        grow(np.zeros(3), cloud, levels=11, radius=5.0, rng=rng)
