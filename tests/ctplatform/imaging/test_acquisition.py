"""Kernel, manufacturer and dose of headers and scan tables."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ctplatform.imaging.acquisition import acquisition, known_kernel, known_manufacturer, mean_dose
from ctplatform.imaging.dicom_headers import index_folder
from tests.ctplatform.scans import edit


@pytest.mark.parametrize(
    ("header", "dose"),
    [
        (
            {"KVP": 120, "Exposure": 40, "CTDIvol": 2.5},
            {"kvp": 120.0, "exposure_mas": 40.0, "ctdi_vol_mgy": 2.5},
        ),
        ({"ExposureInuAs": 39500}, {"exposure_mas": 39.5}),
        ({"XRayTubeCurrent": 80, "ExposureTime": 500}, {"exposure_mas": 40.0}),
        ({"XRayTubeCurrent": 80}, {}),
        ({"KVP": 0, "Exposure": 0}, {}),
        ({"KVP": "", "Exposure": ""}, {}),
        ({}, {}),
    ],
)
def test_dose_of_headers(series: Path, header: dict, dose: dict[str, float]) -> None:
    edit(series, **header)
    source = index_folder(series)[0].source
    assert {name: source[name] for name in source if name in ("kvp", "exposure_mas", "ctdi_vol_mgy")} == dose


def test_tube_current_that_varies_is_averaged_over_the_images_that_have_it() -> None:
    assert mean_dose([(120.0, 40.0, None), (120.0, 80.0, None), (120.0, None, None)]) == {
        "kvp": 120.0,
        "exposure_mas": 60.0,
    }
    assert mean_dose([]) == {}


def test_the_header_comes_before_the_table() -> None:
    header = {"kernel": "B30f", "manufacturer": "", "exposure_mas": 40.0}
    table = {"kernel": "B50f", "manufacturer": "SIEMENS", "exposure_mas": 30.0, "kvp": "120"}
    assert acquisition(header, table) == {
        "kernel": "B30f",
        "manufacturer": "Siemens",
        "kvp": 120.0,
        "exposure_mas": 40.0,
        "ctdi_vol_mgy": None,
    }
    assert set(acquisition({"format": "NIfTI"}, {"kvp": math.nan}).values()) == {None}


def test_only_known_words() -> None:
    assert [known_kernel(name) for name in ("FC51", "b45f", "BONE", "Jane Doe", "")] == [
        "FC51",
        "b45f",
        "BONE",
        "",
        "",
    ]
    assert acquisition({}, {"kernel": "Jane Doe", "manufacturer": "Hospital"})["kernel"] is None
    assert known_manufacturer("GE MEDICAL SYSTEMS") == "GE"
    assert known_manufacturer("GENERAL") == ""
