"""What lies in a tree of folders: CT volumes, CT series, and everything that is neither, with the reason.

Rules, from headers alone:
- DICOM: in each folder, of each study, the series that `stack.choose` picks.
- Volume files: 3-D, scalar, enough slices, and no label map: no 8-bit voxels, no name such as mask, label or
  segmentation, no content that compresses to less than 2%, as labels do and CT noise never does.
- The same scan twice: same SeriesInstanceUID, or same size and sampled bytes of two files, or (DICOM and file, or
  files of two formats) the same grid in space and then the same voxels, which are read for these pairs only.
  The DICOM series is kept, for it knows its subject; of two files the first by path.
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ctplatform.cohort.pseudonym import pseudonym
from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_headers import Series, index_files
from ctplatform.imaging.dicom_series import MIN_SLICES, Stack, choose, stack
from ctplatform.imaging.files import NIFTI_SUFFIXES, volume_suffix
from ctplatform.imaging.nifti import check_shape, not_scalar, read_header
from ctplatform.imaging.volume import read_volume

_LABEL_WORDS = {
    "label", "labels", "labelmap", "labelmaps", "mask", "masks", "lungmask", "seg", "segs", "segmentation",
    "segmentations", "segmented", "roi", "rois", "annotation", "annotations", "lobes", "gt", "aseg", "pred",
    "prediction", "predictions", "contour", "contours",
}  # fmt: skip
_NOBODY = {"", "ANON", "ANONYMOUS", "ANONYMIZED", "ANONYMISED", "UNKNOWN", "NONE", "NA", "0"}
_SAMPLE = 1 << 16
_LABEL_RATIO = 0.02


@dataclass(frozen=True)
class Found:
    """One scan. Grid: size in voxels and spacing in mm, both sorted, and the centre in mm, LPS."""

    scan_id: str
    subject_id: str
    path: Path
    series_uid: str
    form: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    centre: tuple[float, ...]


@dataclass(frozen=True)
class Look:
    """What to look for, and how; goes to every worker."""

    root: Path
    key: bytes
    every_series: bool


def look_into(look: Look, folder: Path, names: Sequence[str]) -> tuple[list[Found], list[str]]:
    """Scans among the files of one folder, and a line for everything that was passed over."""
    files = [folder / name for name in names]
    return judge(look, folder, names, index_files(f for f in files if not volume_suffix(f)))


def judge(
    look: Look, folder: Path, names: Sequence[str], found: Sequence[Series]
) -> tuple[list[Found], list[str]]:
    """The same, when the DICOM headers of the folder have been read already."""
    scans: list[Found] = []
    passed: list[str] = []
    place = folder.relative_to(look.root).as_posix()
    files = [folder / name for name in names]
    volumes = [f for f in files if volume_suffix(f)]
    for file in volumes:
        try:
            scans.append(_volume_file(file))
        except ScanError as error:
            passed.append(f"{file.relative_to(look.root).as_posix()}: {error.problem}")
    used = {s.file for series in found for s in series.slices}
    rest = [
        f.name
        for f in files
        if not volume_suffix(f) and f not in used and not (volumes and f.suffix in (".raw", ".zraw", ".gz"))
    ]
    if rest:
        shown = ", ".join(rest[:3]) + (", ..." if len(rest) > 3 else "")
        passed.append(f"{place}: {len(rest)} file(s) that are no CT volume ({shown})")
    for series, grid in _choose(found, place, passed, every_series=look.every_series):
        scans.append(_dicom_scan(series, grid, folder, key=look.key))
    return scans, passed


def scan_id_of(content: str | bytes) -> str:
    """`ct-` and 10 hex digits of the SHA-256 of what identifies a scan."""
    data = content.encode() if isinstance(content, str) else content
    return "ct-" + hashlib.sha256(data).hexdigest()[:10]


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders and their files in a fixed order; hidden ones are left out, links are followed, none is visited twice."""
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        yield Path(folder), [n for n in sorted(names) if not n.startswith(".")]


def _choose(
    found: Sequence[Series], place: str, passed: list[str], *, every_series: bool
) -> Iterator[tuple[Series, Stack]]:
    studies: dict[str, list[Series]] = {}
    for series in found:
        studies.setdefault(series.uid if every_series else series.study_uid, []).append(series)
    for study in studies.values():
        chosen, others = choose(study)
        for other, reason in others:
            passed.append(f"{place}: {other.modality} series of {len(other.slices)} image(s): {reason}")
        if chosen:
            yield chosen, stack(chosen)


def _dicom_scan(series: Series, grid: Stack, folder: Path, *, key: bytes) -> Found:
    scan_id = scan_id_of(series.uid)
    known = series.patient_id.split("\n")[-1].upper().strip() not in _NOBODY
    size = (grid.slices[0].shape[1], grid.slices[0].shape[0], len(grid.slices))
    return Found(
        scan_id=scan_id,
        subject_id=pseudonym(series.patient_id, key=key) if known else scan_id,
        path=folder,
        series_uid=series.uid,
        form="DICOM",
        **_grid(size, grid.spacing, grid.origin, grid.direction),
    )


