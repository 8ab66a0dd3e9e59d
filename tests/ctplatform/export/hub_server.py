"""A server with the paths of the Hugging Face Hub that an upload and a download use, on loopback."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN, COMMIT = "hf_of_this_test", "c0de" * 10


@dataclass
class Hub:
    """What clients have left on the server.

    Attributes:
        environment: of a client's process.
        visibilities: of the repositories that were made.
        files: path in the repository -> content.
        large: those that were uploaded as large files.
        messages: of the commits.
    """

    environment: dict[str, str] = field(default_factory=dict)
    visibilities: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)


@contextlib.contextmanager
def running(cache: Path) -> Iterator[Hub]:
    """A Hub with one empty repository for lung-lab/encoder, and a client's environment with its token."""
    hub, objects = Hub(), dict[str, bytes]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer(401, {"error": "Invalid credentials"})
            elif self.path == "/api/repos/create":
                asked = json.loads(body)
                # The client's versions say it in two ways.
                hub.visibilities.append(
                    asked.get("visibility") or ("private" if asked.get("private") else "public")
                )
                self.answer(200, {"url": f"{address}/lung-lab/encoder"})
            elif self.path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif self.path.startswith("/api/models/lung-lab/encoder/preupload/main"):
                names = [file["path"] for file in json.loads(body)["files"]]
                modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
                files = [{"path": n, "uploadMode": modes[n], "shouldIgnore": False} for n in names]
                self.answer(200, {"files": files})
            elif self.path == "/lung-lab/encoder.git/info/lfs/objects/batch":
                listed = [
                    {**item, "actions": {"upload": {"href": f"{address}/objects/{item['oid']}"}}}
                    for item in json.loads(body)["objects"]
                ]
                self.answer(200, {"transfer": "basic", "objects": listed})
            elif self.path.startswith("/api/models/lung-lab/encoder/commit/main"):
                self.commit([json.loads(line) for line in body.splitlines()])
            else:
                self.answer(404, {"error": f"no {self.path}"})

        def commit(self, items: list[dict[str, Any]]) -> None:
            for item in items:
                value = item["value"]
                if item["key"] == "header":
                    hub.messages.append(value["summary"])
                elif item["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    hub.files[value["path"]] = objects[value["oid"]]
                    hub.large.add(value["path"])
            url = f"{address}/lung-lab/encoder/commit/{COMMIT}"
            self.answer(200, {"commitUrl": url, "commitOid": COMMIT})

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            oid = self.path.rpartition("/")[2]
            assert hashlib.sha256(data).hexdigest() == oid
            objects[oid] = data
            self.answer(200, {})

        def do_HEAD(self) -> None:
            self.resolve(body=False)

        def do_GET(self) -> None:
            self.resolve(body=True)

        def resolve(self, *, body: bool) -> None:
            data = hub.files.get(self.path.rpartition("/")[2]) if "/resolve/" in self.path else None
            self.send_response(404 if data is None else 200)
            if data is None:
                self.send_header("X-Error-Code", "EntryNotFound")
                data = b""
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def answer(self, status: int, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "HF_ENDPOINT": address,
        "HF_HOME": str(cache),
        "HF_TOKEN": TOKEN,
        # The protocol with one commit; the other one needs servers of its own.
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
