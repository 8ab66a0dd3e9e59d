"""Any CT file or DICOM series -> one volume in HU, mm and LPS; or a ScanError that says why not.

docs/reference/inputs.md lists what is accepted and every error code.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.nifti import NiftiHeader, check_shape, not_scalar, read_header, read_pixels, truncated
from ctplatform.series import MIN_SLICES, choose, index_folder, read_series

AIR_HU = -1000
PADDING_HU = -1024
NIFTI_SUFFIXES = (".nii", ".nii.gz")
OTHER_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + OTHER_SUFFIXES

_MAX_NON_FINITE = 0.05
_SPACING_MM = (0.1, 20.0)


@dataclass(frozen=True)
class Volume:
    """A CT that the rest of the platform can rely on.

    Attributes:
        image: 3-D, int16 HU, at least -1024; axes permuted and flipped to the nearest LPS, oblique directions kept.
        notes: what was unusual and what was done about it; sentences that name nobody.
        source: format, kernel, slice_thickness_mm, manufacturer; values from fixed lists or numbers.
    """

    image: sitk.Image
    notes: tuple[str, ...]
    source: dict[str, Any]


def read_volume(path: str | Path, *, series_uid: str | None = None) -> Volume:
    """Read a scan.

    Args:
        path: NIfTI, NRRD or MetaImage file, a folder with DICOM files, or one DICOM file of the series; local, or
            an s3:// or gs:// URI, which is copied to a temporary folder.
        series_uid: SeriesInstanceUID, where a folder holds several series; without it the choice is that of
            `series.choose`, and a note says so.

    Raises:
        ScanError: the scan cannot be used. Its text names neither path nor patient.
    """
    with contextlib.ExitStack() as scope:
        local = scope.enter_context(_local_copy(str(path)))
        quiet = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK's warnings quote file names
        scope.callback(sitk.ProcessObject.SetGlobalWarningDisplay, quiet)
        if not local.exists():
            raise ScanError(
                "there is nothing at the path that the cohort table gives",
                "Correct the path column, or make the storage available on every machine",
                code="missing-path",
            )
        suffix = volume_suffix(local)
        if local.is_dir() or not suffix:
            image, notes, source = _read_dicom(local, series_uid)
        else:
            image, notes, source = _read_file(local, suffix)
    return _finish(image, notes=notes, source=source)


def content_hash(volume: Volume) -> str:
    """SHA-256 over HU and geometry (to 1e-3 mm): equal for the same scan, whatever file it came from."""
    image = volume.image
    digest = hashlib.sha256()
    geometry = np.round([*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()], 3) + 0.0
    digest.update(np.array(image.GetSize(), "<i4").tobytes() + geometry.astype("<f8").tobytes())
    hu_ZYX = sitk.GetArrayViewFromImage(image)
    digest.update(np.ascontiguousarray(hu_ZYX, "<i2").data)
    return digest.hexdigest()


def volume_suffix(path: Path) -> str:
    """The suffix that names a volume format, in lower case; "" for any other file."""
    name = path.name.lower()
    return next((s for s in sorted(VOLUME_SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")


@contextlib.contextmanager
def _local_copy(path: str) -> Iterator[Path]:
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
        yield Path(path).expanduser()
        return
    import pyarrow.fs as pafs

    with tempfile.TemporaryDirectory(prefix="scan-") as folder:
        try:
            remote, inner = pafs.FileSystem.from_uri(path.rstrip("/"))
            info = remote.get_file_info(inner)
            target = Path(folder) / (
                f"scan{volume_suffix(Path(inner)) or '.dcm'}" if info.is_file else "series"
            )
            if info.is_file:
                pafs.copy_files(
                    inner,
                    str(target),
                    source_filesystem=remote,
                    destination_filesystem=pafs.LocalFileSystem(),
                )
            elif info.type == pafs.FileType.Directory:
                target.mkdir()
                pafs.copy_files(
                    inner,
                    str(target),
                    source_filesystem=remote,
                    destination_filesystem=pafs.LocalFileSystem(),
                )
        except (OSError, ValueError):
            raise ScanError(
                "the object store cannot be reached or refuses the path",
                "Check the URI, the credentials and the endpoint on every machine",
                code="missing-path",
            ) from None
        yield target


def _read_dicom(path: Path, series_uid: str | None) -> tuple[sitk.Image, list[str], dict[str, Any]]:
    found = index_folder(path if path.is_dir() else path.parent)
    if not path.is_dir():
        series_uid = series_uid or next((s.uid for s in found for i in s.slices if i.file == path), "")
        if not series_uid:
            raise ScanError(
                "the file is of no known format",
                f"Give a DICOM series, or a file that ends in {', '.join(VOLUME_SUFFIXES)}",
                code="unknown-format",
            )
    if not found:
        raise ScanError(
            "the folder holds no DICOM images",
            "Give the folder that holds the files of the series itself, or the volume file",
            code="no-images",
        )
    notes: list[str] = []
    if series_uid:
        series = next((s for s in found if s.uid == series_uid), None)
        if series is None:
            raise ScanError(
                f"none of the {len(found)} series in the folder has the given series_uid",
                "Correct series_uid, or leave it empty",
                code="no-such-series",
            )
    elif len(found) == 1:
        series = found[0]
    else:
        series, passed = choose(found)
        if series is None:
            reasons = "; ".join(sorted({reason for _, reason in passed}))
            raise ScanError(
                f"none of the {len(found)} series in the folder can be used: {reasons}",
                "Give the folder of an axial CT series",
                code="no-usable-series",
            )
        notes.append(f"{len(passed)} other series in the folder passed over")
    image, series_notes = read_series(series)
    return image, [*notes, *series_notes], series.source


def _read_file(path: Path, suffix: str) -> tuple[sitk.Image, list[str], dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="scan-") as folder:
        if suffix in NIFTI_SUFFIXES:
            header: NiftiHeader = read_header(path)
            image = read_pixels(path, header, link_folder=Path(folder))
            return image, list(header.notes), _source("NIfTI")
        if suffix in (".nrrd", ".mha"):  # the others name a data file beside them
            link = Path(folder) / f"scan{suffix}"
            link.symlink_to(path.absolute())
        else:
            link = path
        form = "NRRD" if suffix in (".nrrd", ".nhdr") else "MetaImage"
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(link))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            raise ScanError(
                f"the content is no {form} image, or it is damaged",
                "Check what the file is; export the scan again",
                code="unreadable",
            ) from None
        if reader.GetNumberOfComponents() > 1:
            raise not_scalar()
        check_shape(tuple(reader.GetSize()))
        try:
            image = reader.Execute()
        except RuntimeError:
            raise truncated() from None
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    notes = []
    if form == "NRRD" and not _names_space(path):
        notes.append("the header names no anatomical space; LPS was assumed")
    return image, notes, _source(form)


def _names_space(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(65536).split(b"\n\n")[0].replace(b"\r", b"")
    return re.search(rb"^space:\s*\S", head, re.MULTILINE) is not None


def _source(form: str) -> dict[str, Any]:
    return {"format": form, "kernel": "", "slice_thickness_mm": None, "manufacturer": ""}


def _finish(image: sitk.Image, *, notes: list[str], source: dict[str, Any]) -> Volume:
    """Everything that must hold whatever the format: shape, spacing, finite values, HU, axes."""
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise not_scalar()
    size = check_shape(image.GetSize())
    spacing = image.GetSpacing()
    if not all(_SPACING_MM[0] <= s <= _SPACING_MM[1] for s in spacing):
        raise ScanError(
            f"the voxel spacing is {' x '.join(f'{s:.4g}' for s in spacing)} mm",
            f"Give a scan with {_SPACING_MM[0]:g} to {_SPACING_MM[1]:g} mm; check the units of the header",
            code="bad-spacing",
        )
    if min(size) < MIN_SLICES:
        raise ScanError(
            f"the volume has {min(size)} slices along one axis; at least {MIN_SLICES} are needed",
            "Give the complete scan",
            code="too-few-slices",
        )
    values_ZYX = sitk.GetArrayViewFromImage(image)
    if values_ZYX.dtype.kind == "f":
        finite = np.isfinite(values_ZYX)
        share = 1.0 - float(finite.mean())
        if share > _MAX_NON_FINITE:
            raise ScanError(
                f"{share:.1%} of the voxels are not finite numbers (NaN or infinite)",
                f"Export the scan again; up to {_MAX_NON_FINITE:.0%} are taken as padding",
                code="not-finite",
            )
        if share > 0:
            values_ZYX = np.where(finite, values_ZYX, PADDING_HU)
            notes = [*notes, f"{share:.2%} of the voxels were not finite; set to {PADDING_HU} HU"]
        values_ZYX = np.rint(values_ZYX)
    check_hu(values_ZYX)
    low = float((values_ZYX[::2] < PADDING_HU).mean())
    hu_ZYX = np.clip(values_ZYX, PADDING_HU, np.iinfo(np.int16).max).astype(np.int16)
    if low > 0.001:
        notes = [*notes, f"padding: {low:.1%} of the voxels lay below {PADDING_HU} HU; set to it"]
    result = sitk.GetImageFromArray(hu_ZYX)
    result.CopyInformation(image)
    return Volume(image=sitk.DICOMOrient(result, "LPS"), notes=tuple(notes), source=source)


def check_hu(values_ZYX: np.ndarray) -> None:
    """Check that values are HU: air near -1000, soft tissue near 0; a constant padding below -1024 does not count.

    Raises:
        ScanError: not-hu, with the measured values.
    """
    step = tuple(max(1, n // 96) for n in values_ZYX.shape)
    sample = values_ZYX[:: step[0], :: step[1], :: step[2]].ravel().astype(np.float32)
    below = sample[sample < PADDING_HU - 76]
    constants, counts = np.unique(below, return_counts=True)
    padding = constants[counts > 0.002 * sample.size]
    scattered = below[~np.isin(below, padding)]
    measured = sample[~np.isin(sample, padding)]
    if measured.size < 0.02 * sample.size:
        raise ScanError(
            f"the volume is empty: nearly all voxels have the value {np.median(sample):g}",
            "Export the scan again",
            code="not-hu",
        )
    air = float(np.percentile(measured, 1))
    tissue = measured[measured > -500]
    middle = float(np.median(tissue)) if tissue.size > 0.01 * sample.size else 0.0
    remedy = "Export it in HU (stored value x rescale slope + intercept), once; masks and labels are no scans"
    if scattered.size > 0.05 * sample.size:
        raise ScanError(
            f"the values are not HU: {scattered.size / sample.size:.0%} lie below {PADDING_HU - 76}, down to "
            f"{sample.min():.0f}, and are no constant padding; air is at {AIR_HU}",
            remedy,
            code="not-hu",
        )
    if not -1150 <= air <= -900:
        raise ScanError(
            f"the values are not HU: the darkest 1% lie at {air:.0f}, where air near {AIR_HU} is expected",
            remedy,
            code="not-hu",
        )
    if not -200 <= middle <= 300:
        raise ScanError(
            f"the values are not HU: tissue (the median above -500) lies at {middle:.0f}, where 0 to 100 is expected",
            remedy,
            code="not-hu",
        )
