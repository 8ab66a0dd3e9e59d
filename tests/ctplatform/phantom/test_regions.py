"""Label maps of emphysema subtypes and lobes."""

from __future__ import annotations

import numpy as np

from ctplatform.phantom import (
    RIGHT,
    PhantomSubject,
    regions,
)
from tests.ctplatform.phantom.reading import CENTRILOBULAR, NODULE, PANLOBULAR, lps


def test_label_maps_fill_the_lungs_and_agree_with_the_lesions(subjects: list[PhantomSubject]) -> None:
    for subject in subjects:
        lungs, bits, subtypes, lobes = map(
            lps, (subject.lungs, subject.disease, subject.subtypes, subject.lobes)
        )
        np.testing.assert_array_equal(subtypes > 0, lungs > 0)
        np.testing.assert_array_equal(lobes > 0, lungs > 0)
        np.testing.assert_array_equal(
            lobes[lungs > 0] <= regions.LOBES["right lower"], lungs[lungs > 0] == RIGHT
        )
        assert len(np.unique(lobes)) == 6
        behind = {name: np.argwhere(lobes == value)[:, 1].mean() for name, value in regions.LOBES.items()}
        assert behind["right lower"] > behind["right middle"]
        assert behind["left lower"] > behind["left upper"]
        normal = subtypes == regions.SUBTYPES["normal"]
        assert np.mean((bits[normal] & 7) > 0) < regions.LEAST_FRACTION
        for name, bit in (("centrilobular", CENTRILOBULAR), ("panlobular", PANLOBULAR)):
            inside = subtypes == regions.SUBTYPES[name]
            if inside.mean() > 0.01:
                assert np.mean((bits[inside] & bit) > 0) > regions.LEAST_FRACTION


def test_a_region_has_the_subtype_that_is_commonest_around() -> None:
    lungs = np.ones((30, 30, 60), bool)
    bits = np.zeros(lungs.shape, np.uint8)
    bits[:, :, :8] = PANLOBULAR
    bits[::4, ::4, 40:56:4] = CENTRILOBULAR  # one voxel in sixteen
    bits[15, 15, 30] = NODULE
    names = {value: name for name, value in regions.SUBTYPES.items()}
    line = [names[v] for v in regions.subtypes(bits, lungs, (4.0, 4.0, 4.0))[14, 14]]
    assert line[:8] == ["panlobular"] * 8
    assert line[12:36] == ["normal"] * 24
