"""Files of scans: the formats by suffix, a local copy of what a URI names, and ITK kept from naming files."""

from __future__ import annotations

import contextlib
import locale
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.storage import retry
from ctplatform.storage.public import public_place

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
DETACHED_SUFFIXES = (".nhdr", ".mhd")
"""Headers that name a separate data file."""

VOLUME_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES


def volume_suffix(path: Path) -> str:
    """The suffix that names a volume format, in lower case; "" for any other file."""
    name = path.name.lower()
    return next((s for s in sorted(VOLUME_SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")


@contextlib.contextmanager
def quiet_itk() -> Iterator[None]:
    """No warnings of ITK, which quote file names, and the process's locale unchanged.

    ITK's readers switch the locale to C and sometimes leave it there; Python would then write text files as ASCII.
    """
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    before = locale.setlocale(locale.LC_ALL)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
        if locale.setlocale(locale.LC_ALL) != before:
            locale.setlocale(locale.LC_ALL, before)


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
