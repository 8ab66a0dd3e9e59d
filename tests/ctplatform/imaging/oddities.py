"""Drawn scans with headers as they are met in practice, each of one kind, whose right voxels and places are known.

A sound kind must be read as it is; of the others, a ScanError is right as well. Nothing else is: no other exception, and
no other voxels.
"""

from __future__ import annotations

import bz2
import gzip
import struct
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.imaging.drawn import Drawn, check_same, headers
from tests.ctplatform.imaging.multiframe import write_enhanced

Array = np.ndarray[Any, np.dtype[Any]]
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Odd:
    """A drawn grid stored with one oddity.

    Attributes:
        kind: name in `KINDS`.
        seed: of what the oddity chooses: slices, amounts.
    """

    grid: Drawn
    kind: str
    seed: int

    @cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def some(self, count: int) -> list[int]:
        """Indices of some of `count` slices, neither none nor all."""
        return sorted(self.rng.choice(count, self.rng.integers(1, count), replace=False).tolist())

    def inner(self, count: int) -> int:
        """Index of a slice that has neighbours on both sides."""
        return int(self.rng.integers(2, count - 2))

    def write(self, folder: Path) -> Path:
        """The scan as a file, or a folder with a DICOM series."""
        return KINDS[self.kind].write(self, folder)


class Kind(NamedTuple):
    """One kind of oddity: how it is written, and whether it must be read."""

    write: Callable[[Odd, Path], Path]
    sound: bool


KINDS: dict[str, Kind] = {}


def odd_scans() -> st.SearchStrategy[Odd]:
    """Draws of all kinds."""
    return st.builds(
        Odd, grid=headers(broken=False), kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 2**31 - 1)
    )


def check_odd(odd: Odd) -> str:
    """The right HU in the right place, or, of a kind that is not sound, a ScanError, whose code is returned."""
    with tempfile.TemporaryDirectory(prefix="named-") as folder:
        path = replace(odd).write(Path(folder))  # a generator of its own, however often it is checked
        try:
            found = read_volume(path).image
        except ScanError as error:
            assert not KINDS[odd.kind].sound, f"{odd.kind}: refused, {error}"
            assert "named-" not in str(error)
            return error.code
    check_same(found, odd.grid.image())
    return ""


# --- DICOM ---

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

        KINDS[f"DICOM: {name}"] = Kind(write, sound)
        return edit

    return register


def _save(image: Dataset, file: Path) -> None:
    bare = Dataset()  # without the encoding of the file that it was read from
    bare.update({element.tag: element for element in image})
    if "without_preamble" in image.__dict__:
        bare.save_as(file.with_suffix(""), implicit_vr=True, little_endian=True)
        return
    bare.file_meta = image.file_meta
    bare.save_as(file, enforce_file_format=True)


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


KINDS["DICOM: Enhanced CT, frames in any order"] = Kind(_enhanced, sound=True)

# --- NIfTI ---


