"""What the descriptions of public DICOM series say about their acquisition: kernel, slice thickness, plane.

The National Lung Screening Trial (NLST) replaced the scanners' series descriptions by eleven coded values, separated
by commas: screening year, image type, manufacturer, model, reconstruction kernel, reconstruction diameter (mm), slice
thickness (mm), tube voltage (kVp), mAs, effective mAs, pitch (TCIA, "NLST CT Images - General Details"). The image
type is the first letter each of DICOM's ImageType (0008,0008): Original or Derived, Primary or Secondary, and Axial,
Localizer, Reformatted or Projection. Descriptions of other collections are free text; what cannot be read stays empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NLST = re.compile(r"([0-9]),([OD][PS][ALRP]?),([A-Z]{2}),([A-Z0-9]+),([^,]*),(.+)")
_UNKNOWN = frozenset({"", "na", "null", "unk", "unkn", "none"})
_THICKNESS_MM = (0.1, 20.0)
_KVP = (60.0, 160.0)
_MAS = (1.0, 2000.0)
_PLANES = {"A": "axial", "L": "localizer"}

_LOCALIZER = re.compile(
    r"scout|topogram|locali[sz]er|surview|scanogram|\bscano\b|smart ?prep|bolus track|monitoring|timing"
    r"|dose (report|info)|patient protocol|screen ?save",
    re.IGNORECASE,
)
_REFORMATTED = re.compile(
    r"(?<![a-z])(cor(onal)?s?|sag(it+al)?s?|oblique)(?![a-z])|\b(mpr|3d|vrt)\b|reformat", re.IGNORECASE
)
_PROJECTED = re.compile(r"(?<![a-z])(mip|minip)(?![a-z])", re.IGNORECASE)
_CODED_KERNEL = re.compile(r"(?<![A-Za-z0-9])(FC\d{2}|[BHDTUIQ][a-z]?\d{2}[fsdhrFSDHR]?)(?![A-Za-z0-9])")
_NAMED_KERNEL = re.compile(
    r"(?<![a-z])(bone ?plus|bone|standard|stnd|soft|detail|lung|edge|sharp)(?![a-z])", re.IGNORECASE
)
_MILLIMETRES = re.compile(r"(?<![\d.])(\d*\.?\d+) ?mm", re.IGNORECASE)
_BEFORE_KERNEL = re.compile(r"[ _](\d{1,2}\.\d+)(?:\.\d)?[ _]+[BHDTUIQ][a-z]?\d{2}")


@dataclass(frozen=True)
class Description:
    """Acquisition of a series.

    Attributes:
        plane: "axial", "localizer" or "reformatted".
        derived: computed from other images, not reconstructed from raw data.
        kernel: reconstruction kernel in the scanner's spelling; empty if unknown.
        thickness_mm: slice thickness; None if unknown.
        year: screening year of NLST, 0 to 2; None elsewhere.
        kvp: tube voltage, kV; None if unknown.
        exposure_mas: tube current times time, mAs; None if unknown.
    """

    plane: str = "axial"
    derived: bool = False
    kernel: str = ""
    thickness_mm: float | None = None
    year: int | None = None
    kvp: float | None = None
    exposure_mas: float | None = None


def describe(text: str | None) -> Description:
    """Read a SeriesDescription (0008,103E)."""
    match = _NLST.fullmatch(text or "")
    return _nlst(*match.groups()) if match else _free(text or "")


def _nlst(year: str, image: str, maker: str, model: str, kernel: str, rest: str) -> Description:
    # A diameter of 1000 mm and more holds a comma of its own: the thickness is the fifth value from the end.
    values = rest.split(",")
    return Description(
        plane=_PLANES.get(image[2:], "reformatted"),
        derived=image[0] == "D",
        kernel="" if kernel.lower() in _UNKNOWN else kernel,
        thickness_mm=_number(values[-5], _THICKNESS_MM) if len(values) >= 5 else None,
        kvp=_number(values[-4], _KVP) if len(values) >= 5 else None,
        exposure_mas=_number(values[-3], _MAS) if len(values) >= 5 else None,
        year=int(year),
    )


def _free(text: str) -> Description:
    coded, named = _CODED_KERNEL.search(text), _NAMED_KERNEL.search(text)
    kernel = coded.group(1) if coded else named.group(1).upper().replace(" ", "") if named else ""
    size = _MILLIMETRES.search(text) or _BEFORE_KERNEL.search(text)
    projected = bool(_PROJECTED.search(text))
    plane = "axial"
    if _LOCALIZER.search(text):
        plane = "localizer"
    elif _REFORMATTED.search(text):
        plane = "reformatted"
    return Description(plane, projected, kernel, _number(size.group(1), _THICKNESS_MM) if size else None)


def _number(text: str, limits: tuple[float, float]) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    # NLST's localizers name their length as thickness, and 0 stands for what is not known.
    return value if limits[0] <= value <= limits[1] else None
