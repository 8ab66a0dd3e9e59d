"""The series of a study to use."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from ctplatform.imaging.dicom_choice import lung_extent_mm
from ctplatform.imaging.dicom_geometry import series_geometry
from ctplatform.imaging.dicom_headers import index_folder
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.scans import abdomen, array, chest, code_of, edit


class TestSeriesOfAStudy:
    def test_several_series_in_a_folder(self, series: Path) -> None:
        thin = chest(size_XYZ=(30, 26, 40), seed=5)
        thin.SetSpacing((8.0, 9.5, 5.5))
        uid = write_dicom_series(thin, series / "thin")
        for file in (series / "thin").iterdir():
            file.rename(series / f"thin-{file.name}")
        volume = read_volume(series)
        assert np.array_equal(array(volume.image), array(thin)), "the longer one"
        assert (
            "1 other series in the folder passed over: fewer slices than another series of the study"
            in volume.notes
        )
        assert np.array_equal(array(read_volume(series, series_uid=uid).image), array(thin))
        assert code_of(series, series_uid="1.2.3") == "no-such-series"

    @pytest.mark.parametrize(("first", "other"), [("CHEST", "ABDOMEN"), ("", "PELVIS"), ("THORAX", "HEAD")])
    def test_a_longer_series_of_another_part_of_the_body(self, series: Path, first: str, other: str) -> None:
        write_dicom_series(chest(size_XYZ=(30, 26, 40), seed=5), series / "long")
        edit(series / "long", BodyPartExamined=other)
        for file in (series / "long").iterdir():
            file.rename(series / f"long-{file.name}")
        (series / "long").rmdir()
        edit(series, slice(0, 20), BodyPartExamined=first)
        volume = read_volume(series)
        assert np.array_equal(array(volume.image), array(chest()))
        assert any("another part of the body" in note for note in volume.notes)

    @pytest.mark.parametrize("named", ["", "CHEST"])
    def test_a_longer_series_without_lung_of_another_region(self, series: Path, named: str) -> None:
        """No header says what the other one shows: the pixels do."""
        edit(series, BodyPartExamined=named)
        write_dicom_series(abdomen(), series / "long")
        for file in (series / "long").iterdir():
            file.rename(series / f"long-{file.name}")
        (series / "long").rmdir()
        volume = read_volume(series)
        assert np.array_equal(array(volume.image), array(chest()))
        assert any("less lung in it than another series" in note for note in volume.notes)

    def test_a_chest_that_cannot_be_decoded_is_not_replaced_by_an_abdomen(self, series: Path) -> None:
        write_dicom_series(abdomen(), series / "long")
        for file in (series / "long").iterdir():
            file.rename(series / f"long-{file.name}")
        (series / "long").rmdir()
        for name in ("0004.dcm", "0008.dcm", "0011.dcm"):
            image = pydicom.dcmread(series / name)
            image.compress(RLELossless, generate_instance_uid=False)
            image.PixelData = encapsulate([struct.pack("<16L", 2, 64, 100, *[0] * 13) + bytes(136)])
            image.save_as(series / name)
        assert code_of(series) == "unreadable"


def test_lung_is_seen_in_the_chest_alone(tmp_path: Path) -> None:
    for name, image, least, most in (("c", chest(), 0.6, 1.0), ("a", abdomen(), 0.0, 0.0)):
        write_dicom_series(image, tmp_path / name)
        geometry = series_geometry(index_folder(tmp_path / name)[0])
        share = lung_extent_mm(geometry) / (len(geometry.slices) * geometry.spacing[2])
        assert least <= share <= most
