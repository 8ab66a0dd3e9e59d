"""Pixels of a series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.imaging import dicom_series
from ctplatform.imaging.dicom_geometry import series_geometry
from ctplatform.imaging.dicom_headers import index_folder
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.scans import array, chest, code_of, edit


class TestSeries:
    @pytest.mark.parametrize("lost", [1, 300, 1500])
    def test_truncated_slice(self, series: Path, lost: int) -> None:
        data = (series / "0010.dcm").read_bytes()
        (series / "0010.dcm").write_bytes(data[:-lost])
        assert code_of(series) == "truncated"


class TestPixelType:
    """The type that is decoded into holds every slice, whatever the first of a part has."""

    @pytest.fixture
    def long(self, tmp_path: Path) -> tuple[Path, np.ndarray]:
        """A series of 140 slices, more than are decoded together twice; stored unsigned, 12 bits; and its HU."""
        image = chest(size_XYZ=(30, 26, 140))
        write_dicom_series(
            image, tmp_path / "long", header={"PixelRepresentation": 0, "BitsStored": 12, "HighBit": 11}
        )
        return tmp_path / "long", array(image)

    @pytest.mark.parametrize("wide", [range(90, 95), range(64, 65), range(139, 140), range(1)])
    def test_some_slices_need_more_than_16_bits(self, long: tuple[Path, np.ndarray], wide: range) -> None:
        folder, hu_ZYX = long
        for k in wide:
            stored = hu_ZYX[k].astype(int) + 1024
            stored[10:13, 4:9] = 41024
            hu_ZYX[k, 10:13, 4:9] = 32767
            edit(folder, k, BitsStored=16, HighBit=15, PixelData=stored.astype("<u2").tobytes())
        assert np.array_equal(array(read_volume(folder).image), hu_ZYX)

    def test_signed_and_unsigned_slices(self, long: tuple[Path, np.ndarray]) -> None:
        folder, hu_ZYX = long
        for k in range(64, 130):
            stored = hu_ZYX[k].astype("<i2").tobytes()
            edit(
                folder,
                k,
                BitsStored=16,
                HighBit=15,
                PixelRepresentation=1,
                RescaleIntercept=0,
                PixelData=stored,
            )
        assert np.array_equal(array(read_volume(folder).image), hu_ZYX)

    @pytest.mark.parametrize("index", [0, 64, 139])
    def test_one_slice_with_a_slope_that_is_no_whole_number(
        self, long: tuple[Path, np.ndarray], index: int
    ) -> None:
        folder, hu_ZYX = long
        stored = 2 * (hu_ZYX[index].astype(int) + 1024)
        edit(
            folder,
            index,
            RescaleSlope="0.5",
            BitsStored=16,
            HighBit=15,
            PixelData=stored.astype("<u2").tobytes(),
        )
        assert np.array_equal(array(read_volume(folder).image), hu_ZYX)

    @pytest.mark.parametrize("signed", [False, True])
    def test_inverted_display_changes_no_value(self, long: tuple[Path, np.ndarray], signed: bool) -> None:
        folder, hu_ZYX = long
        edit(folder, PhotometricInterpretation="MONOCHROME1", PixelRepresentation=int(signed))
        assert np.array_equal(array(read_volume(folder).image), hu_ZYX)

    def test_the_slice_that_cannot_be_decoded_is_named(self, series: Path) -> None:
        for k, file in enumerate(sorted(series.iterdir())):
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.SetUseCompression(True)
            writer.SetCompressor("JPEG")
            writer.SetImageIO("GDCMImageIO")
            writer.SetFileName(str(file))
            writer.Execute(sitk.ReadImage(str(file), sitk.sitkInt16))
            if k == 9:
                data = pydicom.dcmread(file)
                data.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8 no picture "])
                data.save_as(file)
        with pytest.raises(ScanError, match=r"the slice at -201\.5 mm") as caught:
            read_volume(series)
        assert caught.value.code == "unreadable"


class TestPadding:
    @pytest.mark.parametrize("padding_hu", [0, 40, 3000, -100])
    def test_padding_value_of_the_header(self, tmp_path: Path, padding_hu: int) -> None:
        """A round field of view; the same value inside of the body is tissue."""
        image = chest(padding=padding_hu)
        write_dicom_series(image, tmp_path / "s", header={"PixelPaddingValue": padding_hu + 1024})
        expected = array(chest(padding=-1024))
        volume = read_volume(tmp_path / "s")
        assert np.array_equal(array(volume.image), expected)
        assert any("PixelPaddingValue" in note for note in volume.notes)

    def test_range_of_padding(self, tmp_path: Path) -> None:
        hu_ZYX = array(chest())
        expected = hu_ZYX.copy()
        hu_ZYX[:, :3], expected[:, :3] = 2990, -1024
        hu_ZYX[:, :3, ::2] = 3010
        image = sitk.GetImageFromArray(hu_ZYX)
        image.CopyInformation(chest())
        header = {"PixelPaddingValue": 2990 + 1024, "PixelPaddingRangeLimit": 3010 + 1024}
        write_dicom_series(image, tmp_path / "s", header=header)
        assert np.array_equal(array(read_volume(tmp_path / "s").image), expected)


class TestPlainPixels:
    """Pixels that are read straight from the files are those that the decoder gives; all others are decoded."""

    @pytest.mark.parametrize(
        ("header", "stored", "plain"),
        [
            ({}, None, True),
            ({"PixelRepresentation": 0, "BitsStored": 12, "HighBit": 11}, None, True),
            ({"PixelRepresentation": 0, "BitsStored": 12, "HighBit": 11}, 0xF123, False),  # overlay bits
            ({"PixelRepresentation": 1, "BitsStored": 12, "HighBit": 11}, 0x0900, False),  # sign in bit 11
            ({"PixelRepresentation": 0, "BitsStored": 16, "HighBit": 15}, 50000, False),  # no int16
            ({"PixelRepresentation": 0, "BitsStored": 16, "HighBit": 15}, 33000, True),
            (
                {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15},
                -32000,
                False,
            ),  # with an intercept of -1024 no int16
            ({"PhotometricInterpretation": "MONOCHROME1"}, None, False),
            ({"RescaleSlope": "2"}, None, False),
            ({"RescaleIntercept": "-1024.5"}, None, False),
        ],
    )
    def test_equal_the_decoded_ones(
        self, series: Path, monkeypatch: pytest.MonkeyPatch, header: dict, stored: int | None, plain: bool
    ) -> None:
        edit(series, **({"RescaleIntercept": "-1024", "PixelRepresentation": 0} | header))
        if stored is not None:
            file = sorted(series.iterdir())[4]
            data = pydicom.dcmread(file)
            pixels = np.frombuffer(data.PixelData, "<u2").copy()
            pixels[7] = stored & 0xFFFF
            data.PixelData = pixels.tobytes()
            data.save_as(file)
        (found,) = index_folder(series)
        geometry = series_geometry(found)
        alone = [dicom_series._read_plain(s, np.empty(s.shape, np.int16)) for s in geometry.slices]
        changed = next(k for k, s in enumerate(geometry.slices) if s.file == sorted(series.iterdir())[4])
        assert alone[changed] == plain
        assert stored is None or all(ok for k, ok in enumerate(alone) if k != changed)
        values, owner, notes = dicom_series.read_pixels(geometry)
        monkeypatch.setattr(dicom_series, "_read_plain", lambda *_: False)
        wanted, _, wanted_notes = dicom_series.read_pixels(geometry)
        assert values.dtype == wanted.dtype
        assert np.array_equal(values, wanted)
        assert notes == wanted_notes
        if values.dtype == np.int16:
            assert owner is not None
            assert np.array_equal(sitk.GetArrayFromImage(owner), values)

    def test_compressed_pixels_are_decoded(self, series: Path) -> None:
        for file in sorted(series.iterdir()):
            data = pydicom.dcmread(file)
            data.compress(pydicom.uid.RLELossless)
            data.save_as(file)
        (found,) = index_folder(series)
        assert not any(
            dicom_series._read_plain(s, np.empty(s.shape, np.int16)) for s in series_geometry(found).slices
        )
        assert np.array_equal(array(read_volume(series).image), array(chest()))
