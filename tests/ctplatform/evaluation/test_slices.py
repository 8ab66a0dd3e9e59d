"""Slices of predicted label maps for the report."""

import numpy as np

from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.slices import read_slices, shown_subjects, slice_of, write_slices
from ctplatform.storage.workspace import Workspace


def volume():
    """HU, lungs and labels; class 1 fills the lungs but for class 2 on coronal slice 6."""
    rng = np.random.default_rng(0)
    lungs = np.zeros((8, 10, 12), bool)
    lungs[2:6, 2:8, 2:10] = True
    labels = lungs.astype(np.uint8)
    labels[3:5, 6, 3:9] = 2
    return rng.integers(-1000, 200, lungs.shape).astype(np.int16), lungs, labels


def test_regions_are_cut_coronally_where_most_disease_is_head_up():
    hu, lungs, labels = volume()
    found = slice_of("s", "a", hu, lungs, labels, np.zeros_like(labels), first=2)
    assert found.plane == "coronal"
    np.testing.assert_array_equal(found.truth, labels[::-1, 6])
    assert found.predicted.max() == 0
    expected = (hu[::-1, 6].astype(float) + 1000) / 1200 * 255
    np.testing.assert_allclose(found.grey, expected, atol=1)


def test_structures_are_cut_axially_and_without_any_where_most_lung_is():
    hu, lungs, labels = volume()
    lungs[2] = False
    found = slice_of("s", "a", hu, lungs, np.zeros_like(labels), labels, first=1)
    assert found.plane == "axial"
    np.testing.assert_array_equal(found.predicted, labels[3])


def test_the_extreme_and_the_median_subject_are_shown():
    amounts = np.array([5.0, 1.0, 9.0, 3.0, 7.0, 0.0, 2.0])
    assert shown_subjects(amounts) == {2, 4, 3}  # 9, 7 and 3
    assert shown_subjects(np.array([4.0])) == {0}


def test_slices_are_read_as_written(tmp_path):
    workspace = Workspace(tmp_path)
    hu, lungs, labels = volume()
    slices = [
        slice_of(s, f"scan-{s}", hu, lungs, labels, labels, first=first) for s, first in (("a", 2), ("b", 1))
    ]
    write_slices(workspace, "run", Cell("nodules", "finetune", 1.0, 0), slices)
    (key,) = found = read_slices(workspace, "run")
    assert key == ("nodules", "finetune")
    for written, read in zip(slices, found[key], strict=True):
        assert (read.subject_id, read.scan_id, read.plane) == (
            written.subject_id,
            written.scan_id,
            written.plane,
        )
        for name in ("grey", "truth", "predicted"):
            np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
