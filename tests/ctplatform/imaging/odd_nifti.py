"""Kinds of odd NIfTI files."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from tests.ctplatform.imaging.oddities import Kind, Odd

Array = np.ndarray[Any, np.dtype[Any]]
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

KINDS: list[Kind] = []


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

        KINDS.append(Kind(f"NIfTI: {name}", write, sound))
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


@_nifti("a code that the standard does not name", sound=True)
def _(image: Any, odd: Odd, path: Path) -> Path:
    code = int(odd.rng.integers(6, 100))
    return _saved(image, path, (252, "<2h", (code, 0) if odd.seed % 2 else (0, code)))


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
