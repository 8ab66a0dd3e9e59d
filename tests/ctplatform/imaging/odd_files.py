"""Kinds of odd NRRD and MetaImage files."""

from __future__ import annotations

import bz2
import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from tests.ctplatform.imaging.oddities import Kind, Odd

Array = np.ndarray[Any, np.dtype[Any]]
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
        f"BinaryDataByteOrderMSB = {order == '>'}\n"
        f"TransformMatrix = {' '.join(map(repr, cosines.T.ravel().tolist()))}\n"
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


def _list_axis(odd: Odd, folder: Path) -> Path:
    path = _nrrd_file(odd, folder)
    head, voxels = path.read_bytes().split(b"\n\n", 1)
    first = bool(odd.seed % 2)
    one = {b"sizes: ": b"1", b"space directions: ": b"none", b"kinds: ": b"list"}
    lines = []
    for line in head.replace(b"dimension: 3", b"dimension: 4").split(b"\n"):
        name = next((name for name in one if line.startswith(name)), b"")
        value = line[len(name) :]
        added = one[name] + b" " + value if name and first else value + b" " + one[name] if name else value
        lines.append(name + added)
    path.write_bytes(b"\n".join(lines) + b"\n\n" + voxels)
    return path


def _synonyms(odd: Odd, folder: Path) -> Path:
    path = _meta_file(odd, folder)
    data = path.read_bytes()
    for name, others in (
        (b"TransformMatrix", (b"TransformMatrix", b"Rotation", b"Orientation")),
        (b"Offset", (b"Offset", b"Position", b"Origin")),
        (b"ElementSpacing", (b"ElementSpacing", b"ElementSize")),
        (b"BinaryDataByteOrderMSB", (b"BinaryDataByteOrderMSB", b"ElementByteOrderMSB")),
    ):
        data = data.replace(name, others[int(odd.rng.integers(len(others)))], 1)
    path.write_bytes(data)
    return path


def _contradictions(odd: Odd, folder: Path) -> Path:
    more = ["Rotation = 0 1 0 -1 0 0 0 0 1\n", "Position = 1 2 3\n", "ElementByteOrderMSB = True\n"][
        odd.seed % 3
    ]
    return _meta_file(odd, folder, more=more)


def _no_sizes(odd: Odd, folder: Path) -> Path:
    path = _meta_file(odd, folder)
    path.write_bytes(re.sub(rb"ElementSpacing.*\n", b"", path.read_bytes()))
    return path


KINDS = [
    Kind("NRRD: named spaces", _spaces, sound=True),
    Kind("NRRD: lengths in other units", _nrrd_units, sound=True),
    Kind("NRRD: spaces without left and right", _other_space, sound=False),
    Kind("NRRD: sheared", _sheared_nrrd, sound=False),
    Kind("NRRD: separate data file with a blank in its name", _detached, sound=True),
    Kind("NRRD: gzip", lambda o, f: _nrrd_file(o, f, encoding="gzip", pack=gzip.compress), sound=True),
    Kind("NRRD: text", lambda o, f: _nrrd_file(o, f, encoding="text", pack=_hex_or_text), sound=True),
    Kind("NRRD: bzip2", lambda o, f: _nrrd_file(o, f, encoding="bzip2", pack=bz2.compress), sound=True),
    Kind("NRRD: big endian", lambda o, f: _nrrd_file(o, f, order=">"), sound=True),
    Kind("NRRD: the end lost", _cut_nrrd, sound=False),
    Kind("NRRD: a further axis of one value", _list_axis, sound=True),
    Kind("MetaImage: linear function of intensities", _function, sound=True),
    Kind("MetaImage: lengths in other units", _meta_units, sound=True),
    Kind("MetaImage: separate data files, a list or a pattern", _data_files, sound=True),
    Kind(
        "MetaImage: sheared",
        lambda o, f: _meta_file(o, f, shear=float(o.rng.uniform(0.02, 0.4))),
        sound=False,
    ),
    Kind("MetaImage: fields by their other names", _synonyms, sound=True),
    Kind("MetaImage: fields that contradict each other", _contradictions, sound=False),
    Kind("MetaImage: no voxel sizes", _no_sizes, sound=False),
    Kind("MetaImage: big endian", lambda o, f: _meta_file(o, f, order=">"), sound=True),
    Kind(
        "MetaImage: the end lost",
        lambda o, f: _meta_file(o, f, lost=int(o.rng.integers(1, 2000))),
        sound=False,
    ),
]
