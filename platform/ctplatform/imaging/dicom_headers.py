"""Headers of DICOM files, read with pydicom and grouped into series.

First of three steps: this module turns files into series, `dicom_geometry` orders and checks the slices of one,
`dicom_series` chooses among several and reads the pixels.

Free text of a header may name a patient: `Series.source` holds only numbers and words of fixed lists. The exception
is `Series.patient_id`, from which `cohort` makes a keyed pseudonym.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword

_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "PatientID", "IssuerOfPatientID", "StudyInstanceUID",
    "SeriesInstanceUID", "AcquisitionNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "Rows", "Columns", "NumberOfFrames", "RescaleSlope", "RescaleIntercept", "SliceThickness", "ConvolutionKernel",
    "Manufacturer", "GantryDetectorTilt",
)  # fmt: skip
_TAGS: list[int] = [int(tag) for k in _KEYWORDS if (tag := tag_for_keyword(k)) is not None]
_MODALITIES = {
    "CT", "MR", "PT", "NM", "US", "CR", "DX", "MG", "XA", "RF", "OT", "SC", "SEG", "RTSTRUCT", "RTDOSE", "RTPLAN",
    "RTIMAGE", "SR", "PR", "KO", "REG", "DOC",
}  # fmt: skip
_VENDORS = (
    "Siemens",
    "GE",
    "Philips",
    "Toshiba",
    "Canon",
    "Hitachi",
    "Picker",
    "Elscint",
    "Neusoft",
    "United Imaging",
)
_KERNEL_NAMES = {
    "SOFT", "STANDARD", "STND", "SMOOTH", "DETAIL", "CHST", "LUNG", "BONE", "BONEPLUS", "EDGE", "ULTRA", "SHARP",
    "A", "B", "C", "D", "E", "L", "YA", "YB", "YC", "YD",
}  # fmt: skip
_KERNEL_PATTERN = re.compile(r"(?:FC\d{2}|[BHDTUIQ][a-z]?\d{2}[a-z]?)", re.IGNORECASE)


@dataclass(frozen=True)
class Slice:
    """Header of one image of a series; positions in mm, LPS; empty tuples where an element is missing or invalid."""

    file: Path
    sop_uid: str
    image_type: tuple[str, ...]
    acquisition: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    shape: tuple[int, int]
    frames: int
    compressed: bool
    whole_hu: bool  # slope and intercept are whole numbers


@dataclass(frozen=True)
class Series:
    """One series of a folder.

    Attributes:
        patient_id: PatientID, after IssuerOfPatientID and a line break where there is one. It identifies a person:
            input of pseudonyms only, never written.
        sop_class: SOPClassUID of the first image.
        thickness: SliceThickness in mm.
        kernel, manufacturer: known words, else empty.
        tilt: GantryDetectorTilt in degrees.
    """

    uid: str
    study_uid: str
    patient_id: str
    modality: str
    sop_class: str
    slices: tuple[Slice, ...]
    thickness: float | None
    kernel: str
    manufacturer: str
    tilt: float

    @property
    def source(self) -> dict[str, Any]:
        """Format and acquisition as the headers give them, in known words and numbers only."""
        return {
            "format": "DICOM",
            "kernel": self.kernel,
            "slice_thickness_mm": self.thickness,
            "manufacturer": self.manufacturer,
        }


def index_files(files: Iterable[Path]) -> list[Series]:
    """Group DICOM files by SeriesInstanceUID; other files are left out. Sorted by UID."""
    headers: dict[str, list[tuple[Path, pydicom.Dataset]]] = {}
    with quiet_pydicom():
        for file in files:
            data = _header(file)
            if data is not None:
                headers.setdefault(str(data.SeriesInstanceUID), []).append((file, data))
        return [_series(uid, found) for uid, found in sorted(headers.items())]


def index_folder(folder: Path) -> list[Series]:
    """The series of the files directly in a folder, hidden ones left out."""
    return index_files(sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")))


def merge(parts: Iterable[Sequence[Series]]) -> list[Series]:
    """The result of `index_files` for all files, from its results for consecutive parts of them."""
    found: dict[str, list[Series]] = {}
    for part in parts:
        for series in part:
            found.setdefault(series.uid, []).append(series)
    return [
        replace(pieces[0], slices=tuple(s for piece in pieces for s in piece.slices))
        for _, pieces in sorted(found.items())
    ]


@contextlib.contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Without warnings and log lines of pydicom, which quote header values."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _header(file: Path) -> pydicom.Dataset | None:
    try:
        with file.open("rb") as stream:
            start = stream.read(132)
        if start[128:] != b"DICM" and file.suffix.lower() not in (".dcm", ".ima"):
            return None
        data = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        return data if "SeriesInstanceUID" in data and "Rows" in data else None
    except Exception:  # a broken file can raise anything in the parser
        return None


def _series(uid: str, found: list[tuple[Path, pydicom.Dataset]]) -> Series:
    first = found[0][1]
    issuer = str(first.get("IssuerOfPatientID") or "").strip()
    patient = str(first.get("PatientID") or "").strip()
    tilt = _numbers(first, "GantryDetectorTilt", 1)
    thickness = _numbers(first, "SliceThickness", 1)
    kernel = first.get("ConvolutionKernel") or ""
    kernel = str(kernel if isinstance(kernel, str) else kernel[0]).strip()
    known_kernel = kernel.upper() in _KERNEL_NAMES or _KERNEL_PATTERN.fullmatch(kernel)
    modality = str(first.get("Modality") or "").strip().upper()
    manufacturer = str(first.get("Manufacturer") or "").upper()
    return Series(
        uid=uid,
        study_uid=str(first.get("StudyInstanceUID") or ""),
        patient_id=f"{issuer}\n{patient}" if patient and issuer else patient,
        modality=modality if modality in _MODALITIES else "unknown",
        sop_class=str(first.get("SOPClassUID") or ""),
        slices=tuple(_slice(file, data) for file, data in found),
        thickness=thickness[0] if thickness else None,
        kernel=kernel if known_kernel else "",
        manufacturer=next((v for v in _VENDORS if re.match(rf"{v.upper()}\b", manufacturer)), ""),
        tilt=tilt[0] if tilt else 0.0,
    )


def _slice(file: Path, data: pydicom.Dataset) -> Slice:
    rows, columns = int(data.get("Rows") or 0), int(data.get("Columns") or 0)
    syntax = getattr(getattr(data, "file_meta", None), "TransferSyntaxUID", None)
    kind = data.get("ImageType") or ()
    acquisition = data.get("AcquisitionNumber")
    return Slice(
        file=file,
        sop_uid=str(data.get("SOPInstanceUID") or ""),
        image_type=tuple(str(word).upper() for word in ((kind,) if isinstance(kind, str) else kind)),
        acquisition="" if acquisition is None else str(acquisition),
        position=_numbers(data, "ImagePositionPatient", 3),
        orientation=_numbers(data, "ImageOrientationPatient", 6),
        pixel_spacing=_numbers(data, "PixelSpacing", 2),
        shape=(rows, columns),
        frames=int(data.get("NumberOfFrames") or 1),
        whole_hu=all(
            v.is_integer() for k in ("RescaleSlope", "RescaleIntercept") for v in _numbers(data, k, 1)
        ),
        compressed=syntax is not None and (syntax.is_compressed or syntax.is_deflated),
    )


def _numbers(data: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """The numbers of an element; empty if they are missing, of another count, or not finite."""
    try:
        value = data.get(keyword)
        values = tuple(float(v) for v in ([value] if count == 1 else value))
    except (TypeError, ValueError):
        return ()
    return values if len(values) == count and bool(np.isfinite(values).all()) else ()
