"""The grid of a series: gaps, tilts, mixtures and repeats are recognised from the headers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.scans import array, chest, code_of, edit


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
        volume = read_volume(series)
        assert any(f"gantry tilt of {abs(degrees):.1f} degrees" in note for note in volume.notes)
        assert volume.image.GetDirection() == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def test_more_than_a_gantry_tilts_is_refused(self, series: Path) -> None:
        for k in range(20):
            edit(series, k, ImagePositionPatient=[-121.5, -110.25 + 13.0 * k, -300.5 + 11.0 * k])
        with pytest.raises(ScanError, match=r"sheared by 49\.8 degrees") as caught:
            read_volume(series)
        assert caught.value.code == "gantry-tilt"

    def test_gantry_tilt_that_was_corrected_is_noted(self, series: Path) -> None:
        edit(series, GantryDetectorTilt=12.5)
        assert any("12.5" in note for note in read_volume(series).notes)


class TestPasses:
    """Several acquisitions in one series, at positions that alternate."""

    def interleave(self, series: Path, tmp_path: Path, **header: object) -> None:
        """Every second slice of one chest, and those of another between them."""
        uid = str(pydicom.dcmread(series / "0001.dcm").SeriesInstanceUID)
        write_dicom_series(chest(seed=3), tmp_path / "b", header={"SeriesInstanceUID": uid, **header})
        for k in range(20):
            for folder, half in ((series, 0), (tmp_path / "b", 1)):
                edit(folder, k, ImagePositionPatient=[-121.5, -110.25, -300.5 + 11.0 * k + 5.5 * half])
        for file in (tmp_path / "b").iterdir():
            file.rename(series / f"b{file.name}")

    @pytest.mark.parametrize(
        "header",
        [{}, {"AcquisitionNumber": 2}, {"ConvolutionKernel": "B70f"}, {"TemporalPositionIdentifier": 2}],
    )
    def test_alternating_slices(self, series: Path, tmp_path: Path, header: dict) -> None:
        self.interleave(series, tmp_path, **header)
        assert code_of(series) == "several-acquisitions"

    @pytest.mark.parametrize("opposite", [False, True])
    def test_numbers_that_go_on_in_the_second_pass(
        self, series: Path, tmp_path: Path, opposite: bool
    ) -> None:
        self.interleave(series, tmp_path)
        for k in range(20):
            edit(series, 20 + k, InstanceNumber=40 - k if opposite else 21 + k)
        assert code_of(series) == "several-acquisitions"

    @pytest.mark.parametrize("slices_each", [1, 4, 10])
    def test_contiguous_acquisitions_are_one_scan(self, series: Path, slices_each: int) -> None:
        for k in range(20):
            edit(series, k, AcquisitionNumber=1 + k // slices_each, InstanceNumber=1 + k % slices_each)
        assert np.array_equal(array(read_volume(series).image), array(chest()))

    @pytest.mark.parametrize("order", ["backwards", "same", "random", "absent"])
    def test_numbers_of_any_order_in_one_pass(self, series: Path, order: str) -> None:
        mixed = np.random.default_rng(0).permutation(20)
        for k in range(20):
            number = {"backwards": 20 - k, "same": 1, "random": int(mixed[k]), "absent": None}[order]
            edit(series, k, InstanceNumber=number)
        assert np.array_equal(array(read_volume(series).image), array(chest()))


class TestSidewaysSlices:
    @pytest.mark.parametrize("moved", [slice(8, 12), slice(0, 1), slice(10, 20), slice(19, 20)])
    @pytest.mark.parametrize("mm", [1.5, -28.0])
    def test_slices_aside_of_the_others(self, series: Path, moved: slice, mm: float) -> None:
        for k in range(20)[moved]:
            edit(series, k, ImagePositionPatient=[-121.5 + mm, -110.25, -300.5 + 11.0 * k])
        assert code_of(series) == "shifted-slices"

    def test_a_table_that_sags(self, series: Path) -> None:
        for k in range(20):
            y = -110.25 + 6.0 * np.sin(np.pi * k / 19)
            edit(series, k, ImagePositionPatient=[-121.5, round(y, 3), -300.5 + 11.0 * k])
        assert code_of(series) == "shifted-slices"

    def test_positions_rounded_to_a_tenth_of_a_mm(self, series: Path) -> None:
        rng = np.random.default_rng(0)
        for k in range(20):
            x, y = rng.uniform(-0.1, 0.1, 2)
            edit(series, k, ImagePositionPatient=[-121.5 + x, -110.25 + y, -300.5 + 11.0 * k])
        assert np.array_equal(array(read_volume(series).image), array(chest()))
