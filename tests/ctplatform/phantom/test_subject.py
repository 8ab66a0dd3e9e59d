"""One phantom subject: repeatable, with labels and masks that agree with each other."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from ctplatform.phantom import (
    PhantomSubject,
    make_subject,
)
from tests.ctplatform.phantom.reading import CENTRILOBULAR, CONFIG, NODULE, PANLOBULAR, PARASEPTAL


def test_same_seed_same_voxels_and_other_seed_other_subject(subjects: list[PhantomSubject]) -> None:
    again = make_subject(1, config=CONFIG)
    for name in ("image", "lungs", "disease"):
        first, second = getattr(subjects[1], name), getattr(again, name)
        np.testing.assert_array_equal(sitk.GetArrayViewFromImage(first), sitk.GetArrayViewFromImage(second))
        assert first.GetOrigin() == second.GetOrigin()
    assert again.labels == subjects[1].labels
    other = make_subject(1, config=CONFIG.model_copy(update={"seed": 4}))
    assert other.labels != subjects[1].labels


def test_negative_index_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        make_subject(-1, config=CONFIG)


def test_masks_lie_in_the_lungs_and_add_up_to_the_labels(subjects: list[PhantomSubject]) -> None:
    for subject in subjects:
        lungs = sitk.GetArrayFromImage(subject.lungs) > 0
        bits = sitk.GetArrayFromImage(subject.disease)
        assert not bits[~lungs].any()
        inside = bits[lungs]
        for bit, column in (
            (CENTRILOBULAR, "centrilobular_extent"),
            (PANLOBULAR, "panlobular_extent"),
            (PARASEPTAL, "paraseptal_extent"),
            (CENTRILOBULAR | PANLOBULAR | PARASEPTAL, "emphysema_extent"),
        ):
            assert np.mean((inside & bit) > 0) == pytest.approx(subject.labels[column], abs=1e-9)
        _, found = ndimage.label(bits & NODULE)
        assert found <= 2 * int(subject.labels["nodule_count"])
        assert bool(found) == bool(subject.labels["nodule_count"])
