"""Which of a NIfTI file's affines counts, and what they may not disagree about."""

from __future__ import annotations

import gzip
import struct
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
        volume = read_volume(tmp_path / "a.nii.gz")
        assert any("no orientation" in note and "left, front and head" in note for note in volume.notes)
        front, back = (volume.image.TransformContinuousIndexToPhysicalPoint((15, j, 10))[1] for j in (0, 25))
        assert front < back, "LPS: the last rows of the file lie in front"
        assert np.array_equal(array(volume.image)[:, ::-1], array(chest()))

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

    @pytest.mark.parametrize("sizes", [(8.0, 9.5, 5.5), (4.0, 4.75, 11.0), (8.0, 9.5, 11.2)])
    def test_sizes_of_sform_and_pixdim_differ(self, tmp_path: Path, sizes: tuple[float, ...]) -> None:
        self.save(tmp_path / "a.nii", sform=(np.diag([-8.0, -9.5, 11.0, 1.0]), 1), qform=None)
        patch(tmp_path / "a.nii", 80, "<3f", *sizes)
        assert code_of(tmp_path / "a.nii") == "spacing-conflict"

    @pytest.mark.parametrize("sizes", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0)])
    def test_pixdim_that_is_not_set(self, tmp_path: Path, sizes: tuple[float, ...]) -> None:
        self.save(tmp_path / "a.nii", sform=(np.diag([-8.0, -9.5, 11.0, 1.0]), 1), qform=None)
        patch(tmp_path / "a.nii", 80, "<3f", *sizes)
        volume = read_volume(tmp_path / "a.nii")
        assert volume.image.GetSpacing() == pytest.approx((8.0, 9.5, 11.0))
        assert any("pixdim" in note for note in volume.notes)

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_voxel_offset_of_zero_is_behind_the_header(self, tmp_path: Path, suffix: str) -> None:
        self.save(tmp_path / "a.nii", sform=(np.diag([-8.0, -9.5, 11.0, 1.0]), 1), qform=None)
        patch(tmp_path / "a.nii", 108, "<f", 0.0)
        path = tmp_path / f"b{suffix}"
        data = (tmp_path / "a.nii").read_bytes()
        path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
        volume = read_volume(path)
        assert np.array_equal(array(volume.image), array(chest()))
        assert any("byte 352" in note for note in volume.notes)

    def test_voxel_offset_inside_of_the_header_or_before_extensions(self, tmp_path: Path) -> None:
        self.save(tmp_path / "a.nii", sform=(np.diag([-8.0, -9.5, 11.0, 1.0]), 1), qform=None)
        patch(tmp_path / "a.nii", 108, "<f", 160.0)
        assert code_of(tmp_path / "a.nii") == "unreadable"
        patch(tmp_path / "a.nii", 108, "<f", 0.0)
        patch(tmp_path / "a.nii", 348, "<4B", 1, 0, 0, 0)
        assert code_of(tmp_path / "a.nii") in {"bad-header", "unreadable"}

    @pytest.mark.parametrize("bad", [np.nan, 0.0])
    def test_invalid_sform_with_a_good_qform(self, tmp_path: Path, bad: float) -> None:
        good = np.diag([-8.0, -9.5, 11.0, 1.0])
        self.save(tmp_path / "a.nii", sform=(good, 1), qform=(good, 1))
        patch(tmp_path / "a.nii", 280, "<12f", *[bad] * 12)
        volume = read_volume(tmp_path / "a.nii")
        assert np.array_equal(array(volume.image), array(chest()))
        assert any("qform was used" in note for note in volume.notes)

    def test_suffix_that_does_not_say_whether_the_file_is_packed(self, tmp_path: Path) -> None:
        sitk.WriteImage(chest(), str(tmp_path / "a.nii"))
        data = (tmp_path / "a.nii").read_bytes()
        (tmp_path / "b.nii.gz").write_bytes(data)
        (tmp_path / "c.nii").write_bytes(gzip.compress(data))
        for name in ("b.nii.gz", "c.nii"):
            assert np.array_equal(array(read_volume(tmp_path / name).image), array(chest()))


def patch(path: Path, offset: int, form: str, *values: float) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, offset, *values)
    path.write_bytes(data)
