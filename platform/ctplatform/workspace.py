"""The workspace: every file of a run below one local path or object-store URI, through pyarrow.fs.

Writes are whole or absent: on a local disk a temporary file is renamed, an object store commits on close.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ctplatform.errors import StageError

TEMPORARY = ".tmp-"


class Workspace:
    """A folder on any file system.

    Args:
        uri: local path, or s3://, gs:// ... URI.
    """

    def __init__(self, uri: str | Path) -> None:
        text = str(uri)
        if "://" in text:
            self.uri = text.rstrip("/")
            self.fs, root = pafs.FileSystem.from_uri(self.uri)
        else:
            path = Path(text).expanduser().absolute()
            self.uri = str(path)
            self.fs, root = pafs.LocalFileSystem(), str(path)
        self.root = root.rstrip("/")
        self.is_local = isinstance(self.fs, pafs.LocalFileSystem)

    def __reduce__(self) -> tuple:
        return Workspace, (self.uri,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Workspace) and self.uri == other.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    def __repr__(self) -> str:
        return f"Workspace({self.uri!r})"

    def path(self, *parts: str) -> str:
        """Path below the root, in the file system's own form."""
        return "/".join((self.root, *parts))

    def display(self, *parts: str) -> str:
        """The same as a person would type it: with the scheme, if there is one."""
        return "/".join((self.uri, *parts))

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        return self.fs.get_file_info(self.path(*parts)).type != pafs.FileType.NotFound

    def files(self, *parts: str, suffix: str = "") -> list[str]:
        """Names of the committed files directly below a folder, sorted; none if the folder is missing."""
        selector = pafs.FileSelector(self.path(*parts), allow_not_found=True)
        return sorted(
            info.base_name
            for info in self.fs.get_file_info(selector)
            if info.is_file and info.base_name.endswith(suffix) and not info.base_name.startswith(TEMPORARY)
        )

    def folders(self, *parts: str) -> list[str]:
        """Names of the folders directly below a folder, sorted."""
        selector = pafs.FileSelector(self.path(*parts), allow_not_found=True)
        return sorted(
            i.base_name for i in self.fs.get_file_info(selector) if i.type == pafs.FileType.Directory
        )

    def read_bytes(self, *parts: str) -> bytes:
        """Content of a file.

        Raises:
            StageError: the file is not there.
        """
        try:
            with self.fs.open_input_file(self.path(*parts)) as stream:
                return stream.read()
        except FileNotFoundError:
            raise StageError(
                f"{self.display(*parts)} is missing", "Run the stage that writes it first", code="missing"
            ) from None

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Write a file whole or not at all; an existing one is replaced."""
        *folders, name = parts
        target = self.path(*parts)
        if self.is_local:
            self.fs.create_dir(self.path(*folders), recursive=True)
            temporary = self.path(*folders, f"{TEMPORARY}{uuid.uuid4().hex}-{name}")
            with self.fs.open_output_stream(temporary, compression=None) as stream:
                stream.write(data)
            self.fs.move(temporary, target)
        else:
            with self.fs.open_output_stream(target, compression=None) as stream:
                stream.write(data)

    def read_json(self, *parts: str) -> Any:
        """Content of a JSON file."""
        return json.loads(self.read_bytes(*parts))

    def write_json(self, value: Any, *parts: str) -> None:
        """Write a JSON file, keys in the given order."""
        self.write_bytes((json.dumps(value, indent=2) + "\n").encode(), *parts)

    def read_table(self, *parts: str, columns: list[str] | None = None) -> pa.Table:
        """Content of a Parquet file."""
        return pq.read_table(pa.BufferReader(self.read_bytes(*parts)), columns=columns)

    def write_table(self, table: pa.Table, *parts: str) -> None:
        """Write a Parquet file (zstd)."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(sink.getvalue().to_pybytes(), *parts)

    def delete(self, *parts: str) -> None:
        """Remove a file, or a folder with all below it; nothing happens if it is not there."""
        info = self.fs.get_file_info(self.path(*parts))
        if info.type == pafs.FileType.Directory:
            self.fs.delete_dir(info.path)
        elif info.type == pafs.FileType.File:
            self.fs.delete_file(info.path)
