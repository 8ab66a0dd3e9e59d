from __future__ import annotations

import gzip
import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import RLELossless

from ctplatform.dicom import write_dicom_series
from ctplatform.errors import ScanError
from ctplatform.volume import content_hash, read_volume
from tests.ctplatform.scans import REAL_CT, chest, needs_real_ct, rotated, with_array


def code_of(path: str | Path, **options: str) -> str:
    with pytest.raises(ScanError) as caught:
        read_volume(path, **options)
    assert Path(path).parent.name not in str(caught.value), "an error must not name the path"
    return caught.value.code


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    write_dicom_series(chest(), tmp_path / "series")
    return tmp_path / "series"


def edit(folder: Path, index: int | slice = slice(None), **header: object) -> None:
    """Change header fields of some files of a series; None removes one."""
    files = sorted(folder.iterdir())[index]
    for file in files if isinstance(files, list) else [files]:
        data = pydicom.dcmread(file)
        for keyword, value in header.items():
            if value is None:
                del data[keyword]
            else:
                setattr(data, keyword, value)
        data.save_as(file)


class TestWrittenIsRead:
    @pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd"])
    def test_every_format_and_axis_order_gives_the_same_volume(self, tmp_path: Path, suffix: str) -> None:
        image = chest()
        hashes = set()
        for code in ("LPS", "RAS", "PIL", "ASR", "SLP"):
            path = tmp_path / f"{code}.{suffix}"
            sitk.WriteImage(sitk.DICOMOrient(image, code), str(path))
            volume = read_volume(path)
            assert np.array_equal(array(volume.image), array(image))
            assert np.allclose(volume.image.GetOrigin(), image.GetOrigin(), atol=1e-3)
            assert np.allclose(volume.image.GetDirection(), np.eye(3).ravel(), atol=1e-6)
            assert volume.image.GetPixelID() == sitk.sitkInt16
            hashes.add(content_hash(volume))
        assert len(hashes) == 1

    def test_dicom_series_in_any_file_order(self, series: Path) -> None:
        rng = np.random.default_rng(1)
        for file in list(series.iterdir()):
            file.rename(series / f"{rng.integers(10**9):09d}")  # neither order nor suffix
        volume = read_volume(series)
        assert np.array_equal(array(volume.image), array(chest()))
        assert np.allclose(volume.image.GetSpacing(), chest().GetSpacing(), atol=1e-4)
        assert np.allclose(volume.image.GetOrigin(), chest().GetOrigin(), atol=1e-4)
        assert volume.source["format"] == "DICOM"
        assert volume.source["slice_thickness_mm"] == 11.0

    def test_content_hash_is_that_of_the_scan_not_of_the_file(self, series: Path, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.DICOMOrient(chest(), "RPI"), str(tmp_path / "a.nii.gz"))
        assert content_hash(read_volume(series)) == content_hash(read_volume(tmp_path / "a.nii.gz"))
        moved = chest()
        moved.SetOrigin((0, 0, 0))
        sitk.WriteImage(moved, str(tmp_path / "b.nii.gz"))
        sitk.WriteImage(chest(seed=1), str(tmp_path / "c.nii.gz"))
        hashes = {content_hash(read_volume(tmp_path / f"{name}.nii.gz")) for name in "abc"}
        assert len(hashes) == 3

    @pytest.mark.parametrize("degrees", [7.0, -20.0])
    def test_oblique_direction_is_kept(self, tmp_path: Path, degrees: float) -> None:
        image = rotated(chest(), degrees=degrees)
        sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
        write_dicom_series(image, tmp_path / "series")
        for path in ("a.nii.gz", "series"):
            volume = read_volume(tmp_path / path)
            assert np.allclose(volume.image.GetDirection(), image.GetDirection(), atol=1e-5)
            assert np.array_equal(array(volume.image), array(image))

    def test_run_length_compressed_series(self, series: Path) -> None:
        for file in series.iterdir():
            data = pydicom.dcmread(file)
            data.compress(RLELossless)
            data.save_as(file)
        assert np.array_equal(array(read_volume(series).image), array(chest()))

    def test_jpeg_lossless_series(self, series: Path) -> None:
        """Through GDCM's own JPEG writer: the compression that archives use most."""
        for file in series.iterdir():
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.SetUseCompression(True)
            writer.SetCompressor("JPEG")
            writer.SetImageIO("GDCMImageIO")
            writer.SetFileName(str(file))
            writer.Execute(sitk.ReadImage(str(file), sitk.sitkInt16))
        assert pydicom.dcmread(next(series.iterdir())).file_meta.TransferSyntaxUID.is_compressed
        assert np.array_equal(array(read_volume(series).image), array(chest()))

    def test_one_file_stands_for_its_series(self, series: Path) -> None:
        assert np.array_equal(array(read_volume(series / "0003.dcm").image), array(chest()))

    def test_reading_through_pyarrow_file_systems(self, series: Path, tmp_path: Path) -> None:
        sitk.WriteImage(chest(), str(tmp_path / "a.nii.gz"))
        local = content_hash(read_volume(series))
        assert content_hash(read_volume(series.as_uri())) == local
        assert content_hash(read_volume((tmp_path / "a.nii.gz").as_uri())) == local
        assert code_of((tmp_path / "none.nii.gz").as_uri()) == "missing-path"


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


