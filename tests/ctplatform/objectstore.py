"""An S3 server on loopback for the tests: objects in memory, spoken to by pyarrow's own S3 client over HTTP.

HeadBucket, HeadObject, GetObject with ranges, PutObject, multipart uploads, DeleteObject(s), ListObjectsV2 with pages.
On demand it answers like an overloaded store.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import socket
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "b"
PAGE = 1000


@dataclass
class Stored:
    """One object."""

    data: bytes
    mtime: float = field(default_factory=time.time)
    _hashed: tuple[bytes, str] | None = field(default=None, repr=False)

    @property
    def etag(self) -> str:
        # Computed once, as a store does when an object is written: a listing would hash all of them each time.
        if self._hashed is None or self._hashed[0] is not self.data:
            self._hashed = self.data, f'"{hashlib.md5(self.data).hexdigest()}"'
        return self._hashed[1]


@dataclass
class Fault:
    """The next `times` requests of a kind are answered with an error, or late."""

    method: str
    part: str
    times: int
    status: int
    seconds: float


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing where a client has gone: tests kill processes amid a transfer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class ObjectStore:
    """The server; `objects` may be looked at and changed at any time.

    `requests` and `clients` are the requests so far, and the port that each came from: one port, one connection.
    """

    def __init__(self, bucket: str = BUCKET, *, port: int = 0) -> None:
        self.bucket = bucket
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.clients: list[int] = []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"store": self})
        self.open: set[socket.socket] = set()
        self.server = _Server(("127.0.0.1", port), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def query(self) -> str:
        """The options that lead pyarrow here."""
        return f"?endpoint_override=127.0.0.1:{self.server.server_port}&scheme=http&region=eu-central-1"

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}{self.query}"

    def public_uri(self, key: str) -> str:
        """The same for reading without an account."""
        return f"s3://anonymous@{self.bucket}/{key}{self.query}"

    def load(self, folder: Path, prefix: str) -> None:
        """Upload a folder."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.objects[f"{prefix}/{file.relative_to(folder).as_posix()}"] = Stored(file.read_bytes())

    def fail(self, method: str, part: str, *, times: int, status: int = 503, seconds: float = 0.0) -> None:
        """Let requests whose key holds `part` fail (status), or only wait (status 0)."""
        self.faults.append(Fault(method, part, times, status, seconds))

    def fault_for(self, method: str, key: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.part in key:
                    fault.times -= 1
                    return fault
        return None

    def end_connections(self) -> None:
        """Close the connections that clients hold, as a server does with those that were idle for long."""
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    store: ObjectStore
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.store.open.add(self.connection)

    def finish(self) -> None:
        self.store.open.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.handle_one()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD

    def handle_one(self) -> None:
        body = self.body()
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        self.store.requests.append(f"{self.command} {key}")
        self.store.clients.append(self.client_address[1])
        fault = self.store.fault_for(self.command, key or query.get("prefix", ""))
        if fault:
            time.sleep(fault.seconds)
            if fault.status:
                self.error(fault.status, "SlowDown", "Please reduce your request rate.")
                return
        if bucket != self.store.bucket:
            self.error(404, "NoSuchBucket", "no such bucket")
            return
        name = {"HEAD": "get", "GET": "get", "PUT": "put", "POST": "post", "DELETE": "remove"}[self.command]
        getattr(self, name)(key, query, body)

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = self.chunks(self.rfile)
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" in self.headers.get("Content-Encoding", "") or "STREAMING" in self.headers.get(
            "x-amz-content-sha256", ""
        ):
            data = self.chunks(io.BytesIO(data))
        return data

    @staticmethod
    def chunks(stream) -> bytes:
        """Sizes in hexadecimal, signatures behind `;`, trailers at the end."""
        parts = []
        while True:
            size = int(stream.readline().split(b";")[0].strip() or b"0", 16)
            if size == 0:
                while stream.readline().strip():
                    pass
                return b"".join(parts)
            parts.append(stream.read(size))
            stream.readline()

    def get(self, key: str, query: dict[str, str], body: bytes) -> None:
        if not key:
            self.send(200, self.listing(query) if "list-type" in query else b"", kind="application/xml")
            return
        found = self.store.objects.get(key)
        if found is None:
            self.error(404, "NoSuchKey", "no such key")
            return
        data, span = found.data, self.headers.get("Range")
        if span:
            first, _, last = span.removeprefix("bytes=").partition("-")
            data = data[int(first) : int(last) + 1 if last else None]
        self.send(206 if span else 200, data, found=found)

    def put(self, key: str, query: dict[str, str], body: bytes) -> None:
        if "uploadId" in query:
            self.store.uploads[query["uploadId"]][int(query["partNumber"])] = body
            self.send(200, b"", found=Stored(body))
        else:
            self.store.objects[key] = Stored(body)
            self.send(200, b"", found=self.store.objects[key])

    def post(self, key: str, query: dict[str, str], body: bytes) -> None:
        if "uploads" in query:
            upload = uuid.uuid4().hex
            self.store.uploads[upload] = {}
            text = (
                f"<Bucket>{self.store.bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
            )
            self.xml("InitiateMultipartUploadResult", text)
        elif "uploadId" in query:
            parts = self.store.uploads.pop(query["uploadId"])
            self.store.objects[key] = Stored(b"".join(parts[number] for number in sorted(parts)))
            text = f"<Key>{escape(key)}</Key><ETag>{escape(self.store.objects[key].etag)}</ETag>"
            self.xml("CompleteMultipartUploadResult", text)
        else:
            keys = re.findall(r"<Key>(.*?)</Key>", body.decode())
            for name in keys:
                self.store.objects.pop(name, None)
            self.xml("DeleteResult", "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in keys))

    def remove(self, key: str, query: dict[str, str], body: bytes) -> None:
        if "uploadId" in query:
            self.store.uploads.pop(query["uploadId"], None)
        else:
            self.store.objects.pop(key, None)
        self.send(204, b"")

    def listing(self, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        limit, after = int(query.get("max-keys", PAGE)), query.get("continuation-token", "")
        entries: dict[str, str] = {}
        for key in sorted(self.store.objects):
            found = self.store.objects.get(key)
            if found is None or not key.startswith(prefix):
                continue
            head, mark, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if mark:
                name = prefix + head + mark
                entries[name] = f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            else:
                when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.mtime))
                entries[key] = (
                    f"<Contents><Key>{escape(key)}</Key><Size>{len(found.data)}</Size>"
                    f"<LastModified>{when}</LastModified><ETag>{escape(found.etag)}</ETag></Contents>"
                )
        names = [name for name in sorted(entries) if name > after]
        page = names[: min(limit, PAGE)]
        more = len(names) > len(page)
        text = f"<Name>{BUCKET}</Name><KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
        if more:
            text += f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
        text += "".join(entries[name] for name in page)
        return f"<ListBucketResult>{text}</ListBucketResult>".encode()

    def xml(self, name: str, text: str) -> None:
        self.send(200, f"<{name}>{text}</{name}>".encode(), kind="application/xml")

    def error(self, status: int, code: str, text: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
        self.send(status, body, kind="application/xml")

    def send(
        self, status: int, data: bytes, *, kind: str = "application/octet-stream", found: Stored | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", kind)
        if found:
            self.send_header("Last-Modified", formatdate(found.mtime, usegmt=True))
            self.send_header("ETag", found.etag)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
