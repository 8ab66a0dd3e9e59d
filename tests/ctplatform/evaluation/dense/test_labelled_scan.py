"""A labelled scan made ready from its files."""

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.evaluation.dense.lung_volume import read_labels
from ctplatform.evaluation.dense.tiles import read_tiles


def test_label_maps_come_onto_the_cube(real_volume):
    workspace, source, facts, volume, row = real_volume
    maps = {m.task: read_labels(workspace, *source.labels_path(m)) for m in source.maps}
    subtypes, lobes = maps["emphysema_subtypes"], maps["lobes"]
    assert (subtypes > 0)[volume.lungs_ZYX].mean() > 0.9
    assert set(np.unique(lobes)) == set(range(6))
    assert facts["lobes"]["voxels"] == np.bincount(lobes.ravel(), minlength=6)[1:].tolist()
    truth = sitk.GetArrayFromImage(sitk.ReadImage(row["subtype_map"]))
    share = (truth > 1).sum() / (truth > 0).sum()
    assert (subtypes > 1).sum() / (subtypes > 0).sum() == pytest.approx(share, abs=0.01)
    tiles = read_tiles(workspace, *source.tiles_path(source.maps[0], 16))
    np.testing.assert_array_equal(
        tiles.counts_MC.sum(0) + tiles.missed_C, facts["emphysema_subtypes"]["voxels"]
    )
