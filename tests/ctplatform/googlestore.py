"""A Google Cloud Storage server on loopback for the tests, spoken to by pyarrow's own client; objects are files.

The part of the JSON API that a workspace needs: metadata, listing, downloads with ranges, resumable uploads, deletion.
It is a process of its own (`python googlestore.py FOLDER`), since pyarrow's client does not let other Python threads
run while it waits.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, MutableMapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

BUCKET = "bucket"


class Objects(MutableMapping[str, bytes]):
    """Key -> content, a file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, key: str) -> Path:
        return self.folder / quote(key, safe="")

    def __getitem__(self, key: str) -> bytes:
        try:
            return self._file(key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, data: bytes) -> None:
        self._file(key).write_bytes(data)

    def __delitem__(self, key: str) -> None:
        self._file(key).unlink()

    def __iter__(self) -> Iterator[str]:
        return (unquote(file.name) for file in sorted(self.folder.iterdir()))

    def __len__(self) -> int:
        return len(list(self.folder.iterdir()))


class GoogleStore:
    """The server; `objects` may be looked at and changed at any time."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.objects = Objects(folder)
        command = [sys.executable, __file__, str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def uri(self, key: str) -> str:
        """What leads pyarrow here, without credentials."""
        options = f"endpoint_override=127.0.0.1:{self.port}&scheme=http&retry_limit_seconds=5"
        return f"gs://anonymous@{BUCKET}/{key}?{options}"

    def load(self, folder: Path, prefix: str) -> None:
        """Upload a folder."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.objects[f"{prefix}/{file.relative_to(folder).as_posix()}"] = file.read_bytes()

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: Objects
    uploads: dict[str, tuple[str, bytearray]]

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
            "size": str(len(self.objects[key])),
            "md5Hash": base64.b64encode(hashlib.md5(self.objects[key]).digest()).decode(),
            "timeCreated": "2026-01-01T00:00:00Z",
            "updated": "2026-01-01T00:00:00Z",
        }

    def parts(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self.path)
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
            if key not in self.objects:
                self.missing()
            elif media:
                self.download(self.objects[key])
            else:
                self.tell(self.about(key))

    def listing(self, prefix: str, delimiter: str) -> None:
        keys = [key for key in sorted(self.objects) if key.startswith(prefix)]
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
        self.uploads[token] = (query["name"], bytearray())
        place = f"http://{self.headers['Host']}/upload/storage/v1/b/{BUCKET}/o?upload_id={token}"
        self.answer(200, Location=place)

    def do_PUT(self) -> None:
        _, query = self.parts()
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key, got = self.uploads[query["upload_id"]]
        got.extend(data)
        if (self.headers.get("Content-Range") or "/0").endswith("/*"):  # more to come
            self.answer(308, **({"Range": f"bytes=0-{len(got) - 1}"} if got else {}))
        else:
            self.objects[key] = bytes(got)
            self.tell(self.about(key))

    def do_DELETE(self) -> None:
        path, _ = self.parts()
        key = unquote(path.removeprefix(f"/storage/v1/b/{BUCKET}/o/"))
        if self.objects.pop(key, None) is None:
            self.missing()
        else:
            self.answer(204)


def main() -> None:
    """Serve a folder until terminated; the port is the only line that is printed."""
    handler = type("Handler", (_Handler,), {"objects": Objects(Path(sys.argv[1])), "uploads": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
