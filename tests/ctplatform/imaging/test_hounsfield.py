"""Whatever is stored, what comes out is HU, or an error with the measurement that shows why not."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.hounsfield import check_hu
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.scans import array, chest, code_of, edit, with_array


class TestHounsfieldUnits:
    @pytest.mark.parametrize("padding", [-2000, -3024, -32768])
    def test_padding_is_clamped_and_noted(self, tmp_path: Path, padding: int) -> None:
        sitk.WriteImage(chest(padding=padding), str(tmp_path / "a.nii.gz"))
        volume = read_volume(tmp_path / "a.nii.gz")
        assert array(volume.image).min() == -1024
        assert np.array_equal(array(volume.image), np.maximum(array(chest(padding=padding)), -1024))
        assert any("padding" in note for note in volume.notes)

    def test_padding_of_a_dicom_series(self, tmp_path: Path) -> None:
        write_dicom_series(chest(padding=-2000), tmp_path / "series", header={"PixelPaddingValue": -976})
        assert np.array_equal(array(read_volume(tmp_path / "series").image), array(chest(padding=-1024)))

    @pytest.mark.parametrize("byte_order", ["<", ">"])
    def test_scaled_nifti_of_either_byte_order(self, tmp_path: Path, byte_order: str) -> None:
        hu_XYZ = array(chest()).T & ~1  # even values, so that the slope of 2 loses nothing
        header = nib.Nifti1Header(endianness=byte_order)
        header.set_data_dtype(np.dtype(f"{byte_order}i2"))
        header.set_data_shape(hu_XYZ.shape)
        header.set_sform(np.diag([-8.0, -9.5, 11.0, 1.0]), code=1)
        header.set_slope_inter(2.0, -1024.0)
        header["vox_offset"] = 352
        stored = ((hu_XYZ.astype(np.int32) + 1024) // 2).astype(f"{byte_order}i2")
        (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + stored.tobytes(order="F"))
        assert np.array_equal(array(read_volume(tmp_path / "a.nii").image), hu_XYZ.T)

    def test_floats_are_rounded(self, tmp_path: Path) -> None:
        hu = array(chest()).astype(np.float32)
        sitk.WriteImage(with_array(chest(), hu + 0.3), str(tmp_path / "a.mha"))
        assert np.array_equal(array(read_volume(tmp_path / "a.mha").image), hu)

    @pytest.mark.parametrize(
        ("wrong", "shown"),
        [
            (lambda hu: hu + 1024, (-60, 30)),  # no intercept
            (lambda hu: hu - 1024, (-2060, -2000)),  # rescaled twice
            (lambda hu: (hu + 1000) // 4, (-20, 10)),  # no slope
            (lambda hu: (hu + 1024) * 3 - 1024, (2000, 2300)),  # wrong slope
            (lambda hu: hu * 0, (0, 0)),
            (lambda hu: (hu > -500) * 1, (0, 0)),  # a mask
            (lambda hu: hu // 10, (-110, -95)),
        ],
    )
    def test_values_that_are_not_hu_are_refused_with_the_measurement(
        self, tmp_path: Path, wrong: Callable[[np.ndarray], np.ndarray], shown: tuple[int, int]
    ) -> None:
        sitk.WriteImage(
            with_array(chest(), wrong(array(chest()).astype(np.int32))), str(tmp_path / "a.nii.gz")
        )
        with pytest.raises(ScanError) as caught:
            read_volume(tmp_path / "a.nii.gz")
        assert caught.value.code == "not-hu"
        measured = re.search(r"(?:lies? at|down to|the value) (-?\d+)", caught.value.problem)
        assert measured
        assert shown[0] <= int(measured.group(1)) <= shown[1]

    def test_rescale_slope_that_is_no_whole_number(self, tmp_path: Path) -> None:
        doubled = with_array(chest(), 2 * (array(chest()) + 1024) - 1024)
        write_dicom_series(
            doubled, tmp_path / "s", header={"RescaleSlope": "0.5", "RescaleIntercept": "-1024"}
        )
        assert np.array_equal(array(read_volume(tmp_path / "s").image), array(chest()))

    @pytest.mark.parametrize("other", ["-924", "-923.6"])
    def test_rescale_that_differs_between_slices(self, series: Path, tmp_path: Path, other: str) -> None:
        shifted = with_array(chest(), array(chest()) - 100)
        uid = str(pydicom.dcmread(series / "0001.dcm").SeriesInstanceUID)
        header = {"RescaleIntercept": other, "SeriesInstanceUID": uid}
        write_dicom_series(shifted, tmp_path / "shifted", header=header)
        for k in (2, 9, 10, 20):
            shutil.move(tmp_path / "shifted" / f"{k:04d}.dcm", series / f"{k:04d}.dcm")
        assert np.array_equal(array(read_volume(series).image), array(chest()))

    def test_a_series_without_rescale_is_refused(self, series: Path) -> None:
        edit(series, RescaleIntercept=0)
        assert code_of(series) == "not-hu"

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 1.0])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
    def test_few_non_finite_voxels_are_padding_many_are_an_error(
        self, tmp_path: Path, suffix: str, share: float, value: float
    ) -> None:
        hu = array(chest()).astype(np.float32)
        bad = np.random.default_rng(0).permutation(hu.size)[: round(share * hu.size)]
        hu.ravel()[bad] = value
        path = tmp_path / f"a.{suffix}"
        sitk.WriteImage(with_array(chest(), hu), str(path))
        if share > 0.05:
            assert code_of(path) == "not-finite"
            return
        volume = read_volume(path)
        expected = array(chest())
        expected.ravel()[bad] = -1024
        assert np.array_equal(array(volume.image), expected)
        assert any("not finite" in note for note in volume.notes) == (share > 0)

    @pytest.mark.parametrize("padding", [None, -2000, -1024])
    @pytest.mark.parametrize("shift", [0, -40, -60, -100])
    def test_air_is_measured_before_values_are_clamped(
        self, tmp_path: Path, shift: int, padding: int | None
    ) -> None:
        """Air around the body at -1000, without the clamp of the phantom; a field of view padded or not."""
        hu = array(chest(size_XYZ=(60, 52, 40))).astype(int)
        air = hu < -930
        hu[air] = np.random.default_rng(0).normal(-1000, 20, int(air.sum())).round()
        if padding is not None:
            hu[:, :12] = padding
        path = tmp_path / "a.nii.gz"
        sitk.WriteImage(with_array(chest(size_XYZ=(60, 52, 40)), (hu + shift).astype(np.int16)), str(path))
        if shift == -100:
            assert code_of(path) == "not-hu"
            return
        volume = read_volume(path)
        assert volume.air_hu == pytest.approx(-1000 + shift, abs=12)

    def test_noise_below_air_is_no_padding(self) -> None:
        """Single values of noise are many voxels, but no constant."""
        hu = array(chest(size_XYZ=(60, 52, 40))).astype(np.float32) - 400
        with pytest.raises(ScanError) as caught:
            check_hu(hu.round())
        assert caught.value.code == "not-hu"