def _volume_file(file: Path) -> Found:
    suffix = volume_suffix(file)
    words = set(re.split(r"[^a-z]+", file.name.lower().removesuffix(suffix)))
    if words & _LABEL_WORDS:
        raise _label_map(f"its name says {sorted(words & _LABEL_WORDS)[0]!r}")
    if suffix in NIFTI_SUFFIXES:
        header = read_header(file)
        eight_bit = header.dtype.itemsize == 1 and header.slope == 1.0
        grid = _grid(header.size, header.spacing, header.origin, header.direction)
        voxel_bytes = header.dtype.itemsize
    else:
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            raise ScanError(
                "damaged, or not what its name says", "Check the file", code="unreadable"
            ) from None
        if reader.GetNumberOfComponents() > 1:
            raise not_scalar()
        size = check_shape(tuple(reader.GetSize()))
        eight_bit = reader.GetPixelID() in (sitk.sitkUInt8, sitk.sitkInt8)
        n = reader.GetDimension()
        direction = np.array(reader.GetDirection()).reshape(n, n)[:3, :3].ravel()
        grid = _grid(size, reader.GetSpacing()[:3], reader.GetOrigin()[:3], direction)
        voxel_bytes = sitk.Image([1] * 3, reader.GetPixelID()).GetSizeOfPixelComponent()
    if eight_bit:
        raise _label_map("8-bit voxels")
    if grid["size"][0] < MIN_SLICES:
        raise ScanError(f"{grid['size'][0]} slices only", "Give the complete scan", code="too-few-slices")
    sample, stored = _sample(file)
    packed = len(zlib.compress(sample, 1)) / max(1, len(sample)) * stored
    if packed < _LABEL_RATIO * float(np.prod(grid["size"])) * voxel_bytes:
        raise _label_map("its content compresses as only labels do")
    scan_id = scan_id_of(sample + str(stored).encode())
    return Found(scan_id=scan_id, subject_id=scan_id, path=file, series_uid="", form=suffix, **grid)


def _label_map(why: str) -> ScanError:
    return ScanError(
        f"a label map or mask ({why})", "Name it in the cohort table if it is a scan", code="label-map"
    )


def _sample(file: Path) -> tuple[bytes, int]:
    """Bytes from the start, middle and end of a file (and of the data file that a header names), and its size."""
    files = [file]
    if file.suffix.lower() in (".mhd", ".nhdr"):
        head = file.read_bytes()[:_SAMPLE].decode("latin-1")
        match = re.search(
            r"^(?:ElementDataFile\s*=|data file:)\s*(\S+)\s*$", head, re.MULTILINE | re.IGNORECASE
        )
        if match and (file.parent / match.group(1)).is_file():
            files.append(file.parent / match.group(1))
    parts, total = [], 0
    for part in files:
        size = part.stat().st_size
        with part.open("rb") as stream:
            for offset in sorted({0, max(0, size // 2 - _SAMPLE // 2), max(0, size - _SAMPLE)}):
                stream.seek(offset)
                parts.append(stream.read(_SAMPLE))
        total += size
    return b"".join(parts), total


def _grid(
    size: Sequence[int],
    spacing: Sequence[float],
    origin: Sequence[float],
    direction: Sequence[float] | np.ndarray,
) -> dict:
    middle = np.array(direction).reshape(3, 3) @ (np.array(spacing) * (np.array(size) - 1) / 2) + np.array(
        origin
    )
    order = np.lexsort((spacing, size))
    return {
        "size": tuple(int(size[i]) for i in order),
        "spacing": tuple(float(spacing[i]) for i in order),
        "centre": tuple(middle.tolist()),
    }


def without_repeats(
    scans: Sequence[Found], root: Path, passed: list[str], *, same: Callable[[Found, Found], bool]
) -> list[Found]:
    """Each scan once, sorted by path; `same` compares the voxels of two that may be one, `passed` gets the lines."""
    kept: dict[str, Found] = {}
    by_size: dict[tuple[int, ...], list[Found]] = {}
    for scan in sorted(scans, key=lambda s: (s.form != "DICOM", s.path, s.series_uid)):
        twin = kept.get(scan.scan_id) or next(
            (other for other in by_size.get(scan.size, ()) if may_be_one(scan, other) and same(scan, other)),
            None,
        )
        if twin:
            place, other_place = (s.path.relative_to(root).as_posix() for s in (scan, twin))
            passed.append(f"{place}: the same scan as {other_place}")
            continue
        kept[scan.scan_id] = scan
        by_size.setdefault(scan.size, []).append(scan)
    return sorted(kept.values(), key=lambda s: (s.path, s.series_uid))


def may_be_one(one: Found, other: Found) -> bool:
    """Files of two formats with the same grid in space."""
    return (
        one.form != other.form
        and np.allclose(one.spacing, other.spacing, atol=0.005)
        and np.allclose(one.centre, other.centre, atol=0.5)
    )


def same_voxels(one: Found, other: Found) -> bool:
    """Whether two scans hold the same volume; both are read."""
    try:
        images = [read_volume(s.path, series_uid=s.series_uid or None).image for s in (one, other)]
    except ScanError:
        return False
    first, second = (sitk.GetArrayViewFromImage(image) for image in images)
    return first.shape == second.shape and bool(np.array_equal(first, second))
