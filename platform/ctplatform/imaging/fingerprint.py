"""TODO."""

from __future__ import annotations

import hashlib
import json

import pyarrow.fs as pafs

from ctplatform.storage import retry


def fingerprint(path: str, series_uid: str = "") -> str:
    """Twelve hex digits that change with the sizes and times of a scan's files; empty if they cannot be seen.

    A DICOM file stands for its folder, as it does for the reader; a header with a separate data file for both.
    """
    from ctplatform.imaging.files import OTHER_SUFFIXES, VOLUME_SUFFIXES

    def look() -> list[tuple[int, int]]:
        fs, inner = pafs.FileSystem.from_uri(path) if "://" in path else (pafs.LocalFileSystem(), path)
        info = fs.get_file_info(inner)
        files = [info]
        if info.type == pafs.FileType.Directory:
            files = fs.get_file_info(pafs.FileSelector(inner))
        elif info.is_file and not inner.lower().endswith(VOLUME_SUFFIXES):
            files = fs.get_file_info(pafs.FileSelector(inner.rpartition("/")[0] or "."))
        elif info.is_file and inner.lower().endswith((OTHER_SUFFIXES[1], OTHER_SUFFIXES[3])):
            stem = info.base_name.rpartition(".")[0] + "."
            beside = fs.get_file_info(pafs.FileSelector(inner.rpartition("/")[0] or "."))
            files = [file for file in beside if file.base_name.startswith(stem)]
        return sorted((file.size, file.mtime_ns) for file in files if file.is_file)

    try:
        stamps = retry.patiently(look, what="the source of a scan", attempts=None if "://" in path else 1)
    except (OSError, ValueError):
        return ""
    if not stamps:
        return ""
    return hashlib.sha256(json.dumps([stamps, series_uid]).encode()).hexdigest()[:12]
