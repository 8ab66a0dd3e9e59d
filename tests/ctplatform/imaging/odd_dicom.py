"""Kinds of odd DICOM series."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from ctplatform.imaging.dicom_writer import write_dicom_series
from tests.ctplatform.imaging.multiframe import write_enhanced
from tests.ctplatform.imaging.oddities import Kind, Odd

Array = np.ndarray[Any, np.dtype[Any]]
KINDS: list[Kind] = []

Edit = Callable[[list[Dataset], Odd], list[Dataset] | None]


def _dicom(name: str, *, sound: bool) -> Callable[[Edit], Edit]:
    """Register an edit of the images of a series, which may return others in their place."""

    def register(edit: Edit) -> Edit:
        def write(odd: Odd, folder: Path) -> Path:
            write_dicom_series(odd.grid.image(), folder / "first")
            images = [pydicom.dcmread(file) for file in sorted((folder / "first").iterdir())]
            changed = edit(images, odd)
            images = images if changed is None else changed
            (folder / "series").mkdir()
            for place, k in enumerate(odd.rng.permutation(len(images))):
                _save(images[k], folder / "series" / f"{place:03d}.dcm")
            return folder / "series"

        KINDS.append(Kind(f"DICOM: {name}", write, sound))
        return edit

    return register


def _save(image: Dataset, file: Path) -> None:
    bare = Dataset()  # without the encoding of the file that it was read from
    bare.update({element.tag: element for element in image})
    if "without_preamble" in image.__dict__:
        bare.save_as(file.with_suffix(""), implicit_vr=True, little_endian=True)
        return
    bare.file_meta = image.file_meta
    little = image.file_meta.TransferSyntaxUID != ExplicitVRBigEndian
    bare.save_as(file, implicit_vr=False, little_endian=little, enforce_file_format=True)


def hu_of(image: Dataset) -> Array:
    """HU of an image as `write_dicom_series` stores it."""
    stored = np.frombuffer(image.PixelData, "<i2").reshape(image.Rows, image.Columns)
    return stored.astype(int) - 1024


def store(
    image: Dataset,
    hu_YX: Array,
    *,
    slope: float = 1.0,
    intercept: float = -1024,
    bits: int = 16,
    high: int | None = None,
    signed: bool = True,
    above: int = 0,
) -> None:
    """Store HU with other numbers a voxel.

    Args:
        above: what the bits above the stored ones hold.
    """
    high = bits - 1 if high is None else high
    stored = np.rint((hu_YX - intercept) / slope).astype(int) & (2**bits - 1)
    image.PixelData = ((stored << (high - bits + 1)) | above << bits).astype("<u2").tobytes()
    image.RescaleSlope, image.RescaleIntercept = slope, intercept
    image.BitsStored, image.HighBit, image.PixelRepresentation = bits, high, int(signed)


@_dicom("slope and intercept of each slice", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for k, image in enumerate(images):
        store(image, hu_of(image), slope=float(odd.rng.choice([0.5, 1, 2])), intercept=-1024 - 10 * k)


@_dicom("no slope and intercept, HU as stored", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        store(image, hu_of(image), intercept=0)
        del image.RescaleSlope, image.RescaleIntercept


@_dicom("slope and intercept missing on some slices", sound=False)
def _(images: list[Dataset], odd: Odd) -> None:
    for k in odd.some(len(images)):
        del images[k].RescaleSlope, images[k].RescaleIntercept


@_dicom("slope or intercept blank, zero or alone on some slices", sound=False)
def _(images: list[Dataset], odd: Odd) -> None:
    for k in odd.some(len(images)):
        keyword = str(odd.rng.choice(["RescaleSlope", "RescaleIntercept"]))
        how = int(odd.rng.integers(3))
        if how == 0:
            delattr(images[k], keyword)
        else:
            setattr(images[k], keyword, None)
        if how == 2:
            images[k].RescaleSlope, images[k].RescaleIntercept = 0, -1024


@_dicom("MONOCHROME1", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        image.PhotometricInterpretation = "MONOCHROME1"


@_dicom("MONOCHROME1, 12 bits of two's complement", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        store(image, hu_of(image), intercept=0, bits=12)
        image.PhotometricInterpretation = "MONOCHROME1"


@_dicom("MONOCHROME1 on some slices", sound=False)
def _(images: list[Dataset], odd: Odd) -> None:
    for k in odd.some(len(images)):
        images[k].PhotometricInterpretation = "MONOCHROME1"


@_dicom("one slice in colour", sound=False)
def _(images: list[Dataset], odd: Odd) -> None:
    image = images[odd.inner(len(images))]
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PixelData = bytes([200]) * (3 * image.Rows * image.Columns + image.Rows * image.Columns % 2)


@_dicom("signed and unsigned slices", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for k in odd.some(len(images)):
        store(images[k], hu_of(images[k]), signed=False)


@_dicom("12 bits of two's complement", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        store(image, hu_of(image), intercept=0, bits=12)


@_dicom("12 bits on some slices, 16 on others", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for k in odd.some(len(images)):
        store(images[k], hu_of(images[k]), bits=12, signed=False)


@_dicom("an overlay in the upper four bits", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        store(image, hu_of(image), bits=12, signed=False, above=int(odd.rng.integers(1, 16)))


@_dicom("12 bits in the upper part of the word", sound=False)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        store(image, hu_of(image), bits=12, high=15, signed=False)


@_dicom("a row more in one slice", sound=False)
def _(images: list[Dataset], odd: Odd) -> None:
    image = images[odd.inner(len(images))]
    image.PixelData += image.PixelData[: 2 * image.Columns]
    image.Rows += 1


@_dicom("bytes behind the pixels", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for k in odd.some(len(images)):
        images[k].PixelData += bytes(2 * int(odd.rng.integers(1, 40)))


@_dicom("pixels cut short, length as stored", sound=False)
def _(images: list[Dataset], odd: Odd) -> None:
    image = images[int(odd.rng.integers(len(images)))]
    image.PixelData = image.PixelData[: 2 * int(odd.rng.integers(0, image.Rows * image.Columns))]


def _compress(images: list[Dataset], syntax: str) -> None:
    for image in images:
        uid = image.SOPInstanceUID
        image.compress(syntax, generate_instance_uid=False)
        image.SOPInstanceUID = uid


@_dicom("RLE", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    _compress(images, RLELossless)


@_dicom("JPEG-LS", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    _compress(images, JPEGLSLossless)


def _cut(images: list[Dataset], odd: Odd, syntax: str) -> None:
    _compress(images, syntax)
    image = images[int(odd.rng.integers(len(images)))]
    fragment = pydicom.encaps.get_frame(image.PixelData, 0, number_of_frames=1)
    least = 66 if syntax == RLELossless else 40
    kept = fragment[: int(odd.rng.integers(least, len(fragment) - 8)) & ~1]
    image.PixelData = pydicom.encaps.encapsulate([kept])


@_dicom("RLE, one slice cut short", sound=False)
def _(images: list[Dataset], odd: Odd) -> None:
    _cut(images, odd, RLELossless)


@_dicom("JPEG-LS, one slice cut short", sound=False)
def _(images: list[Dataset], odd: Odd) -> None:
    _cut(images, odd, JPEGLSLossless)


@_dicom("RLE on some slices", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    _compress([images[k] for k in odd.some(len(images))], RLELossless)


@_dicom("deflated", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


@_dicom("big endian", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()


@_dicom("implicit VR without preamble and suffix", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        image.__dict__["without_preamble"] = True


@_dicom("a transfer syntax that nobody knows on one slice", sound=False)
def _(images: list[Dataset], odd: Odd) -> None:
    images[odd.inner(len(images))].file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.113619.5.2")


@_dicom("one SOPInstanceUID for all", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        image.SOPInstanceUID = images[0].SOPInstanceUID


@_dicom("files twice", sound=True)
def _(images: list[Dataset], odd: Odd) -> list[Dataset]:
    return [*images, *(deepcopy(images[k]) for k in odd.some(len(images)))]


@_dicom("localizer and projection among the slices", sound=True)
def _(images: list[Dataset], odd: Odd) -> list[Dataset]:
    added = []
    for words in (["ORIGINAL", "PRIMARY", "LOCALIZER"], ["DERIVED", "SECONDARY", "AXIAL", "MIP"]):
        image = deepcopy(images[odd.inner(len(images))])
        image.ImageType, image.SOPInstanceUID = words, generate_uid()
        image.ImagePositionPatient = [0, 0, 999]
        added.append(image)
    return [*images, *added]


@_dicom("a slice lost", sound=False)
def _(images: list[Dataset], odd: Odd) -> list[Dataset]:
    lost = odd.inner(len(images))
    return [image for k, image in enumerate(images) if k != lost]


@_dicom("a slice of other pixels at the same place", sound=False)
def _(images: list[Dataset], odd: Odd) -> list[Dataset]:
    k = odd.inner(len(images))
    image = deepcopy(images[k])
    image.PixelData, image.SOPInstanceUID = images[k - 1].PixelData, generate_uid()
    return [*images, image]


@_dicom("slices aside of the others", sound=False)
def _(images: list[Dataset], odd: Odd) -> None:
    row = np.array(images[0].ImageOrientationPatient[:3], float)
    away = float(odd.rng.uniform(2, 40)) * row
    for k in odd.some(len(images)):
        images[k].ImagePositionPatient = (np.array(images[k].ImagePositionPatient, float) + away).tolist()


@_dicom("a second acquisition between the slices", sound=False)
def _(images: list[Dataset], odd: Odd) -> list[Dataset]:
    step = np.array(images[1].ImagePositionPatient, float) - np.array(images[0].ImagePositionPatient, float)
    numbered = bool(odd.rng.integers(2))
    second = []
    for k, image in enumerate(images):
        other = deepcopy(image)
        other.ImagePositionPatient = (
            (np.array(image.ImagePositionPatient, float) + step / 2).round(6).tolist()
        )
        other.SOPInstanceUID = generate_uid()
        other.InstanceNumber = k + 1 if numbered else len(images) + k + 1
        other.AcquisitionNumber = 1 if numbered else 2
        second.append(other)
    return [*images, *second]


@_dicom("one slice of another person", sound=False)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        image.PatientID = "one"
    images[odd.inner(len(images))].PatientID = "two"


@_dicom("orientation rounded differently on each slice", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        exact = np.array(image.ImageOrientationPatient, float)
        image.ImageOrientationPatient = (exact + odd.rng.uniform(-2e-3, 2e-3, 6)).round(4).tolist()


@_dicom("pixel spacing rounded differently on each slice", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        exact = np.array(image.PixelSpacing, float)
        image.PixelSpacing = (exact * (1 + odd.rng.uniform(-1e-5, 1e-5, 2))).round(8).tolist()


@_dicom("positions rounded to 0.01 mm", sound=True)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        image.ImagePositionPatient = np.array(image.ImagePositionPatient, float).round(2).tolist()


@_dicom("effective atomic numbers", sound=False)
def _(images: list[Dataset], odd: Odd) -> None:
    for image in images:
        image.RescaleType = "Z_EFF"


def _enhanced(odd: Odd, folder: Path) -> Path:
    write_dicom_series(odd.grid.image(), folder / "first")
    count = len(list((folder / "first").iterdir()))
    return write_enhanced(
        folder / "first", folder / "multi" / "a.dcm", order=odd.rng.permutation(count).tolist()
    ).parent


KINDS.append(Kind("DICOM: Enhanced CT, frames in any order", _enhanced, sound=True))
