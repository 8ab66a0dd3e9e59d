"""The anatomy: shaped like a chest, closed, with two lungs and a trachea."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ctplatform.phantom import (
    LEFT,
    RIGHT,
    PhantomSubject,
)
from tests.ctplatform.phantom.reading import lps


def test_lungs_are_two_of_adult_size_inside_a_closed_body(subjects: list[PhantomSubject]) -> None:
    for subject in subjects:
        hu, lungs = lps(subject.image), lps(subject.lungs)
        litres = np.prod(subject.image.GetSpacing()) / 1e6
        right, left = (lungs == RIGHT).sum() * litres, (lungs == LEFT).sum() * litres
        assert 2.9 < right + left < 7.6, subject.scan_id
        assert 0.9 < right / left < 1.6
        assert np.argwhere(lungs == RIGHT)[:, 2].mean() < np.argwhere(lungs == LEFT)[:, 2].mean()
        for side in (RIGHT, LEFT):
            labels, count = ndimage.label(lungs == side)
            assert np.bincount(labels.ravel())[1:].max() > 0.999 * (lungs == side).sum(), count
        # Tissue separates every lung from the room, slice by slice.
        for plane, lung in zip(hu, lungs > 0):
            gas, _ = ndimage.label(plane < -500)
            room = np.unique(np.concatenate([gas[0], gas[-1], gas[:, 0], gas[:, -1]]))
            assert not np.isin(gas[ndimage.binary_erosion(lung, iterations=2)], room[room > 0]).any()


def test_chest_wall_is_at_least_15_mm_thick(subjects: list[PhantomSubject]) -> None:
    for subject in subjects[:4]:
        hu, lungs = lps(subject.image), lps(subject.lungs) > 0
        spacing = sitk.DICOMOrient(subject.image, "LPS").GetSpacing()[::-1]
        rows = slice(hu.shape[0] // 4, 3 * hu.shape[0] // 4)
        gas, _ = ndimage.label(hu[rows] < -500)
        outer = gas == gas[0, 0, 0]
        distance = ndimage.distance_transform_edt(~outer, sampling=spacing)
        assert distance[lungs[rows]].min() >= 15 - max(spacing), subject.scan_id


def test_trachea_runs_from_the_top_to_the_lungs(subjects: list[PhantomSubject]) -> None:
    for subject in subjects:
        hu, lungs = lps(subject.image), lps(subject.lungs) > 0
        top = int(np.flatnonzero(lungs.any(axis=(1, 2)))[-1])
        ny, nx = hu.shape[1:]
        middle = (slice(ny // 5, 4 * ny // 5), slice(nx // 3, 2 * nx // 3))
        for z in (top - 2, top + 1):
            gas, _ = ndimage.label(ndimage.gaussian_filter(hu[z][middle].astype(float), 0.4) < -450)
            sizes = np.bincount(gas[~lungs[z][middle]].ravel())[1:]
            assert sizes.max(initial=0) * np.prod(subject.image.GetSpacing()[:2]) > 60, (subject.scan_id, z)
