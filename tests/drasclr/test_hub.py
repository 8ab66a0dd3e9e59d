"""Weights from a repository on a Hub: a real client, and a server that speaks the Hub's paths and headers."""

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from drasclr import weights
from drasclr.atlas import Atlas
from drasclr.encoder import Encoder

pytest.importorskip("huggingface_hub")

COMMIT = "5e1f" * 10
ATLAS = Atlas(
    size=(99, 99, 99),
    spacing=(1, 1, 1),
    origin=(0, 0, 0),
    direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
    corners_N3=[[0, 0, 0], [1, 1, 1]],
    neighbours_NK=[[1], [0]],
    blocks_N=[0, 0],
    template_sha256="",
)
CARD = {"spacing_mm": 1.0, "hu_window": [-1024, 240], "patch_size": 32, "provenance": {"run": "from the hub"}}


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(experts=2).eval()


@pytest.fixture
def hub(encoder, tmp_path):
    """(environment of a client, requests that were made) for a Hub that holds lung-lab/encoder."""
    content = weights.files(encoder, CARD, atlas=ATLAS, template=b"template")
    requests: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            requests.append(f"{self.command} {self.path}")
            owner, name, _, revision, file = (self.path.lstrip("/").split("/", 4) + [""] * 5)[:5]
            known = f"{owner}/{name}" == "lung-lab/encoder" and revision in ("main", "v1", COMMIT)
            data = content.get(file) if known else None
            self.send_response(200 if data is not None else 404)
            if data is None:
                self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
                data = b""
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    yield environment, requests
    server.shutdown()
    server.server_close()


def client(environment: dict[str, str], code: str) -> subprocess.CompletedProcess:
    """The client reads its settings when it is imported, so it gets an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_load_by_id_and_revision(hub, encoder, tmp_path):
    environment, requests = hub
    patches, locations = torch.rand(2, 1, 32, 32, 32) * 2 - 1, torch.rand(2, 3)
    torch.save((patches, locations), tmp_path / "input.pt")
    code = f"""
import torch, drasclr
patches, locations = torch.load({str(tmp_path / "input.pt")!r})
for name in ("hf://lung-lab/encoder", "hf://lung-lab/encoder@v1"):
    encoder = drasclr.load(name, hu_window=(-1024, 240))
    with torch.no_grad():
        torch.save(encoder(patches, locations), {str(tmp_path / "output.pt")!r})
    print(encoder.card["provenance"]["run"], encoder.atlas.num_locations, encoder.template)
"""
    result = client(environment, code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["from the hub 2 b'template'"] * 2
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "output.pt"), encoder(patches, locations))
    # All files of one commit, and downloaded once.
    assert requests.count(f"GET /lung-lab/encoder/resolve/{COMMIT}/weights.safetensors") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://lung-lab/nothing", "lung-lab/nothing could not be loaded from the Hugging Face Hub"),
        ("hf://lung-lab/encoder@v9", "lung-lab/encoder@v9 could not be loaded from the Hugging Face Hub"),
    ],
)
def test_what_the_hub_does_not_hold_is_said(hub, name, message):
    environment, _ = hub
    code = f"import drasclr\ntry:\n    drasclr.load({name!r})\nexcept FileNotFoundError as error:\n    print(error)"
    result = client(environment, code)
    assert result.returncode == 0, result.stderr
    assert message in result.stdout
