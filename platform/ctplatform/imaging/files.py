"""Files of scans: the formats by suffix, a local copy of what a URI names, and ITK kept from naming files."""

from __future__ import annotations

import contextlib
import locale
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ctplatform.errors import ScanError
from ctplatform.storage import retry
from ctplatform.storage.public import public_place

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
DETACHED_SUFFIXES = (".nhdr", ".mhd")
"""Headers that name a separate data file."""

VOLUME_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES

FOLDER_SEPARATOR = "|"
"""Between the folders of a series that lies in several."""

DICOMDIR = "DICOMDIR"
"""Name of the file that lists the images of a medium (DICOM PS3.10)."""

ARCHIVE_SUFFIX = ".zip"
MAX_UNPACKED_BYTES = 32 << 30
"""Of an archive; a study of a thousand slices has half a GB."""


def volume_suffix(path: Path) -> str:
    """The suffix that names a volume format, in lower case; "" for any other file."""
    name = path.name.lower()
    return next((s for s in sorted(VOLUME_SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")


def is_archive(path: Path) -> bool:
    """Whether the name is that of a zipped study."""
    return path.name.lower().endswith(ARCHIVE_SUFFIX)


def folders_of(path: str) -> list[str]:
    """The paths or URIs that a value of the table's column `path` names: one, or the folders of one series."""
    if FOLDER_SEPARATOR not in path or Path(path).expanduser().exists():
        return [path]
    return [part.strip() for part in path.split(FOLDER_SEPARATOR) if part.strip()]


@contextlib.contextmanager
def unpacked(archive: Path) -> Iterator[list[Path]]:
    """The files of a zip archive, in a temporary folder, under neutral names with the suffix of their own.

    Raises:
        ScanError: unreadable: damaged, encrypted, or too large.
    """
    with tempfile.TemporaryDirectory(prefix="archive-") as folder:
        try:
            with zipfile.ZipFile(archive) as packed:
                members = [
                    m
                    for m in packed.infolist()
                    if not m.is_dir() and not Path(m.filename).name.startswith((".", "._"))
                ]
                if sum(m.file_size for m in members) > MAX_UNPACKED_BYTES:
                    raise ScanError(
                        f"the archive unpacks to more than {MAX_UNPACKED_BYTES >> 30} GB",
                        "Unpack it, and give the folder of the series",
                        code="unreadable",
                    )
                files = []
                for k, member in enumerate(sorted(members, key=lambda m: m.filename)):
                    suffix = volume_suffix(Path(member.filename)) or ".dcm"
                    files.append(Path(folder) / f"{k:06d}{suffix}")
                    with packed.open(member) as source, files[-1].open("wb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
        except (
            zipfile.BadZipFile,
            RuntimeError,
            NotImplementedError,
            EOFError,
            zlib.error,
            OSError,
        ) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ScanError(
                "the zip archive is damaged or encrypted",
                "Copy it again, or unpack it and give the folder of the series",
                code="unreadable",
            ) from None
        yield files


@contextlib.contextmanager
def same_locale() -> Iterator[None]:
    """The process's locale unchanged.

    ITK switches it to C for some files and leaves it there (findings/itk-locale.sh); Python would then read and write
    text as ASCII.
    """
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        if locale.setlocale(locale.LC_ALL) != before:
            locale.setlocale(locale.LC_ALL, before)


@contextlib.contextmanager
def quiet_itk() -> Iterator[None]:
    """No warnings of ITK, which quote file names, and the process's locale unchanged."""
    import SimpleITK as sitk

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with same_locale():
            yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """The path itself, or a temporary copy of the file or folder that a URI names; it may not exist.

    A DICOM series of a public bucket is read from the node's cache (`ctplatform.storage.series_cache`).

    Raises:
        ScanError: the object store does not deliver it.
    """
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
        yield Path(path).expanduser()
        return
    place = public_place(path)
    if place and not place.key.lower().endswith((*VOLUME_SUFFIXES, ".dcm")):
        from ctplatform.imaging.public_series import public_series

        with public_series(place) as folder:
            yield folder
        return
    import pyarrow.fs as pafs

    if volume_suffix(Path(path.partition("?")[0])) in DETACHED_SUFFIXES:
        raise ScanError(
            "a header with a separate data file cannot be read from an object store",
            "Store the scan as one file: .nii.gz, .nrrd or .mha",
            code="unknown-format",
        )
    with tempfile.TemporaryDirectory(prefix="scan-") as temporary:

        def copy() -> Path:
            remote, inner = pafs.FileSystem.from_uri(path.rstrip("/"))
            info = remote.get_file_info(inner)
            name = f"scan{volume_suffix(Path(inner)) or '.dcm'}" if info.is_file else "series"
            target = Path(temporary) / name
            if info.type == pafs.FileType.Directory:
                target.mkdir(exist_ok=True)
            if info.type != pafs.FileType.NotFound:
                local = pafs.LocalFileSystem()
                pafs.copy_files(inner, str(target), source_filesystem=remote, destination_filesystem=local)
            return target

        try:
            target = retry.with_retries(copy, what="the object store of a scan")
        except (OSError, ValueError) as error:
            if retry.is_transient(error):
                raise ScanError(
                    f"the object store did not hand out the scan, tried {retry.ATTEMPTS} time(s) "
                    f"({retry.short_reason(error)})",
                    "Run the command again when the store is well; this scan is then tried again",
                    code="io-error",
                ) from None
            raise ScanError(
                "the object store cannot be reached or refuses the path",
                "Check the URI, the credentials and the endpoint on every machine",
                code="missing-path",
            ) from None
        yield target
