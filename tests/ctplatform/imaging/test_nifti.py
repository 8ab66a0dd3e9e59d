"""Which of a NIfTI file's affines counts, and what they may not disagree about."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.imaging.volume import read_volume
from tests.ctplatform.scans import array, chest, code_of


class TestNiftiHeaders:
    def save(self, path: Path, *, sform: tuple | None, qform: tuple | None, units: str = "mm") -> None:
        image = nib.Nifti1Image(array(chest()).T, None)
        image.header.set_xyzt_units(units)
        image.set_sform(*(sform or (None, 0)))
        image.set_qform(*(qform or (None, 0)), strip_shears=True)
        nib.save(image, path)

    def test_sform_counts_before_qform_and_a_difference_is_noted(self, tmp_path: Path) -> None:
        used, other = np.diag([-8.0, -9.5, 11.0, 1.0]), np.diag([-8.0, -9.5, 11.0, 1.0])
        used[:3, 3], other[:3, 3] = (10, 20, 30), (10, 20, 37)
        self.save(tmp_path / "a.nii.gz", sform=(used, 1), qform=(other, 1))
        volume = read_volume(tmp_path / "a.nii.gz")
        assert volume.image.GetOrigin() == pytest.approx((-10, -20, 30), abs=1e-3)
        assert any("7.0 mm" in note for note in volume.notes)
        self.save(tmp_path / "b.nii.gz", sform=None, qform=(other, 1))
        volume = read_volume(tmp_path / "b.nii.gz")
        assert volume.image.GetOrigin() == pytest.approx((-10, -20, 37), abs=1e-3)
        assert volume.notes == ()

    def test_left_and_right_in_doubt_is_an_error(self, tmp_path: Path) -> None:
        one, mirrored = np.diag([-8.0, -9.5, 11.0, 1.0]), np.diag([8.0, -9.5, 11.0, 1.0])
        self.save(tmp_path / "a.nii.gz", sform=(one, 1), qform=(mirrored, 1))
        assert code_of(tmp_path / "a.nii.gz") == "orientation-conflict"

    def test_no_orientation_is_noted(self, tmp_path: Path) -> None:
        self.save(tmp_path / "a.nii.gz", sform=None, qform=None)
        assert any("no orientation" in note for note in read_volume(tmp_path / "a.nii.gz").notes)

    def test_lengths_in_metres(self, tmp_path: Path) -> None:
        affine = np.diag([-0.008, -0.0095, 0.011, 1.0])
        self.save(tmp_path / "a.nii.gz", sform=(affine, 1), qform=None, units="meter")
        volume = read_volume(tmp_path / "a.nii.gz")
        assert volume.image.GetSpacing() == pytest.approx((8, 9.5, 11), rel=1e-4)

    def test_sheared_axes_are_refused_rounding_errors_are_not(self, tmp_path: Path) -> None:
        affine = np.diag([-8.0, -9.5, 11.0, 1.0])
        affine[1, 2] = 0.02
        self.save(tmp_path / "a.nii.gz", sform=(affine, 1), qform=None)
        assert np.array_equal(array(read_volume(tmp_path / "a.nii.gz").image), array(chest()))
        affine[1, 2] = 2.0
        self.save(tmp_path / "b.nii.gz", sform=(affine, 1), qform=None)
        assert code_of(tmp_path / "b.nii.gz") == "bad-affine"

    def test_packed_file_beside_an_unpacked_one_of_the_same_name(self, tmp_path: Path) -> None:
        sitk.WriteImage(chest(seed=1), str(tmp_path / "a.nii"))
        sitk.WriteImage(chest(seed=2), str(tmp_path / "a.nii.gz"))
        assert np.array_equal(array(read_volume(tmp_path / "a.nii.gz").image), array(chest(seed=2)))
        assert np.array_equal(array(read_volume(tmp_path / "a.nii").image), array(chest(seed=1)))
