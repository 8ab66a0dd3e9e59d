"""Series descriptions as they stand in the index of the Imaging Data Commons."""

from __future__ import annotations

import pytest

from ctplatform.cohort.idc_series import Description, describe


@pytest.mark.parametrize(
    ("text", "plane", "derived", "kernel", "thickness", "year", "mas"),
    [
        ("2,OPA,GE,LSPLUS,STANDARD,300,2.5,120,60,40,1.5", "axial", False, "STANDARD", 2.5, 2, 60.0),
        ("0,OPA,SE,VZOOM,B50f,340,2,120,40,0.1,1.5", "axial", False, "B50f", 2.0, 0, 40.0),
        ("1,OPA,PH,MX8000,unkn,350,3.2,120,45,30,na", "axial", False, "", 3.2, 1, 45.0),
        ("1,OSA,TO,AQUL4,BODY FILTER,350,2,120,45,30,na", "axial", False, "BODY FILTER", 2.0, 1, 45.0),
        ("0,DPA,SE,SEN16,B30f,342,1.2,120,45,30,na", "axial", True, "B30f", 1.2, 0, 45.0),
        ("0,DSR,GE,LS16,BONE,360,na,120,0,0,na", "reformatted", True, "BONE", None, 0, None),
        ("0,DSP,GE,LS16,BONE,360,5,120,0,0,na", "reformatted", True, "BONE", 5.0, 0, None),
        ("0,DS,GE,LS16,BONE,360,5,120,0,0,na", "reformatted", True, "BONE", 5.0, 0, None),
        (
            "0,OPL,GE,LSQX,EXPERIMENTAL7,null,na,120,0,0,na",
            "localizer",
            False,
            "EXPERIMENTAL7",
            None,
            0,
            None,
        ),
        # A diameter of more than 1000 mm, with a comma of its own; the length of a localizer for a thickness.
        ("2,OPL,SE,SEN64,T20s,1,024,0.6,120,160.3,160,1", "localizer", False, "T20s", 0.6, 2, 160.3),
        ("2,OPL,TO,AQUL4,FL01,1,750,na,120,249,na,na", "localizer", False, "FL01", None, 2, 249.0),
        ("1,OPL,TO,AQUL4,FL01,500,350.2,120,50,na,na", "localizer", False, "FL01", None, 1, 50.0),
    ],
)
def test_nlst(
    text: str, plane: str, derived: bool, kernel: str, thickness: float | None, year: int, mas: float | None
) -> None:
    assert describe(text) == Description(plane, derived, kernel, thickness, year, 120.0, mas)


def test_voltage_and_exposure_that_cannot_be() -> None:
    found = describe("2,OPA,GE,LSPLUS,STANDARD,300,2.5,na,60000,40,1.5")
    assert (found.kvp, found.exposure_mas) == (None, None)


@pytest.mark.parametrize(
    ("text", "kernel", "thickness"),
    [
        ("ThoraxRoutine  3.0  B31s", "B31s", 3.0),
        ("ThoraxRoutine  5.0.0  B70f", "B70f", 5.0),
        ("Range-Thorax  1.0  B70f-Tra-<ALPHA Range>", "B70f", 1.0),
        ("THORAX_W 5.0 B41 Soft Tissue", "B41", 5.0),
        ("NLST TLC VOL B30F", "B30F", None),
        ("1.25MM CHEST BONE PLUS", "BONEPLUS", 1.25),
        ("LUNG HR 1.25 MM", "LUNG", 1.25),
        (".625 mm Chest", "", 0.625),
        ("LOW DOSE THROUGH LUNGS", "", None),
        ("P4^P100^S102^I0, Gated, 10.0%", "", None),
        ("", "", None),
        (None, "", None),
    ],
)
def test_free_text(text: str | None, kernel: str, thickness: float | None) -> None:
    assert describe(text) == Description("axial", False, kernel, thickness, None)


@pytest.mark.parametrize(
    "text", ["SCOUT AP/LAT", "Topogram  0.6  T20s", "CT SCOUT HEAD IN", "Smart Prep Series"]
)
def test_localizers(text: str) -> None:
    assert describe(text).plane == "localizer"


@pytest.mark.parametrize(
    "text",
    ["CHEST SAGITTAL", "CORONALS", "1 25 MM SAGITAL", "COR 3X3", "Thorax  2.0  SPO  cor", "Reformatted"],
)
def test_reformatted(text: str) -> None:
    assert describe(text).plane == "reformatted"


def test_projections_are_derived() -> None:
    assert describe("Axia MIP CHEST").derived
    assert not describe("CHEST").derived
