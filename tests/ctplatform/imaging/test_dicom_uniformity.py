"""What must be equal over a series is checked, and what is no slice in HU is refused, from the headers alone."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from ctplatform.cohort.discovery import discover
from ctplatform.errors import CohortError, ScanError
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.imaging import odd_dicom
from tests.ctplatform.imaging.drawn import Drawn
from tests.ctplatform.imaging.oddities import Odd, check_odd
from tests.ctplatform.scans import array, chest, code_of, edit

PROJECTION = ["DERIVED", "SECONDARY", "AXIAL", "MIP"]


class TestRescale:
    @pytest.mark.parametrize("index", [0, 7, 19, slice(3, 15)])
    def test_missing_on_some_slices(self, series: Path, index: int | slice) -> None:
        edit(series, index, RescaleSlope=None, RescaleIntercept=None)
        assert code_of(series) == "mixed-rescale"

    @pytest.mark.parametrize("index", [0, 19, slice(3, 6), slice(0, 10)])
    @pytest.mark.parametrize("header", [{"RescaleIntercept": 0}, {"RescaleSlope": 2}])
    def test_valid_ones_that_do_not_fit_the_stored_values(
        self, series: Path, index: int | slice, header: dict
    ) -> None:
        edit(series, index, **header)
        assert code_of(series) == "mixed-rescale"

    def test_right_ones_that_change_where_the_body_begins(self) -> None:
        """Neighbours differ by 894 HU there, and by half of it with the other's slope."""
        kind = next(k for k in odd_dicom.KINDS if k.name == "DICOM: slope and intercept of each slice")
        grid = Drawn(
            spacing=(5.125, 3.625, 6.125),
            origin=(-38.0, -168.75, 190.625),
            turn=(-1.375, -12.625, 31.25),
            flip=(True, True, False),
            order=(2, 0, 1),
            form=".nrrd",
            slope=2.0,
            intercept=0,
            break_at=None,
            junk=153,
        )
        assert check_odd(Odd(grid=grid, kind=kind, seed=11846499)) == ""

    @pytest.mark.parametrize("index", [0, slice(3, 6), slice(0, None, 2)])
    def test_different_ones_that_fit_are_right(self, series: Path, index: int | slice) -> None:
        """Each slice may have an intercept of its own, as long as its stored values go with it."""
        before = array(read_volume(series).image)
        files = sorted(series.iterdir(), key=lambda f: float(pydicom.dcmread(f).ImagePositionPatient[2]))
        for file in [files[index]] if isinstance(index, int) else files[index]:
            data = pydicom.dcmread(file)
            data.PixelData = (data.pixel_array - 300).astype(data.pixel_array.dtype).tobytes()
            data.RescaleIntercept = data.RescaleIntercept + 300
            data.save_as(file)
        assert np.array_equal(array(read_volume(series).image), before)

    @pytest.mark.parametrize("index", [4, slice(None)])
    @pytest.mark.parametrize(
        "header",
        [{"RescaleSlope": 0}, {"RescaleSlope": ""}, {"RescaleIntercept": ""}, {"RescaleIntercept": None}],
    )
    def test_blank_zero_or_incomplete(self, series: Path, index: int | slice, header: dict) -> None:
        edit(series, index, **header)
        assert code_of(series) == "bad-rescale"

    def test_missing_everywhere_is_slope_one_and_intercept_zero(self, tmp_path: Path) -> None:
        write_dicom_series(
            chest(), tmp_path / "s", header={"RescaleSlope": None, "RescaleIntercept": None, "StudyID": "a"}
        )
        for file in (tmp_path / "s").iterdir():
            data = pydicom.dcmread(file)
            data.PixelData = (np.frombuffer(data.PixelData, "<i2") - 1024).astype("<i2").tobytes()
            data.save_as(file)
        assert np.array_equal(array(read_volume(tmp_path / "s").image), array(chest()))

    @pytest.mark.parametrize("unit", ["Z_EFF", "ED", "MGML", "IODINE", "Eff Z", "mg/ml"])
    def test_other_units_than_hu(self, series: Path, unit: str) -> None:
        edit(series, RescaleType=unit)
        assert code_of(series) == "not-hu"

    @pytest.mark.parametrize("unit", ["HU", "US", "", "Hounsfield"])
    def test_hu_and_unspecified(self, series: Path, unit: str) -> None:
        edit(series, slice(0, 9), RescaleType=unit)
        volume = read_volume(series)
        assert np.array_equal(array(volume.image), array(chest()))
        assert volume.notes == ()

    def test_material_maps_by_image_type(self, series: Path) -> None:
        edit(series, ImageType=["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"])
        assert code_of(series) == "not-hu"


