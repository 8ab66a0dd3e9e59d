"""Scans and tables on an object store, through pyarrow's own S3 client and a small S3 server on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
import SimpleITK as sitk

from ctplatform.cohort import read_cohort
from ctplatform.dicom import write_dicom_series
from ctplatform.errors import CohortError, ScanError
from ctplatform.volume import content_hash, read_volume
from tests.ctplatform.scans import chest


class Bucket(BaseHTTPRequestHandler):
    """The reading half of S3: HeadObject, GetObject with ranges, ListObjectsV2; objects are files below `root`."""

    root: Path
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        url = urlsplit(self.path)
        key = unquote(url.path).strip("/").partition("/")[2]
        query = parse_qs(url.query)
        if "list-type" in query:
            self.send(200, self.listing(query), kind="application/xml", body=body)
            return
        file = self.root / key
        if not key:
            self.send(200, b"", body=body)
        elif not file.is_file():
            self.send(404, b"<Error><Code>NoSuchKey</Code></Error>", kind="application/xml", body=body)
        else:
            data = file.read_bytes()
            span = self.headers.get("Range")
            if span:
                first, _, last = span.removeprefix("bytes=").partition("-")
                data = data[int(first) : int(last) + 1 if last else None]
            self.send(206 if span else 200, data, body=body)

    def listing(self, query: dict[str, list[str]]) -> bytes:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        keys = sorted(f.relative_to(self.root).as_posix() for f in self.root.rglob("*") if f.is_file())
        keys = [k for k in keys if k.startswith(prefix)]
        folders = {
            prefix + k[len(prefix) :].split("/")[0] + "/"
            for k in keys
            if delimiter and "/" in k[len(prefix) :]
        }
        files = [k for k in keys if not delimiter or "/" not in k[len(prefix) :]]
        contents = "".join(
            f"<Contents><Key>{escape(k)}</Key><Size>{(self.root / k).stat().st_size}</Size>"
            "<LastModified>2020-01-01T00:00:00Z</LastModified></Contents>"
            for k in files
        )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders)
        )
        count = f"<KeyCount>{len(files) + len(folders)}</KeyCount><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult><Name>b</Name>{count}{contents}{common}</ListBucketResult>".encode()

    def send(self, status: int, data: bytes, *, kind: str = "application/octet-stream", body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", kind)
        self.send_header("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT")
        self.send_header("ETag", '"1"')
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the query that leads pyarrow to the server which shows it as s3://b/."""
    root = tmp_path / "bucket"
    root.mkdir()
    handler = type("OneBucket", (Bucket,), {"root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield root, f"?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=eu-central-1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_volumes_series_and_tables_on_s3(bucket: tuple[Path, str]) -> None:
    root, query = bucket
    (root / "in").mkdir()
    sitk.WriteImage(chest(), str(root / "in" / "a.nii.gz"))
    write_dicom_series(chest(), root / "in" / "series")
    (root / "in" / "cohort.csv").write_text("scan_id,path\na,a.nii.gz\nb,/data/b\n")
    local = content_hash(read_volume(root / "in" / "a.nii.gz"))
    assert content_hash(read_volume(f"s3://b/in/a.nii.gz{query}")) == local
    assert content_hash(read_volume(f"s3://b/in/series{query}")) == local
    cohort = read_cohort(f"s3://b/in/cohort.csv{query}")
    assert list(cohort["path"]) == [f"s3://b/in/a.nii.gz{query}", "/data/b"]
    assert content_hash(read_volume(cohort["path"][0])) == local


def test_what_is_missing_on_s3(bucket: tuple[Path, str]) -> None:
    root, query = bucket
    (root / "other.txt").write_text("x")
    with pytest.raises(ScanError) as scan:
        read_volume(f"s3://b/in/none.nii.gz{query}")
    assert scan.value.code == "missing-path"
    with pytest.raises(ScanError) as scan:
        read_volume(f"s3://b/in/none.mhd{query}")
    assert scan.value.code == "unknown-format"
    with pytest.raises(CohortError) as table:
        read_cohort(f"s3://b/in/none.csv{query}")
    assert table.value.code == "missing-path"
