"""The workspace: every file of a run below one local path or object-store URI, through pyarrow.fs.

Writes are whole or absent: on a local disk a temporary file is renamed, an object store commits on close.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ctplatform.errors import StageError, without_credentials
from ctplatform.storage import layout, retry
from ctplatform.storage.capacity import FULL_REMEDY, GOES_ON, disk_full

TEMPORARY = ".tmp-"
T = TypeVar("T")
_SYNCED_BYTES = 1 << 20
_COPIED_BYTES = 8 << 20


class Workspace:
    """A folder on any file system.

    Args:
        uri: local path, or s3://, gs:// ... URI; options of the store after `?`, as pyarrow takes them.

    Raises:
        StageError: pyarrow does not support the URI.
    """

    def __init__(self, uri: str | Path) -> None:
        text = str(uri)
        if "://" in text:
            self.uri = text.rstrip("/")
            try:
                self.fs, root = pafs.FileSystem.from_uri(self.uri)
            except (OSError, ValueError) as error:
                raise StageError(
                    f"the workspace {_without_credentials(self.uri)} cannot be opened: {error}",
                    "Give a folder, or an s3:// or gs:// URI",
                    code="workspace",
                ) from None
        else:
            path = Path(text).expanduser().absolute()
            self.uri = str(path)
            self.fs, root = pafs.LocalFileSystem(), str(path)
        self.root = root.rstrip("/")
        self.is_local = isinstance(self.fs, pafs.LocalFileSystem)

    def __reduce__(self) -> tuple[Any, ...]:
        return Workspace, (self.uri,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Workspace) and self.uri == other.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    def __repr__(self) -> str:
        return f"Workspace({self.display()!r})"

    def path(self, *parts: str) -> str:
        """Path below the root, in the form of `fs`."""
        return "/".join((self.root, *parts))

    def uri_of(self, *parts: str) -> str:
        """URI of a path below the root, with the store's options."""
        base, mark, options = self.uri.partition("?")
        return "/".join((base.rstrip("/"), *parts)) + mark + options

    def display(self, *parts: str) -> str:
        """The URI for messages: with the scheme, without credentials and the store's options."""
        return "/".join((_without_credentials(self.uri), *parts))

    def with_retries(self, action: Callable[[], T], *parts: str) -> T:
        """The result of an action on a path of the workspace, repeated while the store has transient errors.

        Raises:
            FileNotFoundError: the path does not exist.
            StageError: the store or disk fails.
        """
        try:
            return retry.with_retries(
                action, what=self.display(*parts), attempts=1 if self.is_local else retry.ATTEMPTS
            )
        except FileNotFoundError:
            raise
        except pa.ArrowInvalid:
            raise
        except OSError as error:
            full = disk_full(error)
            remedy = "Check the disk" if self.is_local else "Check the store, its credentials and its limits"
            raise StageError(
                f"{self.display(*parts)} cannot be read or written: {error}",
                f"{FULL_REMEDY if full else remedy}; {GOES_ON}",
                code="disk-full" if full else "store",
            ) from None

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        info = self.with_retries(lambda: self.fs.get_file_info(self.path(*parts)), *parts)
        return bool(info.type != pafs.FileType.NotFound)

    def infos(self, *parts: str) -> list[pafs.FileInfo]:
        """Files and folders directly below a folder, sorted by name, unfinished files included."""
        selector = pafs.FileSelector(self.path(*parts), allow_not_found=True)
        found = self.with_retries(lambda: self.fs.get_file_info(selector), *parts)
        return sorted(found, key=lambda info: info.base_name)

    def files(self, *parts: str, suffix: str = "") -> list[str]:
        """Names of the committed files directly below a folder, sorted; none if the folder is missing."""
        return [
            info.base_name
            for info in self.infos(*parts)
            if info.is_file and info.base_name.endswith(suffix) and not info.base_name.startswith(TEMPORARY)
        ]

    def folders(self, *parts: str) -> list[str]:
        """Names of the folders directly below a folder, sorted."""
        return [i.base_name for i in self.infos(*parts) if i.type == pafs.FileType.Directory]

    def read_bytes(self, *parts: str) -> bytes:
        """Content of a file.

        Raises:
            StageError: the file is not there.
        """

        def read() -> bytes:
            with self.fs.open_input_file(self.path(*parts)) as stream:
                data: bytes = stream.read()
            return data

        try:
            return self.with_retries(read, *parts)
        except FileNotFoundError:
            raise StageError(
                f"{self.display(*parts)} is missing", "Run the stage that writes it first", code="missing"
            ) from None

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Write a file whole or not at all; an existing one is replaced."""
        *folders, name = parts

        def local() -> None:
            folder = Path(self.path(*folders))
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex}-{name}"
            try:
                with temporary.open("wb") as stream:
                    stream.write(data)
                    # Only small files, such as records: a shard that a power cut truncated is found by its size.
                    if len(data) <= _SYNCED_BYTES:
                        stream.flush()
                        os.fsync(stream.fileno())
                os.replace(temporary, folder / name)
            except BaseException:
                temporary.unlink(missing_ok=True)  # a full disk may still have room for a smaller file
                raise

        def remote() -> None:
            with self.fs.open_output_stream(self.path(*parts), compression=None) as stream:
                stream.write(data)

        self.with_retries(local if self.is_local else remote, *parts)

    def write_stream(self, write: Callable[[BinaryIO], None], *parts: str) -> int:
        """Write a large file through a stream, whole or not at all as `write_bytes` does.

        Args:
            write: receives the open stream; called again at each attempt.

        Returns:
            The file's size in bytes.
        """
        *folders, name = parts

        def local() -> None:
            folder = Path(self.path(*folders))
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex}-{name}"
            try:
                with temporary.open("wb") as stream:
                    _write_through(write, stream)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(temporary, folder / name)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

        def remote() -> None:
            with self.fs.open_output_stream(self.path(*parts), compression=None) as stream:
                _write_through(write, stream)

        self.with_retries(local if self.is_local else remote, *parts)
        return self.size(*parts)

    def size(self, *parts: str) -> int:
        """Bytes of a file; -1 if it is not there."""
        info = self.with_retries(lambda: self.fs.get_file_info(self.path(*parts)), *parts)
        return info.size if info.is_file else -1

    @contextlib.contextmanager
    def local_file(self, *parts: str) -> Iterator[Path]:
        """The file on a local disk: itself, or a copy that is removed afterwards.

        Raises:
            StageError: the file is not there.
        """
        if self.is_local and self.exists(*parts):
            yield Path(self.path(*parts))
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, parts[-1])

            def fetch() -> None:
                with self.fs.open_input_stream(self.path(*parts)) as stream, path.open("wb") as target:
                    shutil.copyfileobj(stream, target, _COPIED_BYTES)

            try:
                self.with_retries(fetch, *parts)
            except FileNotFoundError:
                raise StageError(
                    f"{self.display(*parts)} is missing", "Run the stage that writes it first", code="missing"
                ) from None
            yield path

    def read_json(self, *parts: str) -> Any:
        """Content of a JSON file.

        Raises:
            StageError: the file is not there, or is no whole JSON file.
        """
        data = self.read_bytes(*parts)
        try:
            return json.loads(data)
        except ValueError:
            raise self.damaged(*parts, why="it is empty" if not data.strip() else "it is no JSON") from None

    def read_record(self, kind: type[T], *parts: str) -> T:
        """An object of a dataclass from a JSON file. Unknown keys, of a newer version, are ignored.

        Raises:
            StageError: the file is not there, or lacks keys, or is no whole JSON object.
        """
        values = self.read_json(*parts)
        known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]  # T is a dataclass
        if not isinstance(values, dict):
            raise self.damaged(*parts, why="it is no JSON object")
        values = {name: value for name, value in values.items() if name in known}
        missing = [
            name
            for name, f in known.items()
            if name not in values
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise self.damaged(*parts, why=f"it lacks {', '.join(missing)}")
        return kind(**values)

    def damaged(self, *parts: str, why: str) -> StageError:
        """The error for a file that was cut or overwritten, with what makes it again."""
        return StageError(f"{self.display(*parts)} is damaged: {why}", layout.remedy(parts), code="damaged")

    def write_json(self, value: Any, *parts: str) -> None:
        """Write a JSON file, keys in the given order."""
        self.write_bytes((json.dumps(value, indent=2) + "\n").encode(), *parts)

    def create_json(self, value: Any, *parts: str) -> bool:
        """Write a JSON file on a local disk unless it exists, atomically; whether it was written."""
        *folders, name = parts
        folder = Path(self.path(*folders))

        def create() -> bool:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex}-{name}"
            try:
                temporary.write_text(json.dumps(value, indent=2) + "\n")
                os.link(temporary, folder / name)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            return True

        return self.with_retries(create, *parts)

    def read_table(self, *parts: str, columns: list[str] | None = None) -> pa.Table:
        """Content of a Parquet file, in plain types.

        Raises:
            StageError: the file is not there, is no whole Parquet file, or has a column of an extension type: such a
                type may run code of its own when it is decoded, and no table of ours has one.
        """
        data = self.read_bytes(*parts)
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
            foreign = [field.name for field in file.schema_arrow if _is_foreign(field)]
            if not foreign:
                return file.read(columns=columns)
        except (pa.ArrowInvalid, OSError):
            raise self.damaged(*parts, why="it is no whole Parquet file") from None
        raise StageError(
            f"{self.display(*parts)} has columns of extension types: {', '.join(foreign)[:200]}",
            "It was not written by this software; use a workspace of a source that you trust",
            code="foreign",
        )

    def write_table(self, table: pa.Table, *parts: str) -> None:
        """Write a Parquet file (zstd)."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(sink.getvalue().to_pybytes(), *parts)

    def delete(self, *parts: str) -> None:
        """Remove a file, or a folder with all below it; nothing happens if it is not there."""

        def delete() -> None:
            info = self.fs.get_file_info(self.path(*parts))
            if info.type == pafs.FileType.Directory:
                self.fs.delete_dir(info.path)
            elif info.type == pafs.FileType.File:
                self.fs.delete_file(info.path)

        with contextlib.suppress(FileNotFoundError):  # another process removed it first
            self.with_retries(delete, *parts)


def _without_credentials(uri: str) -> str:
    if "://" not in uri:
        return uri
    return without_credentials(uri.partition("?")[0]).rstrip("/")


def _is_foreign(field: pa.Field) -> bool:
    """Whether a column, or a part of it, has an extension type, known to this process or not."""
    inner = [field.type.field(i) for i in range(field.type.num_fields)]
    marked = b"ARROW:extension:name" in (field.metadata or {})
    return marked or isinstance(field.type, pa.BaseExtensionType) or any(map(_is_foreign, inner))


class _ErrorKeepingStream:
    """A stream that keeps the error of a failed write."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written: int = self.stream.write(data)
            return written
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _write_through(write: Callable[[BinaryIO], None], stream: Any) -> None:
    """Write to a stream; a failure raises the file system's error, which PyTorch replaces by one of its own."""
    kept: Any = _ErrorKeepingStream(stream)
    try:
        write(kept)
    except Exception as error:
        if kept.error and error is not kept.error:
            raise kept.error from error
        raise