def affine_of(image: sitk.Image) -> Array:
    """Voxel to mm, RAS."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return RAS @ affine


Written = Callable[[Any, Odd, Path], Path]


def _nifti(name: str, *, sound: bool) -> Callable[[Written], Written]:
    """Register a writer of a NIfTI image of HU, int16, with sform and qform of code 1."""

    def register(save: Written) -> Written:
        def write(odd: Odd, folder: Path) -> Path:
            image = odd.grid.image()
            stored = nib.Nifti1Image(sitk.GetArrayFromImage(image).T, None)
            stored.set_sform(affine_of(image), 1)
            stored.set_qform(affine_of(image), 1)
            stored.header.set_xyzt_units("mm")
            return save(stored, odd, folder / "scan.nii")

        KINDS[f"NIfTI: {name}"] = Kind(write, sound)
        return save

    return register


def _saved(image: Any, path: Path, *patches: tuple[int, str, tuple[float, ...]]) -> Path:
    """Save, and write numbers at offsets of the file."""
    data = bytearray(image.to_bytes())
    for offset, form, values in patches:
        struct.pack_into(form, data, offset, *values)
    path.write_bytes(bytes(data))
    return path


@_nifti("codes of sform and qform", sound=True)
def _(image: Any, odd: Odd, path: Path) -> Path:
    q_code, s_code = odd.rng.integers(1, 5, 2).tolist()
    return _saved(image, path, (252, "<2h", (q_code, s_code)))


@_nifti("sform alone, of any code", sound=True)
def _(image: Any, odd: Odd, path: Path) -> Path:
    return _saved(image, path, (252, "<2h", (0, int(odd.rng.integers(1, 5)))), (256, "<6f", (0.0,) * 6))


@_nifti("qform alone, sform empty", sound=True)
def _(image: Any, odd: Odd, path: Path) -> Path:
    code = int(odd.rng.integers(1, 5))
    return _saved(image, path, (252, "<2h", (code, 0)), (280, "<12f", (0.0,) * 12))


@_nifti("sform of zeros or NaN with a good qform", sound=True)
def _(image: Any, odd: Odd, path: Path) -> Path:
    return _saved(image, path, (280, "<12f", (float(odd.rng.choice([0.0, np.nan])),) * 12))


@_nifti("voxel offset 0", sound=True)
def _(image: Any, odd: Odd, path: Path) -> Path:
    return _saved(image, path, (108, "<f", (0.0,)))


@_nifti("pixdim of another size than the sform", sound=False)
def _(image: Any, odd: Odd, path: Path) -> Path:
    sizes = image.header["pixdim"][1:4] * odd.rng.choice([0.5, 0.9, 1.05, 2.0], 3)
    return _saved(image, path, (80, "<3f", tuple(sizes.tolist())), (252, "<2h", (0, 1)))


@_nifti("pixdim not set", sound=True)
def _(image: Any, odd: Odd, path: Path) -> Path:
    return _saved(image, path, (80, "<3f", (float(odd.seed % 2),) * 3), (252, "<2h", (0, 1)))


@_nifti("metres or micrometres", sound=True)
def _(image: Any, odd: Odd, path: Path) -> Path:
    unit, factor = [("meter", 1e-3), ("micron", 1e3)][odd.seed % 2]
    affine = np.diag([factor] * 3 + [1.0]) @ image.affine
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units(unit)
    return _saved(image, path)


@_nifti("big endian, or NIfTI-2", sound=True)
def _(image: Any, odd: Odd, path: Path) -> Path:
    if odd.seed % 2:
        return _saved(nib.Nifti2Image(image.dataobj, image.affine), path)
    swapped = nib.Nifti1Image(image.dataobj, image.affine, image.header.as_byteswapped(">"))
    return _saved(swapped, path)


@_nifti("scaled numbers of other types", sound=True)
def _(image: Any, odd: Odd, path: Path) -> Path:
    kind = odd.rng.choice(["u2", "i2", "i4", "f4", "f8"])
    slope, shift = float(odd.rng.choice([0.5, 1.0, 2.0])), float(odd.rng.choice([-1024, -8192, -2000]))
    stored = ((np.asanyarray(image.dataobj).astype(float) - shift) / slope).astype(kind)
    scaled = nib.Nifti1Image(stored, image.affine)
    return _saved(scaled, path, (112, "<2f", (slope, shift)))


@_nifti("a slope of 0 or NaN, which means none", sound=True)
def _(image: Any, odd: Odd, path: Path) -> Path:
    return _saved(image, path, (112, "<2f", (float(odd.rng.choice([0.0, np.nan])), 0.0)))


@_nifti("packed in several members, under either suffix", sound=True)
def _(image: Any, odd: Odd, path: Path) -> Path:
    data = bytes(image.to_bytes())
    at = int(odd.rng.integers(1, len(data)))
    target = path.with_suffix(".nii.gz") if odd.seed % 2 else path
    target.write_bytes(gzip.compress(data[:at], 1) + gzip.compress(data[at:], 1))
    return target


@_nifti("packed, a byte damaged or the end lost", sound=False)
def _(image: Any, odd: Odd, path: Path) -> Path:
    packed = bytearray(gzip.compress(bytes(image.to_bytes()), 1))
    at = int(odd.rng.integers(12, len(packed)))
    if odd.seed % 2:
        packed[at] ^= 1 + odd.seed % 255
    else:
        del packed[at:]
    target = path.with_suffix(".nii.gz")
    target.write_bytes(bytes(packed))
    return target


@_nifti("sheared", sound=False)
def _(image: Any, odd: Odd, path: Path) -> Path:
    sheared = image.affine.copy()
    sheared[:3, 2] += 0.36 * np.linalg.norm(sheared[:3, 2]) * sheared[:3, 1] / np.linalg.norm(sheared[:3, 1])
    sizes = np.linalg.norm(sheared[:3, :3], axis=0)
    image.set_sform(sheared, 1)
    return _saved(image, path, (252, "<2h", (0, 1)), (80, "<3f", tuple(sizes.tolist())))


@_nifti("sform and qform of two hands", sound=False)
def _(image: Any, odd: Odd, path: Path) -> Path:
    image.set_qform(image.affine @ np.diag([-1.0, 1.0, 1.0, 1.0]), 1)
    return _saved(image, path)


@_nifti("a fourth axis of one volume", sound=True)
def _(image: Any, odd: Odd, path: Path) -> Path:
    longer = nib.Nifti1Image(np.asanyarray(image.dataobj)[..., None], image.affine)
    return _saved(longer, path)


@_nifti("the end lost", sound=False)
def _(image: Any, odd: Odd, path: Path) -> Path:
    data = bytes(image.to_bytes())
    path.write_bytes(data[: -int(odd.rng.integers(1, 2000))])
    return path


# --- NRRD ---

_SPACES = {"left-posterior-superior": (1, 1), "LPS": (1, 1), "right-anterior-superior": (-1, -1), "RAS": (-1, -1),
           "left-anterior-superior": (1, -1), "LAS": (1, -1)}  # fmt: skip


def _vector(values: Array) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"


def _nrrd_file(
    odd: Odd,
    folder: Path,
    *,
    space: str = "left-posterior-superior",
    signs: tuple[int, ...] = (1, 1),
    scale: float = 1.0,
    encoding: str = "raw",
    order: str = "<",
    shear: float = 0.0,
    more: str = "",
    name: str = "scan.nrrd",
    pack: Callable[[bytes], bytes] = bytes,
) -> Path:
    image = odd.grid.image()
    matrix = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:, 2] += shear * np.linalg.norm(matrix[:, 2]) * matrix[:, 1] / np.linalg.norm(matrix[:, 1])
    flip = np.array([*signs, 1]) * scale
    axes = " ".join(_vector(flip * matrix[:, k]) for k in range(3))
    header = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: {space}\nsizes: {' '.join(map(str, image.GetSize()))}\n"
        f"space directions: {axes}\nkinds: domain domain domain\nendian: {'little' if order == '<' else 'big'}\n"
        f"encoding: {encoding}\nspace origin: {_vector(flip * np.array(image.GetOrigin()))}\n{more}"
    ).encode()
    voxels = pack(sitk.GetArrayFromImage(image).astype(f"{order}i2").tobytes())
    folder.mkdir(exist_ok=True)
    if "data file" in more:
        (folder / "voxels 1.raw").write_bytes(voxels)
        voxels = b""
    (folder / name).write_bytes(header + (b"\n" + voxels if voxels else b""))
    return folder / name


def _hex_or_text(data: bytes) -> bytes:
    return " ".join(map(str, np.frombuffer(data, "<i2"))).encode()


def _spaces(odd: Odd, folder: Path) -> Path:
    space = sorted(_SPACES)[odd.seed % len(_SPACES)]
    return _nrrd_file(odd, folder, space=space, signs=_SPACES[space])


def _nrrd_units(odd: Odd, folder: Path) -> Path:
    unit, scale = [("cm", 0.1), ("m", 1e-3), ("um", 1e3), ("mm", 1.0)][odd.seed % 4]
    return _nrrd_file(odd, folder, scale=scale, more="space units: " + " ".join([f'"{unit}"'] * 3) + "\n")


def _other_space(odd: Odd, folder: Path) -> Path:
    space = ["scanner-xyz", "3D-right-handed", "3D-left-handed", "right-posterior-superior"][odd.seed % 4]
    return _nrrd_file(odd, folder, space=space)


def _sheared_nrrd(odd: Odd, folder: Path) -> Path:
    return _nrrd_file(odd, folder, shear=float(odd.rng.uniform(0.02, 0.4)))


def _detached(odd: Odd, folder: Path) -> Path:
    name = ["scan.nhdr", "scan.nrrd", "scan.NHDR"][odd.seed % 3]
    return _nrrd_file(odd, folder, name=name, more="data file: voxels 1.raw\n")


def _cut_nrrd(odd: Odd, folder: Path) -> Path:
    lost = int(odd.rng.integers(1, 2000))
    return _nrrd_file(odd, folder, pack=lambda data: data[:-lost])


KINDS |= {
    "NRRD: named spaces": Kind(_spaces, sound=True),
    "NRRD: lengths in other units": Kind(_nrrd_units, sound=True),
    "NRRD: spaces without left and right": Kind(_other_space, sound=False),
    "NRRD: sheared": Kind(_sheared_nrrd, sound=False),
    "NRRD: separate data file with a blank in its name": Kind(_detached, sound=True),
    "NRRD: gzip": Kind(lambda o, f: _nrrd_file(o, f, encoding="gzip", pack=gzip.compress), sound=True),
    "NRRD: text": Kind(lambda o, f: _nrrd_file(o, f, encoding="text", pack=_hex_or_text), sound=True),
    "NRRD: bzip2": Kind(lambda o, f: _nrrd_file(o, f, encoding="bzip2", pack=bz2.compress), sound=False),
    "NRRD: big endian": Kind(lambda o, f: _nrrd_file(o, f, order=">"), sound=True),
    "NRRD: the end lost": Kind(_cut_nrrd, sound=False),
}

# --- MetaImage ---


def _meta_file(
    odd: Odd,
    folder: Path,
    *,
    scale: float = 1.0,
    shear: float = 0.0,
    order: str = "<",
    slope: float = 1.0,
    intercept: float = 0.0,
    more: str = "",
    data: str = "LOCAL",
    name: str = "scan.mha",
    lost: int = 0,
) -> Path:
    image = odd.grid.image()
    cosines = np.array(image.GetDirection()).reshape(3, 3).copy()
    spacing = np.array(image.GetSpacing()) * scale
    cosines[:, 2] += shear * cosines[:, 1]
    cosines[:, 2] /= np.linalg.norm(cosines[:, 2])
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\n"
        f"BinaryDataByteOrderMSB = {order == '>'}\nTransformMatrix = {' '.join(map(repr, cosines.T.ravel().tolist()))}\n"
        f"Offset = {' '.join(repr(v * scale) for v in image.GetOrigin())}\n{more}"
        f"ElementSpacing = {' '.join(map(repr, spacing.tolist()))}\nDimSize = {' '.join(map(str, image.GetSize()))}\n"
        f"ElementType = MET_SHORT\nElementDataFile = {data}\n"
    ).encode()
    hu = sitk.GetArrayFromImage(image).astype(float)
    stored = np.rint((hu - intercept) / slope).astype(f"{order}i2")
    voxels = stored.tobytes()
    folder.mkdir(exist_ok=True)
    if data == "LOCAL":
        (folder / name).write_bytes(header + voxels[: len(voxels) - lost])
        return folder / name
    (folder / name).write_bytes(header)
    if "%" in data or data.startswith("LIST"):
        for k, plane in enumerate(stored):
            (folder / f"s{k + 1:03d}.raw").write_bytes(plane.tobytes())
    else:
        (folder / data).write_bytes(voxels)
    return folder / name


def _function(odd: Odd, folder: Path) -> Path:
    slope, intercept = float(odd.rng.choice([0.5, 2.0])), float(odd.rng.choice([-1024, 0, -2000]))
    more = f"ElementToIntensityFunctionSlope = {slope}\nElementToIntensityFunctionOffset = {intercept}\n"
    return _meta_file(odd, folder, slope=slope, intercept=intercept, more=more)


def _meta_units(odd: Odd, folder: Path) -> Path:
    unit, scale = [("cm", 0.1), ("um", 1e3), ("mm", 1.0)][odd.seed % 3]
    return _meta_file(odd, folder, scale=scale, more=f"DistanceUnits = {unit}\n")


def _data_files(odd: Odd, folder: Path) -> Path:
    depth = odd.grid.image().GetSize()[2]
    names = "\n".join(f"s{k:03d}.raw" for k in range(1, depth + 1))
    data = ["CT 1.raw", f"s%03d.raw 1 {depth} 1", f"LIST\n{names}"][odd.seed % 3]
    return _meta_file(odd, folder, data=data, name=["scan.mhd", "scan.MHD", "scan.mha"][odd.seed // 3 % 3])


KINDS |= {
    "MetaImage: linear function of intensities": Kind(_function, sound=True),
    "MetaImage: lengths in other units": Kind(_meta_units, sound=True),
    "MetaImage: separate data files, a list or a pattern": Kind(_data_files, sound=True),
    "MetaImage: sheared": Kind(
        lambda o, f: _meta_file(o, f, shear=float(o.rng.uniform(0.02, 0.4))), sound=False
    ),
    "MetaImage: big endian": Kind(lambda o, f: _meta_file(o, f, order=">"), sound=True),
    "MetaImage: the end lost": Kind(
        lambda o, f: _meta_file(o, f, lost=int(o.rng.integers(1, 2000))), sound=False
    ),
}