class TestBrokenFiles:
    @pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha"])
    @pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
    def test_truncated(self, tmp_path: Path, suffix: str, share: float) -> None:
        path = tmp_path / f"a.{suffix}"
        sitk.WriteImage(chest(), str(path))
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        assert code_of(path) == "truncated"

    @pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd"])
    def test_text_and_empty_files_named_as_volumes(self, tmp_path: Path, suffix: str) -> None:
        (tmp_path / f"a.{suffix}").write_text("not a scan\n" * 100)
        (tmp_path / f"b.{suffix}").write_bytes(b"")
        assert code_of(tmp_path / f"a.{suffix}") == "unreadable"
        assert code_of(tmp_path / f"b.{suffix}") == "unreadable"

    def test_gzip_of_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"not a scan\n" * 1000))
        assert code_of(tmp_path / "a.nii.gz") == "unreadable"

    def test_files_of_no_known_format(self, tmp_path: Path) -> None:
        (tmp_path / "scan.txt").write_text("hello")
        assert code_of(tmp_path / "scan.txt") == "unknown-format"
        assert code_of(tmp_path) == "no-images"
        assert code_of(tmp_path / "none.nii.gz") == "missing-path"

    @pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
    def test_dimensions(self, tmp_path: Path, suffix: str) -> None:
        image = chest()
        sitk.WriteImage(image[:, :, 3], str(tmp_path / f"flat.{suffix}"))
        sitk.WriteImage(image[:, :, 3:4], str(tmp_path / f"slice.{suffix}"))
        sitk.WriteImage(image[:, :, :6], str(tmp_path / f"slab.{suffix}"))
        sitk.WriteImage(sitk.JoinSeries([image, image]), str(tmp_path / f"time.{suffix}"))
        sitk.WriteImage(sitk.JoinSeries([image]), str(tmp_path / f"single.{suffix}"))
        assert code_of(tmp_path / f"flat.{suffix}") == "not-3d"
        assert code_of(tmp_path / f"slice.{suffix}") == "not-3d"
        assert code_of(tmp_path / f"slab.{suffix}") == "too-few-slices"
        assert code_of(tmp_path / f"time.{suffix}") == "four-d"
        assert np.array_equal(array(read_volume(tmp_path / f"single.{suffix}").image), array(image))

    @pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
    def test_colour_images(self, tmp_path: Path, suffix: str) -> None:
        colour = sitk.Compose(*[sitk.Cast(chest(), sitk.sitkUInt8)] * 3)
        sitk.WriteImage(colour, str(tmp_path / f"a.{suffix}"))
        assert code_of(tmp_path / f"a.{suffix}") in {"not-scalar", "four-d"}

    def test_spacing_in_metres_written_as_mm(self, tmp_path: Path) -> None:
        image = chest()
        image.SetSpacing((0.008, 0.0095, 0.011))
        sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
        assert code_of(tmp_path / "a.nrrd") == "bad-spacing"


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


