"""Fingerprints of scan files from their sizes and times, by which a changed source is noticed without reading it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from ctplatform.errors import ScanError
from ctplatform.imaging.data_files import data_file, data_files, form_of, header_fields
from ctplatform.imaging.files import (
    ARCHIVE_SUFFIX,
    DETACHED_SUFFIXES,
    DICOMDIR,
    ITK_SUFFIXES,
    VOLUME_SUFFIXES,
    folders_of,
)
from ctplatform.storage import retry
from ctplatform.storage.public import PublicBucket, public_place


def fingerprint(path: str, series_uid: str = "") -> str:
    """Twelve hex digits that change with the sizes and modification times of a scan's files; empty if unreadable.

    For a single DICOM file all files of its folder are taken, as `read_volume` reads them; for a header with a
    separate data file, both. Where the name of a public series changes with its content, the name is enough, and
    nothing is listed.
    """
    folders = folders_of(path)
    if len(folders) > 1:
        prints = [fingerprint(folder) for folder in folders]
        return _digest([prints, series_uid]) if all(prints) else ""
    place = public_place(path)
    if (
        place and place.immutable
    ):  # the bucket is not part of it: stores and buckets hold the same under the same UUID
        return _digest([place.key, series_uid])

    def stamps_of_files() -> list[tuple[int, int]] | list[tuple[str, int, str]]:
        if place and place.store == "s3":  # of Google's, pyarrow reads anonymous folders by itself
            return [(item.name, item.size, item.md5) for item in PublicBucket(place).items()]
        fs, inner = pafs.FileSystem.from_uri(path) if "://" in path else (pafs.LocalFileSystem(), path)
        info = fs.get_file_info(inner)
        files = [info]
        if info.type == pafs.FileType.Directory:
            files = fs.get_file_info(pafs.FileSelector(inner))
        elif info.is_file and info.base_name.upper() == DICOMDIR:
            files = fs.get_file_info(pafs.FileSelector(inner.rpartition("/")[0] or ".", recursive=True))
        elif info.is_file and not inner.lower().endswith((*VOLUME_SUFFIXES, ARCHIVE_SUFFIX)):
            files = fs.get_file_info(pafs.FileSelector(inner.rpartition("/")[0] or "."))
        elif info.is_file and inner.lower().endswith(DETACHED_SUFFIXES):
            stem = info.base_name.rpartition(".")[0] + "."
            beside = fs.get_file_info(pafs.FileSelector(inner.rpartition("/")[0] or "."))
            files = [file for file in beside if file.base_name.startswith(stem)]
        if info.is_file and "://" not in path and inner.lower().endswith(ITK_SUFFIXES):
            known = {file.path for file in files}
            named = [str(name) for name in _named(Path(inner)) if str(name) not in known]
            files = [*files, *(fs.get_file_info(named) if named else [])]
        return sorted((file.size, file.mtime_ns) for file in files if file.is_file)

    try:
        stamps = retry.with_retries(
            stamps_of_files, what="the source of a scan", attempts=None if "://" in path else 1
        )
    except (OSError, ValueError):
        return ""
    if not stamps:
        return ""
    return _digest([stamps, series_uid])


def _named(header: Path) -> list[Path]:
    """Data files that a NRRD or MetaImage header names in its own folder."""
    try:
        form = form_of(header)
        return data_files(header, data_file(header_fields(header, form), form), form)
    except ScanError:  # reading the scan says why
        return []


def named_by_content(path: str) -> bool:
    """Whether the fingerprint of a scan follows from its name, without a look at its files."""
    place = public_place(path)
    return place is not None and place.immutable


def _digest(value: list[Any]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
