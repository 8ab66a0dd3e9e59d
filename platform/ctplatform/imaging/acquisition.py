"""How a scan was acquired and reconstructed: kernel, manufacturer, tube voltage and dose.

Texts become known words or nothing, since free text may name a patient. Dose: mAs of different manufacturers do not
mean the same (some store the effective mAs, divided by the pitch); CTDIvol (IEC 60601-2-44) can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pydicom

from ctplatform.imaging.dicom_elements import numbers

#: Elements of the dose.
KEYWORDS = ("KVP", "Exposure", "ExposureInuAs", "ExposureTime", "XRayTubeCurrent", "CTDIvol")
#: Of a scan, by the names of the ledger's columns.
NUMBERS = ("kvp", "exposure_mas", "ctdi_vol_mgy")

_LIMITS = {"kvp": (40.0, 200.0), "exposure_mas": (0.5, 5000.0), "ctdi_vol_mgy": (0.01, 500.0)}
_VENDORS = (
    "Siemens", "GE", "Philips", "Toshiba", "Canon", "Hitachi", "Picker", "Elscint", "Neusoft", "United Imaging",
)  # fmt: skip
_KERNEL_NAMES = {
    "SOFT", "STANDARD", "STND", "SMOOTH", "DETAIL", "CHST", "LUNG", "BONE", "BONEPLUS", "EDGE", "ULTRA", "SHARP",
    "A", "B", "C", "D", "E", "L", "YA", "YB", "YC", "YD",
}  # fmt: skip
_KERNEL_PATTERN = re.compile(r"(?:FC\d{2}|[BHDTUIQ][a-z]?\d{2}[a-z]?)", re.IGNORECASE)


def known_kernel(name: str) -> str:
    """A reconstruction kernel in the scanner's spelling; empty if it is none that is known."""
    known = name.upper() in _KERNEL_NAMES or _KERNEL_PATTERN.fullmatch(name)
    return name if known else ""


def known_manufacturer(name: str) -> str:
    """The manufacturer's short name; empty if it is none that is known."""
    upper = name.upper()
    return next((vendor for vendor in _VENDORS if re.match(rf"{vendor.upper()}\b", upper)), "")


def dose_of_image(data: pydicom.Dataset) -> tuple[float | None, ...]:
    """`NUMBERS` of one image's header: kV, mAs, mGy; None where it has none that can be."""
    exposure = numbers(data, "Exposure", 1)
    if not exposure and (micro := numbers(data, "ExposureInuAs", 1)):
        exposure = (micro[0] / 1000,)
    if not exposure:
        current, time = numbers(data, "XRayTubeCurrent", 1), numbers(data, "ExposureTime", 1)
        exposure = (current[0] * time[0] / 1000,) if current and time else ()  # mA, ms
    values = (numbers(data, "KVP", 1), exposure, numbers(data, "CTDIvol", 1))
    return tuple(_possible(name, value[0] if value else None) for name, value in zip(NUMBERS, values))


def mean_dose(images: Sequence[tuple[float | None, ...]]) -> dict[str, float]:
    """Means over the images of a series, where tube currents may vary; without those that no image has."""
    found = {}
    for name, values in zip(NUMBERS, zip(*images)):
        known = [value for value in values if value is not None]
        if known:
            found[name] = round(fmean(known), 3)
    return found


def acquisition(header: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of the ledger: what the header says, else what the scan table says, else None.

    Args:
        header: `Volume.source`.
        table: `kernel`, `manufacturer` and `NUMBERS` of the scan table, as far as it has them.
    """
    found: dict[str, Any] = {
        "kernel": header.get("kernel") or known_kernel(str(table.get("kernel") or "")) or None,
        "manufacturer": header.get("manufacturer")
        or known_manufacturer(str(table.get("manufacturer") or ""))
        or None,
    }
    for name in NUMBERS:
        value = header.get(name)
        found[name] = value if value is not None else _possible(name, table.get(name))
    return found


def _possible(name: str, value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    low, high = _LIMITS[name]
    return number if low <= number <= high else None