class TestSeries:
    @pytest.mark.parametrize("missing", [[7], [7, 8], [4, 12]])
    def test_missing_slices_are_counted(self, series: Path, missing: list[int]) -> None:
        for k in missing:
            (series / f"{k:04d}.dcm").unlink()
        with pytest.raises(ScanError) as caught:
            read_volume(series)
        assert caught.value.code == "missing-slice"
        assert caught.value.problem.startswith(f"{len(missing)} slice(s) are missing")

    def test_uneven_slices(self, series: Path) -> None:
        for k, file in enumerate(sorted(series.iterdir())):
            if k > 9:
                edit(series, k, ImagePositionPatient=[-121.5, -110.25, -300.5 + 11.0 * k + 4.0])
            assert file.exists()
        assert code_of(series) == "uneven-spacing"

    def test_positions_rounded_by_the_scanner_are_fine(self, tmp_path: Path) -> None:
        image = chest()
        image.SetSpacing((8.0, 9.5, 3.98734))
        write_dicom_series(image, tmp_path / "s")
        for k in range(image.GetSize()[2]):
            edit(tmp_path / "s", k, ImagePositionPatient=[-121.5, -110.25, round(-300.5 + 3.98734 * k, 1)])
        assert read_volume(tmp_path / "s").image.GetSpacing()[2] == pytest.approx(3.98734, rel=2e-3)

    def test_modality(self, series: Path) -> None:
        edit(series, Modality="MR")
        with pytest.raises(ScanError, match="MR") as caught:
            read_volume(series)
        assert caught.value.code == "wrong-modality"

    @pytest.mark.parametrize(
        ("code", "index", "header"),
        [
            ("mixed-orientation", slice(0, 5), {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}),
            ("mixed-geometry", slice(0, 5), {"PixelSpacing": [4, 4]}),
            ("no-geometry", slice(0, 1), {"ImagePositionPatient": None}),
            ("multi-frame", slice(0, 1), {"NumberOfFrames": 20}),
            ("not-ct-image", slice(None), {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
            ("too-few-slices", slice(5, None), {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ],
    )
    def test_headers_that_make_no_volume(self, series: Path, code: str, index: slice, header: dict) -> None:
        edit(series, index, **header)
        assert code_of(series) == code

    def test_localizer_in_the_series_is_left_out(self, series: Path) -> None:
        edit(
            series,
            0,
            ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
            ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
        )
        volume = read_volume(series)
        assert np.array_equal(array(volume.image), array(chest())[1:])
        assert any("localizer" in note for note in volume.notes)

    def test_copies_of_an_image_are_left_out(self, series: Path) -> None:
        shutil.copy(series / "0004.dcm", series / "copy of 0004.dcm")
        volume = read_volume(series)
        assert np.array_equal(array(volume.image), array(chest()))
        assert any("repeat" in note for note in volume.notes)

    @pytest.mark.parametrize(("number", "code"), [(2, "several-acquisitions"), (1, "duplicate-slices")])
    def test_several_acquisitions_in_one_series(
        self, series: Path, tmp_path: Path, number: int, code: str
    ) -> None:
        uid = str(pydicom.dcmread(series / "0001.dcm").SeriesInstanceUID)
        header = {"SeriesInstanceUID": uid, "AcquisitionNumber": number}
        write_dicom_series(chest(seed=3), tmp_path / "b", header=header)
        for file in (tmp_path / "b").iterdir():
            file.rename(series / f"b{file.name}")
        assert code_of(series) == code

    @pytest.mark.parametrize("degrees", [2.0, -15.0])
    def test_gantry_tilt_by_position(self, series: Path, degrees: float) -> None:
        for k in range(20):
            y = -110.25 + 11.0 * k * np.tan(np.radians(degrees))
            edit(series, k, ImagePositionPatient=[-121.5, round(y, 4), -300.5 + 11.0 * k])
        with pytest.raises(ScanError, match=f"{abs(degrees):.1f} degrees") as caught:
            read_volume(series)
        assert caught.value.code == "gantry-tilt"

    def test_gantry_tilt_that_was_corrected_is_noted(self, series: Path) -> None:
        edit(series, GantryDetectorTilt=12.5)
        assert any("12.5" in note for note in read_volume(series).notes)

    @pytest.mark.parametrize("lost", [1, 300, 1500])
    def test_truncated_slice(self, series: Path, lost: int) -> None:
        data = (series / "0010.dcm").read_bytes()
        (series / "0010.dcm").write_bytes(data[:-lost])
        assert code_of(series) == "truncated"

    def test_several_series_in_a_folder(self, series: Path) -> None:
        thin = chest(size_XYZ=(30, 26, 40), seed=5)
        thin.SetSpacing((8.0, 9.5, 5.5))
        uid = write_dicom_series(thin, series / "thin")
        for file in (series / "thin").iterdir():
            file.rename(series / f"thin-{file.name}")
        volume = read_volume(series)
        assert np.array_equal(array(volume.image), array(thin)) or np.array_equal(
            array(volume.image), array(chest())
        )
        assert "1 other series in the folder passed over" in volume.notes
        assert np.array_equal(array(read_volume(series, series_uid=uid).image), array(thin))
        assert code_of(series, series_uid="1.2.3") == "no-such-series"


@needs_real_ct
@pytest.mark.real_ct
class TestRealScans:
    def test_nrrd_and_dicom_of_one_scan_are_the_same(self) -> None:
        nrrd = read_volume(REAL_CT / "cip_ct64" / "ct-64.nrrd")
        series = read_volume(REAL_CT / "cip_ct64" / "ct-64Dicom")
        assert content_hash(nrrd) == content_hash(series)

    @pytest.mark.parametrize("path", ["lung_dx_a0002/dicom", "partial_bases_crlm1004/dicom"])
    def test_series_of_scanners(self, path: str) -> None:
        volume = read_volume(REAL_CT / path)
        hu = array(volume.image)
        assert hu.min() == -1024
        assert -1010 < np.median(hu[(hu > -1020) & (hu < -900)]) < -940
        assert volume.source["manufacturer"] in {"Siemens", "GE"}

    def test_labels_are_no_scan(self) -> None:
        assert code_of(REAL_CT / "lidc_0001" / "mask.nii.gz") == "not-hu"


def test_notes_and_axes_do_not_depend_on_axis_order_of_the_file(tmp_path: Path) -> None:
    """All 48 orders of axes: the same voxels at the same places."""
    image = chest(size_XYZ=(16, 14, 12))
    pairs = ("RL", "AP", "IS")
    codes = [
        "".join(pairs[axis][flip] for axis, flip in zip(order, flips))
        for order in itertools.permutations(range(3))
        for flips in itertools.product((0, 1), repeat=3)
    ]
    expected = array(image)
    for code in codes:
        sitk.WriteImage(sitk.DICOMOrient(image, code), str(tmp_path / f"{code}.nii"))
        assert np.array_equal(array(read_volume(tmp_path / f"{code}.nii").image), expected)


def test_every_error_code_is_documented() -> None:
    root = Path(__file__).parents[2]
    names = ("volume", "series", "stack", "nifti", "hounsfield", "catalogue", "cohort", "pseudonym")
    sources = [
        (root / "platform" / "ctplatform" / f"{name}.py").read_text(encoding="utf-8") for name in names
    ]
    raised = {code for text in sources for code in re.findall(r'code="([a-z0-9-]+)"', text)}
    documented = set(
        re.findall(r"`([a-z0-9-]+)`", (root / "docs" / "reference" / "inputs.md").read_text(encoding="utf-8"))
    )
    assert "missing-slice" in raised
    assert raised <= documented