class TestSameOverTheSeries:
    @pytest.mark.parametrize(
        "header",
        [
            {"Modality": "PT"},
            {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
            {"PatientID": "another"},
            {"SamplesPerPixel": 3},
            {"PhotometricInterpretation": "MONOCHROME1"},
            {"RescaleType": "Z_EFF"},
        ],
    )
    @pytest.mark.parametrize("index", [0, 11])
    def test_one_slice_differs(self, series: Path, index: int, header: dict) -> None:
        edit(series, PatientID="one", RescaleType="HU")
        edit(series, index, **header)
        with pytest.raises(ScanError, match=next(iter(header))) as caught:
            read_volume(series)
        assert caught.value.code == "mixed-images"
        assert "another" not in str(caught.value)

    def test_issuers_of_patient_ids(self, series: Path) -> None:
        """One issuer on a part of the files is no second person; two issuers are."""
        edit(series, PatientID="one")
        edit(series, 0, IssuerOfPatientID="clinic")
        read_volume(series)
        edit(series, 11, IssuerOfPatientID="another clinic")
        with pytest.raises(ScanError, match="differ in IssuerOfPatientID"):
            read_volume(series)

    def test_a_series_in_colour(self, series: Path) -> None:
        edit(series, SamplesPerPixel=3, PhotometricInterpretation="RGB")
        assert code_of(series) == "not-scalar"
        with pytest.raises(CohortError, match="several values each"):
            discover(series)

    def test_palette_colour(self, series: Path) -> None:
        edit(series, PhotometricInterpretation="PALETTE COLOR")
        assert code_of(series) == "not-scalar"


class TestProjections:
    @pytest.mark.parametrize(
        "kind",
        [
            PROJECTION,
            ["DERIVED", "SECONDARY", "AXIAL", "MINIP"],
            ["DERIVED", "SECONDARY", "PROJECTION IMAGE"],
            ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 MIP"],
            ["DERIVED", "SECONDARY", "MIN IP", "NONE"],
        ],
    )
    def test_alone_in_their_folder(self, series: Path, kind: list[str]) -> None:
        edit(series, ImageType=kind)
        assert code_of(series) == "projection"
        with pytest.raises(CohortError, match="projections"):
            discover(series)

    def test_named_by_the_description_of_a_derived_series(self, series: Path) -> None:
        edit(series, ImageType=["DERIVED", "SECONDARY", "AXIAL"], SeriesDescription="Thorax MinIP 8 mm")
        assert code_of(series) == "projection"

    def test_an_original_series_made_for_projections(self, series: Path) -> None:
        edit(series, SeriesDescription="1.0 mm for MIP")
        assert np.array_equal(array(read_volume(series).image), array(chest()))

    def test_among_original_slices_they_are_left_out(self, series: Path, tmp_path: Path) -> None:
        uid = str(pydicom.dcmread(series / "0001.dcm").SeriesInstanceUID)
        write_dicom_series(
            chest(seed=3), tmp_path / "b", header={"SeriesInstanceUID": uid, "ImageType": PROJECTION}
        )
        for file in (tmp_path / "b").iterdir():
            file.rename(series / f"b{file.name}")
        volume = read_volume(series)
        assert np.array_equal(array(volume.image), array(chest()))
        assert any("20 projection(s)" in note for note in volume.notes)

    def test_other_derived_images_are_noted(self, series: Path) -> None:
        edit(series, ImageType=["DERIVED", "SECONDARY", "AXIAL"])
        assert any("derived" in note for note in read_volume(series).notes)


class TestLength:
    @pytest.mark.parametrize("implicit", [False, True])
    @pytest.mark.parametrize("lost", [2, 300, 1558])
    def test_pixels_shorter_than_the_header_says(self, series: Path, lost: int, implicit: bool) -> None:
        """The length field is that of the shortened pixels: nothing in the file's own structure is wrong."""
        for k, file in enumerate(sorted(series.iterdir())):
            data = pydicom.dcmread(file)
            if k == 9:
                data.PixelData = data.PixelData[:-lost]
            if implicit:
                data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            data.save_as(file, implicit_vr=implicit, little_endian=True)
        with pytest.raises(ScanError, match=r"the slice at -201\.5 mm is cut short") as caught:
            read_volume(series)
        assert caught.value.code == "truncated"

    def test_deflated_pixels(self, series: Path) -> None:
        for k, file in enumerate(sorted(series.iterdir())):
            data = pydicom.dcmread(file)
            if k == 9:
                data.PixelData = data.PixelData[:-300]
            data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
            data.save_as(file)
        assert code_of(series) in {"truncated", "unreadable"}

    def test_longer_pixels_are_padding(self, series: Path) -> None:
        data = pydicom.dcmread(series / "0003.dcm")
        data.PixelData += bytes(64)
        data.save_as(series / "0003.dcm")
        assert np.array_equal(array(read_volume(series).image), array(chest()))


class TestOddHeaders:
    @pytest.mark.parametrize(
        ("tag", "value"),
        [(0x00280008, b"x "), (0x00280008, b"1\\1 "), (0x00280010, b"\x1a\0\x1a\0"), (0x00280010, b"\x1a")],
    )
    def test_invalid_values_are_named_and_do_not_end_the_search(
        self, series: Path, tmp_path: Path, tag: int, value: bytes
    ) -> None:
        write_dicom_series(chest(seed=1), tmp_path / "good")
        replace(series / "0006.dcm", tag, value)
        with pytest.raises(ScanError, match="1 of 20 slices") as caught:
            read_volume(series)
        assert caught.value.code == "bad-header"
        found = discover(tmp_path)
        assert [Path(path).name for path in found.table["path"]] == ["good"]
        assert any("series" in line and "cannot be read" in line for line in found.passed_over)

    @pytest.mark.parametrize("syntax", ["1.2.840.113619.5.2", "1.2.3.4.5.6", ""])
    def test_transfer_syntax_that_is_not_known(self, series: Path, syntax: str) -> None:
        replace(series / "0006.dcm", 0x00020010, syntax.encode() + b"\0" * (len(syntax) % 2))
        assert code_of(series) == "bad-header"

    @pytest.mark.parametrize("content", [bytes(200), b""])
    def test_a_compressed_slice_without_a_segment(self, series: Path, content: bytes) -> None:
        """A decoder divides by the number of segments; in discovery that would end the search."""
        image = pydicom.dcmread(series / "0006.dcm")
        image.compress(RLELossless, generate_instance_uid=False)
        image.PixelData = encapsulate([content or b"\0\0"])
        image.save_as(series / "0006.dcm")
        assert code_of(series) == "bad-header"

    def test_every_image_has_the_same_instance_uid(self, series: Path) -> None:
        edit(series, SOPInstanceUID="1.2.3.4")
        volume = read_volume(series)
        assert np.array_equal(array(volume.image), array(chest()))
        assert any("19 image(s) at other places" in note for note in volume.notes)

    @pytest.mark.parametrize("suffix", ["", ".dic"])
    def test_without_preamble_and_suffix(self, series: Path, suffix: str) -> None:
        for file in list(series.iterdir()):
            data = pydicom.Dataset()
            data.update(pydicom.dcmread(file))
            data.save_as(file.with_suffix(suffix), implicit_vr=True, little_endian=True)
            file.unlink()
        assert np.array_equal(array(read_volume(series).image), array(chest()))


def replace(file: Path, tag: int, value: bytes) -> None:
    """Another value of an element of an Explicit VR Little Endian file, valid or not."""
    old = file.read_bytes()
    new, i, missing = old[:132], 132, True
    while i < len(old):
        group, element = struct.unpack("<HH", old[i : i + 4])
        here = group << 16 | element
        long = old[i + 4 : i + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT")
        head = 12 if long else 8
        end = (
            i + head + struct.unpack("<I" if long else "<H", old[i + head - (4 if long else 2) : i + head])[0]
        )
        if missing and here >= tag:
            kind = dictionary_VR(tag).encode()
            new += struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind + struct.pack("<H", len(value)) + value
            missing = False
        if here != tag:
            new += old[i:end]
        i = end
    file.write_bytes(new)
