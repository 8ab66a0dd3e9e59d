"""DICOM files to one series in HU: a folder, several folders, one file of a series, or what a DICOMDIR lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_choice import choose_series
from ctplatform.imaging.dicom_file import read_file
from ctplatform.imaging.dicom_geometry import series_geometry
from ctplatform.imaging.dicom_headers import Series, index_files, quiet_pydicom
from ctplatform.imaging.dicom_series import read_pixels
from ctplatform.imaging.dicom_tilt import upright
from ctplatform.imaging.files import DICOMDIR, VOLUME_SUFFIXES
from ctplatform.imaging.volume_file import StoredVolume


def dicom_files(places: Sequence[Path]) -> list[Path]:
    """The files in folders, hidden ones left out; of a single file, those of its folder; of a DICOMDIR, those it lists.

    Raises:
        ScanError: unreadable, missing-path: of a DICOMDIR.
    """
    files: list[Path] = []
    for place in places:
        if place.is_file() and place.name.upper() == DICOMDIR:
            files += _listed(place)
        else:
            folder = place if place.is_dir() else place.parent
            files += sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return files


def series_of(place: Path) -> str | None:
    """SeriesInstanceUID of a single file of a series; None for a folder or a DICOMDIR.

    Raises:
        ScanError: unknown-format, the file is no DICOM image.
    """
    if place.is_dir() or place.name.upper() == DICOMDIR:
        return None
    found = index_files([place])
    if not found:
        raise ScanError(
            "the file is of no known format",
            f"Give a DICOM series, or a file that ends in {', '.join(VOLUME_SUFFIXES)}",
            code="unknown-format",
        )
    return found[0].uid


def read_dicom(files: Sequence[Path], series_uid: str | None) -> StoredVolume:
    """Read one series of some files; without its UID the one that `choose_series` picks."""
    series, notes = find_series(files, series_uid)
    geometry = series_geometry(series)
    hu_ZYX, owner, padding = read_pixels(geometry)
    spacing, origin, direction = geometry.spacing, geometry.origin, geometry.direction
    if geometry.shear:
        straight = upright(hu_ZYX, geometry.shear)
        hu_ZYX, owner, spacing = straight.hu_ZYX, None, straight.spacing
        origin, direction = straight.origin, straight.direction
    return StoredVolume(
        values_ZYX=hu_ZYX,
        owner=owner,
        spacing=spacing,
        origin=origin,
        direction=direction,
        notes=(*notes, *geometry.notes, *padding),
        source=series.source,
    )


def find_series(files: Sequence[Path], series_uid: str | None) -> tuple[Series, list[str]]:
    """One series of some files, without its UID the one that `choose_series` picks; and notes on the others.

    Raises:
        ScanError: there is none, or none of this UID.
    """
    found = index_files(files)
    if not found:
        raise ScanError(
            "the folder holds no DICOM images",
            "Give the folder that holds the files of the series itself, or the volume file",
            code="no-images",
        )
    return _chosen(found, series_uid)


def _chosen(found: Sequence[Series], series_uid: str | None) -> tuple[Series, list[str]]:
    if series_uid:
        series = next((s for s in found if s.uid == series_uid), None)
        if series is None:
            raise ScanError(
                f"none of the {len(found)} series in the folder has the given series_uid",
                "Correct series_uid, or leave it empty",
                code="no-such-series",
            )
        return series, []
    if len(found) == 1:
        return found[0], []
    series, rejected = choose_series(found)
    reasons = "; ".join(sorted({reason for _, reason in rejected}))
    if series is None:
        raise ScanError(
            f"none of the {len(found)} series in the folder can be used: {reasons}",
            "Give the folder of an axial CT series",
            code="no-usable-series",
        )
    return series, [f"{len(rejected)} other series in the folder passed over: {reasons}"]


def _listed(directory: Path) -> list[Path]:
    """The image files that a DICOMDIR lists (PS3.3 F.3), all of which must exist below its folder."""
    try:
        with quiet_pydicom():
            records = read_file(directory).DirectoryRecordSequence
            names = [
                [record.ReferencedFileID]
                if isinstance(record.ReferencedFileID, str)
                else record.ReferencedFileID
                for record in records
                if record.get("DirectoryRecordType") == "IMAGE" and record.get("ReferencedFileID")
            ]
            listed = [directory.parent.joinpath(*(str(part) for part in name)) for name in names]
    except Exception:  # a broken file can raise anything in the parser
        raise ScanError(
            "the DICOMDIR cannot be read", "Give the folder of the series itself", code="unreadable"
        ) from None
    missing = sum(not file.is_file() for file in listed)
    if missing:
        raise ScanError(
            f"{missing} of {len(listed)} images that the DICOMDIR lists are not there",
            "Copy the whole medium again",
            code="missing-path",
        )
    root = directory.parent.resolve()
    return [file for file in listed if file.resolve().is_relative_to(root)]
