"""A Google Cloud Storage server on loopback for the tests: objects in memory, spoken to by pyarrow's own client.

The part of the JSON API that a workspace needs: metadata, listing, downloads with ranges, resumable uploads, deletion.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "bucket"


class GoogleStore:
    """The server; `objects` may be looked at at any time."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        self.requests: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def uri(self, key: str) -> str:
        """What leads pyarrow here, without credentials."""
        port = self.server.server_port
        return f"gs://anonymous@{BUCKET}/{key}?endpoint_override=127.0.0.1:{port}&scheme=http&retry_limit_seconds=5"

    def load(self, folder: Path, prefix: str) -> None:
        """Upload a folder."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.objects[f"{prefix}/{file.relative_to(folder).as_posix()}"] = file.read_bytes()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: GoogleStore

    def log_message(self, *_: object) -> None:
        """Silent."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def tell(self, value: dict, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def missing(self) -> None:
        self.tell({"error": {"code": 404, "message": "not found"}}, 404)

    def about(self, key: str) -> dict:
        return {
            "kind": "storage#object",
            "bucket": BUCKET,
            "name": key,
            "generation": "1",
            "size": str(len(self.store.objects[key])),
            "timeCreated": "2026-01-01T00:00:00Z",
            "updated": "2026-01-01T00:00:00Z",
        }

    def parts(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self.path)
        self.store.requests.append(f"{self.command} {unquote(url.path)}")
        return url.path, {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}

    def do_GET(self) -> None:
        path, query = self.parts()
        if path == f"/storage/v1/b/{BUCKET}":
            self.tell({"kind": "storage#bucket", "name": BUCKET})
        elif path == f"/storage/v1/b/{BUCKET}/o":
            self.listing(query.get("prefix", ""), query.get("delimiter", ""))
        else:
            media = query.get("alt") == "media" or path.startswith(f"/{BUCKET}/")
            key = unquote(re.sub(rf"^(/download)?(/storage/v1/b/{BUCKET}/o|/{BUCKET})/", "", path))
            if key not in self.store.objects:
                self.missing()
            elif media:
                self.download(self.store.objects[key])
            else:
                self.tell(self.about(key))

    def listing(self, prefix: str, delimiter: str) -> None:
        keys = [key for key in sorted(self.store.objects) if key.startswith(prefix)]
        deeper = [key for key in keys if delimiter and delimiter in key[len(prefix) :]]
        folders = {prefix + key[len(prefix) :].split(delimiter)[0] + delimiter for key in deeper}
        items = [self.about(key) for key in keys if key not in deeper]
        self.tell({"kind": "storage#objects", "items": items, "prefixes": sorted(folders)})

    def download(self, data: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self.answer(200, data, x_goog_generation="1")
            return
        first, last = wanted.groups()
        start = int(first) if first else len(data) - int(last)
        end = min(int(last) + 1 if first and last else len(data), len(data))
        span = f"bytes {start}-{end - 1}/{len(data)}"
        self.answer(206, data[start:end], Content_Range=span, x_goog_generation="1")

    def do_POST(self) -> None:
        _, query = self.parts()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = uuid.uuid4().hex
        self.store.uploads[token] = (query["name"], bytearray())
        place = f"http://{self.headers['Host']}/upload/storage/v1/b/{BUCKET}/o?upload_id={token}"
        self.answer(200, Location=place)

    def do_PUT(self) -> None:
        _, query = self.parts()
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key, got = self.store.uploads[query["upload_id"]]
        got.extend(data)
        if (self.headers.get("Content-Range") or "/0").endswith("/*"):  # more to come
            self.answer(308, **({"Range": f"bytes=0-{len(got) - 1}"} if got else {}))
        else:
            self.store.objects[key] = bytes(got)
            self.tell(self.about(key))

    def do_DELETE(self) -> None:
        path, _ = self.parts()
        key = unquote(path.removeprefix(f"/storage/v1/b/{BUCKET}/o/"))
        if self.store.objects.pop(key, None) is None:
            self.missing()
        else:
            self.answer(204)
