"""Every format gives the same volume, and what is broken is refused by name."""

from __future__ import annotations

import gzip
import itertools
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import RLELossless

from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import content_hash, read_volume
from tests.ctplatform.scans import REAL_CT, array, chest, code_of, needs_real_ct, rotated


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
        # Lines without the elements of a MetaImage header are found before its library reads them.
        expected = "bad-header" if suffix in ("mha", "mhd") else "unreadable"
        assert code_of(tmp_path / f"a.{suffix}") == expected
        assert code_of(tmp_path / f"b.{suffix}") == expected

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
    root = Path(__file__).parents[3]
    package = root / "platform" / "ctplatform"
    sources = [
        path.read_text(encoding="utf-8")
        for room in ("imaging", "cohort")
        for path in (package / room).glob("*.py")
    ]
    raised = {code for text in sources for code in re.findall(r'code="([a-z0-9-]+)"', text)}
    documented = set(
        re.findall(r"`([a-z0-9-]+)`", (root / "docs" / "reference" / "inputs.md").read_text(encoding="utf-8"))
    )
    assert "missing-slice" in raised
    assert raised <= documented
