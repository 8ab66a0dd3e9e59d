"""The series of a folder to use, and its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.scans import array, chest, code_of


class TestSeries:
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
        assert np.array_equal(array(volume.image), array(thin)), "the longer one"
        assert (
            "1 other series in the folder passed over: fewer slices than another series of the study"
            in volume.notes
        )
        assert np.array_equal(array(read_volume(series, series_uid=uid).image), array(thin))
        assert code_of(series, series_uid="1.2.3") == "no-such-series"
