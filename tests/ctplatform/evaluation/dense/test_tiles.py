"""Tiles of the lungs with the classes of a label map."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice

from ctplatform.evaluation.dense.tiles import label_tiles, training_rows
from ctplatform.metrics.overlap import pooled_dice, region_numbers
from tests.ctplatform.labelled_world import labelled


def test_the_map_of_a_perfect_classifier_is_the_truth():
    volume, subtypes, _ = labelled(np.random.default_rng(0))
    tiles = label_tiles(volume, subtypes, classes=4, stride=16)
    painted = tiles.windows.paint((tiles.classes_M + 1).astype(np.uint8), volume.lungs_ZYX)
    np.testing.assert_array_equal(painted, subtypes)


def test_training_windows_hold_as_many_of_each_class_and_stand_for_all():
    volume, subtypes, _ = labelled(np.random.default_rng(3))
    tiles = label_tiles(volume, subtypes, classes=4, stride=4)
    rows, weights = training_rows(tiles, count=20, scan_id="a")
    classes = tiles.classes_M
    assert set(np.unique(classes[rows], return_counts=True)[1]) == {10}
    for c in np.unique(classes):
        assert weights[classes[rows] == c].sum() == pytest.approx((classes == c).sum())
    np.testing.assert_array_equal(training_rows(tiles, count=20, scan_id="a")[0], rows)
    assert not np.array_equal(training_rows(tiles, count=20, scan_id="b")[0], rows)


def test_dice_from_windows_is_monais_on_the_painted_map():
    volume, rng = labelled(np.random.default_rng(0))[0], np.random.default_rng(1)
    labels = (rng.integers(1, 5, (16, 16, 16)).repeat(4, 0).repeat(4, 1).repeat(4, 2)).astype(np.uint8)
    labels *= volume.lungs_ZYX
    tiles = label_tiles(volume, labels, classes=4, stride=8)
    probability = rng.dirichlet(np.ones(4), len(tiles.windows))
    numbers = region_numbers(tiles.counts_MC, tiles.missed_C, probability)[None]
    painted = tiles.windows.paint((probability.argmax(1) + 1).astype(np.uint8), volume.lungs_ZYX)
    for c in range(4):
        a, b = (torch.from_numpy(x == c + 1)[None, None].float() for x in (painted, labels))
        expected = float(compute_dice(a, b))
        assert pooled_dice(numbers, np.zeros((1, 1), int), c)[0] == pytest.approx(expected, abs=1e-6)
