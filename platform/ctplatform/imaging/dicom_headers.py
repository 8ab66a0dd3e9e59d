"""Headers of DICOM files, read with pydicom and grouped into series.

First of four steps: this module turns files into series, `dicom_uniformity` checks that the images of one belong
together, `dicom_geometry` orders them and checks their grid, `dicom_series` chooses among several and reads the pixels.

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
from typing import Any, BinaryIO

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.uid import RLELossless

from ctplatform.imaging import acquisition, dicom_frames
from ctplatform.imaging.dicom_elements import (
    numbers,
    padding,
    pixel_range,
    rescale,
    rle_segments,
    text,
    whole_number,
    words,
)
from ctplatform.imaging.dicom_file import DicomFile

_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "PatientID", "IssuerOfPatientID", "StudyInstanceUID",
    "SeriesInstanceUID", "AcquisitionNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "Rows", "Columns", "NumberOfFrames", "RescaleSlope", "RescaleIntercept", "SliceThickness", "ConvolutionKernel",
    "Manufacturer", "GantryDetectorTilt", "InstanceNumber", "SamplesPerPixel", "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleType", "ModalityLUTSequence", "BodyPartExamined", "SeriesDescription", "TemporalPositionIdentifier",
    *acquisition.KEYWORDS, *dicom_frames.KEYWORDS,
)  # fmt: skip
_TAGS: list[int] = [int(tag) for k in _KEYWORDS if (tag := tag_for_keyword(k)) is not None]
_MODALITIES = {
    "CT", "MR", "PT", "NM", "US", "CR", "DX", "MG", "XA", "RF", "OT", "SC", "SEG", "RTSTRUCT", "RTDOSE", "RTPLAN",
    "RTIMAGE", "SR", "PR", "KO", "REG", "DOC",
}  # fmt: skip
_RESCALE_TYPES = {"", "HU", "HU_MOD", "US", "OD", "MGML", "Z_EFF", "ED", "EDW", "PCT"}
_DESCRIPTION_WORDS = frozenset({"MIP", "MINIP", "MAXIP", "VRT", "SSD"})
_CHEST_WORDS = frozenset({"CHEST", "THORAX", "LUNG", "LUNGS", "CHESTABDOMEN", "CHESTABDPELVIS", "TSPINE"})
_ELSEWHERE_WORDS = frozenset(
    {
        "ABDOMEN",
        "ABDOMENPELVIS",
        "PELVIS",
        "HEAD",
        "BRAIN",
        "SKULL",
        "NECK",
        "LEG",
        "KNEE",
        "FOOT",
        "HIP",
        "ARM",
    }
)
_FIRST_TAGS = (
    b"\x08\x00\x00\x00",
    b"\x08\x00\x05\x00",
    b"\x08\x00\x08\x00",
    b"\x08\x00\x16\x00",
    b"\x02\x00\x00\x00",
)


@dataclass(frozen=True)
class Slice:
    """Header of one image of a series; positions in mm, LPS; empty tuples where an element is missing or invalid.

    Attributes:
        patient_id, study_uid: of this image; identifying, compared only.
        reconstruction: convolution kernel and temporal position as stored; compared only.
        instance: InstanceNumber.
        photometric, samples, bits_allocated, bits_stored, high_bit, signed: how pixels are stored.
        rescale: slope and intercept; None where both elements are absent, empty where they are blank, incomplete, not
            numbers, of slope zero, or replaced by a lookup table.
        rescale_type: unit of the rescaled values; a known word, else empty.
        padding: lowest and highest stored value of padding, as PixelPaddingValue and its limit say.
        dose: `acquisition.NUMBERS`: kV, mAs, mGy.
        pixel_bytes: bytes of uncompressed pixels that the file holds; -1 where the header does not show it.
        pixel_offset: where they start in the file; -1 where they are not plain little-endian numbers.
        invalid: keywords of elements that cannot be read.
        frame: index in a multi-frame file; None where the file has one image.
    """

    file: Path
    sop_uid: str
    sop_class: str
    modality: str
    patient_id: str
    study_uid: str
    image_type: tuple[str, ...]
    acquisition: str
    reconstruction: tuple[str, ...]
    instance: int | None
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    shape: tuple[int, int]
    frames: int
    photometric: str
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    rescale: tuple[float, ...] | None
    rescale_type: str
    padding: tuple[int, ...]
    dose: tuple[float | None, ...]
    pixel_bytes: int
    pixel_offset: int
    compressed: bool
    deflated: bool
    invalid: tuple[str, ...]
    frame: int | None = None

    @property
    def slope_intercept(self) -> tuple[float, float]:
        """Slope and intercept, 1 and 0 where the header has neither."""
        return (self.rescale[0], self.rescale[1]) if self.rescale else (1.0, 0.0)

    @property
    def hu_range(self) -> tuple[float, float]:
        """Lowest and highest value that the stored bits can stand for after rescaling."""
        slope, intercept = self.slope_intercept
        low = -(2 ** (self.bits_stored - 1)) if self.signed else 0
        ends = (low * slope + intercept, (low + 2**self.bits_stored - 1) * slope + intercept)
        return min(ends), max(ends)


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
        body_part: "chest" or "elsewhere" where BodyPartExamined or SeriesDescription says so, else empty.
        described: the words of `_DESCRIPTION_WORDS` in SeriesDescription.
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
    body_part: str
    described: frozenset[str]

    @property
    def source(self) -> dict[str, Any]:
        """Format and acquisition as the headers give them, in known words and numbers only."""
        return {
            "format": "DICOM",
            "kernel": self.kernel,
            "slice_thickness_mm": self.thickness,
            "manufacturer": self.manufacturer,
            **acquisition.mean_dose([image.dose for image in self.slices]),
        }


def index_files(files: Iterable[Path]) -> list[Series]:
    """Group DICOM files by SeriesInstanceUID; other files are left out. Sorted by UID."""
    headers: dict[str, list[tuple[pydicom.Dataset, Slice]]] = {}
    with quiet_pydicom():
        for file in files:
            header = _header(file)
            if header is not None:
                uid, data, images = header
                headers.setdefault(uid, []).extend((data, image) for image in images)
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


def _header(file: Path) -> tuple[str, pydicom.Dataset, list[Slice]] | None:
    """SeriesInstanceUID, elements, and what they say of each image in the file; None if it is no DICOM image."""
    if not file.is_file():  # reading a pipe may never end
        return None
    try:
        with DicomFile(file, header_only=True) as stream:
            start = stream.read(132)
            # Without a preamble, the first element is one of the file meta or identifying group, little endian.
            bare = file.suffix.lower() in (".dcm", ".ima") or start[:4] in _FIRST_TAGS
            if start[128:] != b"DICM" and not bare:
                return None
            stream.seek(0)
            data = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=_TAGS)
            if not ("SeriesInstanceUID" in data and "Rows" in data):
                return None
            image = _slice(file, data, stream)
            if image.sop_class in dicom_frames.MULTI_FRAME_CLASSES:
                return str(data.SeriesInstanceUID), dicom_frames.with_shared(data), _frames(data, image)
            return str(data.SeriesInstanceUID), data, [image]
    except Exception:  # a broken file can raise anything in the parser
        return None


def _frames(data: pydicom.Dataset, image: Slice) -> list[Slice]:
    """The frames of a multi-frame image, whose header outside of the functional groups is `image`."""
    count = image.frames
    share = image.pixel_bytes // count if image.pixel_bytes > 0 else image.pixel_bytes
    common = replace(image, frames=1, instance=None, pixel_bytes=share)
    frames = []
    for k, fields in enumerate(dicom_frames.frame_fields(data, count)):
        if "rescale_type" in fields:
            fields["rescale_type"] = _rescale_type(fields["rescale_type"].upper())
        frames.append(replace(common, sop_uid=f"{image.sop_uid} frame {k + 1}", frame=k, **fields))
    return frames


def _series(uid: str, found: list[tuple[pydicom.Dataset, Slice]]) -> Series:
    data, first = found[0]
    tilt = numbers(data, "GantryDetectorTilt", 1)
    thickness = numbers(data, "SliceThickness", 1)
    kernel = words(data, "ConvolutionKernel")
    described = _tokens(text(data, "SeriesDescription"))
    return Series(
        uid=uid,
        study_uid=first.study_uid,
        patient_id=first.patient_id,
        modality=first.modality,
        sop_class=first.sop_class,
        slices=tuple(image for _, image in found),
        thickness=thickness[0] if thickness else None,
        kernel=acquisition.known_kernel(kernel[0]) if kernel else "",
        manufacturer=acquisition.known_manufacturer(text(data, "Manufacturer")),
        tilt=tilt[0] if tilt else 0.0,
        body_part=_body_part(_tokens(text(data, "BodyPartExamined"))) or _body_part(described),
        described=described & _DESCRIPTION_WORDS,
    )


def _slice(file: Path, data: pydicom.Dataset, stream: BinaryIO) -> Slice:
    invalid: list[str] = []

    def whole(keyword: str, default: int) -> int:
        try:
            return whole_number(data, keyword, default)
        except ValueError:
            invalid.append(keyword)
            return default

    syntax = getattr(getattr(data, "file_meta", None), "TransferSyntaxUID", None)
    compressed = deflated = False
    if syntax is not None:
        try:
            compressed, deflated = bool(syntax.is_compressed), bool(syntax.is_deflated)
        except (ValueError, AttributeError):  # private, unknown or empty
            invalid.append("TransferSyntaxUID")
    issuer, patient = text(data, "IssuerOfPatientID"), text(data, "PatientID")
    modality = text(data, "Modality").upper()
    instance = numbers(data, "InstanceNumber", 1)
    bits = whole("BitsAllocated", 16)
    bits_stored = min(max(whole("BitsStored", bits), 1), 64)
    signed = whole("PixelRepresentation", 0) == 1
    if syntax == RLELossless and not 1 <= rle_segments(stream) <= 15:
        invalid.append("PixelData")
    length, offset = (-1, -1) if compressed or deflated else pixel_range(data, stream)
    return Slice(
        file=file,
        sop_uid=text(data, "SOPInstanceUID"),
        sop_class=text(data, "SOPClassUID"),
        modality=modality if modality in _MODALITIES else "unknown",
        patient_id=f"{issuer}\n{patient}" if patient and issuer else patient,
        study_uid=text(data, "StudyInstanceUID"),
        image_type=tuple(word.upper() for word in words(data, "ImageType")),
        acquisition=text(data, "AcquisitionNumber"),
        reconstruction=(*words(data, "ConvolutionKernel"), text(data, "TemporalPositionIdentifier")),
        instance=int(instance[0]) if instance else None,
        position=numbers(data, "ImagePositionPatient", 3),
        orientation=numbers(data, "ImageOrientationPatient", 6),
        pixel_spacing=numbers(data, "PixelSpacing", 2),
        shape=(whole("Rows", 0), whole("Columns", 0)),
        frames=whole("NumberOfFrames", 1) or 1,
        photometric=text(data, "PhotometricInterpretation").upper(),
        samples=whole("SamplesPerPixel", 1),
        bits_allocated=bits,
        bits_stored=bits_stored,
        high_bit=whole("HighBit", bits_stored - 1),
        signed=signed,
        rescale=rescale(data),
        rescale_type=_rescale_type(text(data, "RescaleType").upper()),
        padding=padding(data, signed=signed),
        dose=acquisition.dose_of_image(data),
        pixel_bytes=length,
        pixel_offset=offset,
        compressed=compressed or deflated,
        deflated=deflated,
        invalid=tuple(invalid),
    )


def _rescale_type(stored: str) -> str:
    """A defined term, also where a vendor's text contains the name of a material; any other text says nothing."""
    if stored in _RESCALE_TYPES:
        return stored
    return "material" if re.search(r"IODINE|CALCIUM|WATER|Z[ _-]?EFF|EFF[ _-]?Z|DENSITY|MG/", stored) else ""


def _body_part(words: frozenset[str]) -> str:
    """Where in the body, from words of a header."""
    if words & _CHEST_WORDS:
        return "chest"
    return "elsewhere" if words & _ELSEWHERE_WORDS else ""


def _tokens(text: str) -> frozenset[str]:
    return frozenset(re.split(r"[^A-Z0-9]+", text.upper())) - {""}


def plain_id(patient_id: str) -> str:
    """`Series.patient_id` without the issuer, for comparisons: case and repeated or outer blanks make no difference."""
    return " ".join(patient_id.split("\n")[-1].upper().split())
